"""A thousand agents: a process that starts asks for all of them at once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aos.storage.account
from aos.agents.foundry_agent import PurposeDrivenAgentFoundry
from aos.config import Settings
from aos.foundry.provisioning import Provisioner, definition_hash, foundry_name
from aos.storage.account import StorageAccount
from emulators.foundry import FoundryEmulator
from tests.agents.office import BASE, Office, agent_entry
from tests.foundry.project import Api, Project, running

MANY = 1000
CREATED: dict[Api, str] = {"responses": "POST /agents/{name}/versions", "threads": "POST /assistants"}
LIST: dict[Api, str] = {"responses": "GET /agents", "threads": "GET /assistants"}


@pytest.fixture(params=["responses", "threads"])
async def full(request: pytest.FixtureRequest) -> AsyncIterator[Project]:
    """A project of its own, whose first listing is long."""
    async with running(FoundryEmulator(), request.param) as project:
        yield project


class Requests:
    """Counts requests to the storage account by method and table."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
        self.made: Counter[str] = Counter()
        monkeypatch.setitem(aos.storage.account._BOUNDS, "raw_request_hook", self._count)
        self.account = StorageAccount(settings)

    def _count(self, request: Any) -> None:
        path = request.http_request.url.partition("?")[0].rpartition("/")[2]
        self.made[f"{request.http_request.method} {path.partition('(')[0]}"] += 1


async def furnish(project: Project, office: Office) -> None:
    """Makes the agents behind AOS's back, as an earlier deployment would have left them."""
    registry = await office.directory.registry()
    gate = asyncio.Semaphore(20)

    async def make(agent_id: str) -> None:
        spec = PurposeDrivenAgentFoundry.from_entry(registry.entries[agent_id]).spec(BASE, ())
        metadata = {"aos_app": "aos", "aos_agent": agent_id, "aos_hash": definition_hash(spec)}
        body: dict[str, Any] = {"model": spec.deployment, "instructions": spec.instructions}
        path, name = "assistants", foundry_name(agent_id)
        if project.api == "responses":
            path, body = f"agents/{name}/versions", {"definition": {"kind": "prompt", **body}}
        url = f"/api/projects/local/{path}"
        async with gate:
            made = await project.http.post(
                url, params={"api-version": "v1"}, json={**body, "name": name, "metadata": metadata}
            )
        assert made.status_code == 200, made.text

    await asyncio.gather(*map(make, registry.entries))


async def asked(project: Project) -> Counter[str]:
    return Counter((await project.http.get("/_emulator/calls")).json()["counts"])


@pytest.mark.slow
async def test_a_thousand_known_agents_cost_a_few_requests(
    full: Project, tmp_path: Path, storage_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, mark = f"{full.api}.aos.{uuid.uuid4().hex[:12]}", uuid.uuid4().hex[:8]
    ids = [f"m{mark}n{number}x" for number in range(MANY)]

    async def process() -> tuple[Counter[str], Counter[str], frozenset[str]]:
        """What a new process asks of Foundry and of storage until all agents are ready."""
        requests = Requests(monkeypatch, storage_settings)
        full.adapter = full.any_adapter(Provisioner(requests.account, scope=scope))
        office = Office(tmp_path, full, requests.account)
        office.write(*(agent_entry(agent_id) for agent_id in ids))
        if not (await asked(full))[CREATED[full.api]]:
            await furnish(full, office)
        before, began = await asked(full), time.perf_counter()
        made = await office.directory.look_up(ids)
        looked_up = time.perf_counter()
        bound = [await office.directory.bind(agent_id) for agent_id in ids]
        now = time.perf_counter()
        print(f"{full.api}: {MANY} agents looked up in {looked_up - began:.2f} s, bound in {now - looked_up:.2f} s")
        assert len({one.ref.name for one in bound}) == MANY
        await requests.account.close()
        return (await asked(full)) - before, requests.made, made

    foundry, storage, made = await process()
    assert foundry == {LIST[full.api]: 11}, "one listing of a hundred per page, and none made"
    assert storage["POST $batch"] == 10
    assert storage.total() <= 20, storage
    assert made == set(ids)

    foundry, storage, made = await process()
    assert not foundry, "storage knows them all"
    assert storage.total() <= 8, storage
    assert made == set(ids)


async def test_cold_processes_at_once_make_nothing_twice(
    full: Project, tmp_path: Path, account: StorageAccount
) -> None:
    scope, mark = f"{full.api}.aos.{uuid.uuid4().hex[:12]}", uuid.uuid4().hex[:8]
    ids = [f"m{mark}n{number}x" for number in range(120)]
    offices: list[Office] = []
    for _ in range(8):
        full.adapter = full.any_adapter(Provisioner(account, scope=scope))
        offices.append(Office(tmp_path, full, account))
    offices[0].write(*(agent_entry(agent_id) for agent_id in ids))
    await furnish(full, offices[0])
    before = await asked(full)
    await asyncio.gather(*(office.directory.look_up(ids) for office in offices))
    versions = [[(await office.directory.bind(one)).ref.version for one in ids] for office in offices]
    assert all(version == versions[0] for version in versions)
    assert set((await asked(full)) - before) == {LIST[full.api]}
    assert await Provisioner(account, scope=scope).look_up([], full.adapter) == set(ids), "all are remembered"
