from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos.agents.departures import APART, Departures
from aos.foundry.provisioning import Provisioner
from aos.kernel.ports import Acceptance
from aos.kernel.types import ConversationKey, Message
from aos.storage.account import StorageAccount
from aos.storage.memory import MemoryConversations
from tests.agents.office import Office, agent_entry
from tests.foundry.project import Api, Project


class Branch(Office):
    """An office whose agents are remembered in storage, and which lets them go."""

    def __init__(self, folder: Path, project: Project, account: StorageAccount) -> None:
        scope = f"{project.api}.aos.{uuid.uuid4().hex[:12]}"
        project.adapter = project.any_adapter(Provisioner(account, scope=scope))
        super().__init__(folder, project, account)
        self.clock.stand()
        self.store = MemoryConversations(self.clock)
        self.departures = self.restarted(account, scope)
        self.kept, self.leaving = (f"a{uuid.uuid4().hex[:12]}z" for _ in range(2))
        self.account, self.scope = account, scope

    def restarted(self, account: StorageAccount, scope: str) -> Departures:
        return Departures(account, scope, self.directory, self.store, self.clock)

    def employ(self, *agent_ids: str) -> None:
        self.write(*(agent_entry(agent_id) for agent_id in agent_ids))
        self.later(APART + 1)

    async def reconcile(self) -> list[str]:
        """What `AgentOperatingSystem.reconcile` does; returns who was removed."""
        registry = await self.directory.registry()
        made = await self.directory.look_up([entry.agent_id for entry in registry.enabled])
        for entry in registry.enabled:
            await self.directory.bind(entry.agent_id)
        return await self.departures.look(made)

    async def opened(self) -> None:
        self.employ(self.kept, self.leaving)
        assert await self.reconcile() == []

    async def is_there(self, agent_id: str) -> bool:
        return bool(await self.project.versions(agent_id))


@pytest.fixture(params=["responses", "threads"])
async def branch(request: pytest.FixtureRequest, tmp_path: Path, project: Project, account: StorageAccount) -> Branch:
    api: Api = request.param
    return Branch(tmp_path, Project(project.emulator, api), account)


@pytest.fixture(autouse=True)
async def closed(branch: Branch) -> AsyncIterator[None]:
    yield
    await branch.project.close()


async def test_who_left_goes_at_the_second_look_and_comes_back_when_it_is_hired_again(branch: Branch) -> None:
    await branch.opened()
    branch.employ(branch.kept)
    assert await branch.reconcile() == []
    assert await branch.departures.waiting() == [branch.leaving]
    assert await branch.is_there(branch.leaving)
    assert await branch.reconcile() == [], "too soon"
    branch.later(APART)
    branch.departures = branch.restarted(branch.account, branch.scope)
    assert await branch.reconcile() == [branch.leaving], "the first look was of another process"
    assert not await branch.is_there(branch.leaving)
    assert await branch.is_there(branch.kept)
    assert await branch.departures.waiting() == []
    branch.later(APART)
    assert await branch.reconcile() == []
    branch.employ(branch.kept, branch.leaving)
    assert await branch.reconcile() == []
    bound = await branch.directory.bind(branch.leaving)
    assert await branch.project.versions(branch.leaving) == [bound.ref.version]


async def test_who_comes_back_in_between_stays(branch: Branch) -> None:
    await branch.opened()
    branch.employ(branch.kept)
    await branch.reconcile()
    branch.employ(branch.kept, branch.leaving)
    assert await branch.reconcile() == []
    assert await branch.departures.waiting() == []
    branch.employ(branch.kept)
    assert await branch.reconcile() == [], "it counts from the beginning"
    assert await branch.is_there(branch.leaving)


@pytest.mark.parametrize("how", ["disabled", "bad entry", "nameless entry", "bad file", "no file"])
async def test_only_who_is_surely_gone_goes(branch: Branch, how: str, tmp_path: Path) -> None:
    await branch.opened()
    file = tmp_path / "agents.json"
    kept = agent_entry(branch.kept)
    for _ in range(3):
        if how == "disabled":
            branch.write(kept, agent_entry(branch.leaving, enabled=False))
        elif how == "bad entry":
            branch.write(kept, agent_entry(branch.leaving, purpose=7))
        elif how == "nameless entry":
            branch.write(kept, {"purpose": "Whose?"})
        elif how == "bad file":
            file.write_text("{")
        else:
            file.unlink(missing_ok=True)
        branch.later(APART + 1)
        assert await branch.reconcile() == []
    assert await branch.is_there(branch.leaving)
    assert await branch.departures.waiting() == []


async def test_who_has_a_turn_in_work_stays_until_it_ends(branch: Branch) -> None:
    await branch.opened()
    key = ConversationKey(branch.leaving, "main")
    now = branch.clock.now()
    message = Message("op_1", "hello", now, now + 600)
    await branch.store.accept(Acceptance(key, message, "f"))
    branch.employ(branch.kept)
    for _ in range(3):
        assert await branch.reconcile() == []
        branch.later(APART + 1)
    assert await branch.is_there(branch.leaving)
    (entry,) = await branch.store.due(branch.clock.now() + 1e6, 10)
    await branch.store.move_due(entry, None)
    assert await branch.reconcile() == [branch.leaving]


async def test_a_foundry_that_is_away_is_asked_again(branch: Branch) -> None:
    await branch.opened()
    branch.employ(branch.kept)
    await branch.reconcile()
    branch.later(APART + 1)
    await branch.project.fail(503, branch.leaving if branch.project.api == "responses" else "/assistants/", times=9)
    assert await branch.reconcile() == []
    await branch.project.heal()
    assert await branch.departures.waiting() == [branch.leaving]
    assert await branch.reconcile() == [branch.leaving]
    assert not await branch.is_there(branch.leaving)


async def test_a_hundred_and_more_may_leave_at_once(branch: Branch) -> None:
    made = [f"{branch.leaving}{number}" for number in range(130)]
    branch.employ(branch.kept)
    assert await branch.departures.look(made) == []
    assert await branch.departures.waiting() == sorted(made)
    assert await branch.departures.look([]) == []
    assert await branch.departures.waiting() == []


async def test_the_newest_registry_decides(branch: Branch) -> None:
    await branch.opened()
    made = frozenset({branch.kept, branch.leaving})
    branch.employ(branch.kept)
    await branch.reconcile()
    branch.later(APART)
    await branch.directory.registry()
    branch.write(agent_entry(branch.kept), agent_entry(branch.leaving))
    branch.later(1.5)
    assert branch.leaving not in (await branch.directory.registry()).entries, "this process has not seen it yet"
    assert await branch.departures.look(made) == []
    assert await branch.is_there(branch.leaving)
