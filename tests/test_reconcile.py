"""The whole system on an emulated project and Azurite: what a reconcile does to Foundry."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

import aos.agents.departures
from aos.config import Settings, load_settings
from aos.storage.account import StorageAccount
from aos.system import AGENT_REGISTRY, SERVER_REGISTRY, AgentOperatingSystem
from emulators.foundry import FoundryEmulator
from tests.agents.office import agent_entry
from tests.foundry.project import Api, Project, running

APIS: tuple[Api, ...] = ("responses", "threads")


@pytest.fixture(params=APIS)
async def project(request: pytest.FixtureRequest) -> AsyncIterator[Project]:
    async with running(FoundryEmulator(), request.param) as project:
        yield project


async def put(account: StorageAccount, container: str, name: str, key: str, entries: Sequence[object]) -> None:
    client = await account.container(container)
    await client.upload_blob(name, json.dumps({"version": "1.0", key: entries}), overwrite=True)


async def test_agents_are_made_kept_and_removed_as_the_registry_says(
    project: Project, storage_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aos.agents.departures, "APART", 0.0)
    mark = uuid.uuid4().hex[:8]
    settings = load_settings(
        {
            "AZURE_STORAGE_CONNECTION_STRING": storage_settings.storage or "",
            "AZURE_AI_PROJECT_ENDPOINT": project.emulator.endpoint,
            "AZURE_AI_API_KEY": "local",
            "AOS_APP_NAME": f"aos{mark}",
            "AOS_ROLES": "agents",
            "FOUNDRY_API": project.api,
            "AGENT_CONFIG_BLOB_CONTAINER": f"agents-{mark}",
            "MCP_REGISTRY_BLOB_CONTAINER": f"servers-{mark}",
        }
    )
    account = StorageAccount(settings)
    system = AgentOperatingSystem(settings, folder=tmp_path)
    kept, leaving = f"kept{mark}x", f"leaving{mark}x"
    try:
        await put(account, settings.mcp_container, SERVER_REGISTRY, "servers", [])
        await put(
            account, settings.agent_container, AGENT_REGISTRY, "agents", [agent_entry(kept), agent_entry(leaving)]
        )
        await system.reconcile()
        assert await project.versions(kept)
        assert await project.versions(leaving)
        await put(account, settings.agent_container, AGENT_REGISTRY, "agents", [agent_entry(kept)])
        await system.reconcile()
        assert await project.versions(leaving), "once is not enough"
        assert (await system.commands.reload())["leaving"] == [leaving]
        await system.reconcile()
        assert await project.versions(leaving) == []
        assert await project.versions(kept)
        told = await system.commands.reload()
        assert (told["leaving"], told["problems"]) == ([], [])
        container = await account.container(settings.agent_container)
        await container.upload_blob(AGENT_REGISTRY, b'{"agents": [', overwrite=True)
        (problem,) = (await system.commands.reload())["problems"]
        assert (problem["pointer"], problem["agent_id"]) == ("", None)
        assert problem["detail"].startswith(f"blob agents-{mark}/{AGENT_REGISTRY}: The document is not JSON")
        await put(account, settings.agent_container, AGENT_REGISTRY, "agents", [{"agent_id": kept}])
        problems = (await system.commands.reload())["problems"]
        assert {problem["agent_id"] for problem in problems} == {kept}
    finally:
        await system.close(0)
        await account.close()
