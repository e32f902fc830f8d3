from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos.errors import AgentGone, AgentNotReady, FoundryRefused, FoundryUnavailable
from aos.foundry.provisioning import KnownAgent, Provisioner, definition_hash, foundry_name
from aos.kernel.ports import AgentSpec
from aos.kernel.types import ConversationKey
from aos.storage.account import StorageAccount
from tests.foundry.project import LOOKUP, Project, spec

CREATE = "POST /agents/{name}/versions"
FIND = "GET /agents/{name}"


def unique() -> str:
    """An agent id that no earlier run left in the storage account."""
    return f"a{uuid.uuid4().hex[:12]}z"


async def test_the_same_spec_makes_one_version(project: Project) -> None:
    wanted = spec()
    first = await project.adapter.ensure_agent(wanted)
    found = await project.calls(FIND)
    assert await project.adapter.ensure_agent(wanted) == first
    assert await project.calls(FIND) == found, "the second time needs nobody"
    assert await project.versions(first.name) == ["1"]
    assert (first.name, first.version, first.deployment) == (wanted.agent_id, "1", wanted.deployment)


async def test_another_process_without_memory_finds_it_by_its_hash(project: Project) -> None:
    wanted = spec()
    first = await project.adapter.ensure_agent(wanted)
    assert await project.new_adapter(Provisioner(None)).ensure_agent(wanted) == first
    assert await project.versions(first.name) == ["1"]


async def test_a_changed_spec_makes_a_new_version(project: Project) -> None:
    wanted = spec()
    await project.adapter.ensure_agent(wanted)
    changed = spec(wanted.agent_id, "Be thorough.")
    assert (await project.adapter.ensure_agent(changed)).version == "2"
    assert await project.versions(wanted.agent_id) == ["2", "1"]


async def test_twenty_cold_starts_at_once_make_one_version(project: Project, account: StorageAccount) -> None:
    wanted = spec(unique())
    adapters = [project.new_adapter(Provisioner(account)) for _ in range(20)]
    made = await project.calls(CREATE)
    refs = await asyncio.gather(*(adapter.ensure_agent(wanted) for adapter in adapters))
    assert set(refs) == {refs[0]}
    assert await project.versions(wanted.agent_id) == ["1"]
    assert await project.calls(CREATE) == made + 1


async def test_a_cold_start_asks_storage_and_not_foundry(project: Project, account: StorageAccount) -> None:
    wanted = spec(unique())
    first = await project.new_adapter(Provisioner(account)).ensure_agent(wanted)
    found = await project.calls(FIND)
    assert await project.new_adapter(Provisioner(account)).ensure_agent(wanted) == first
    assert await project.calls(FIND) == found


async def test_an_agent_of_somebody_else_is_not_touched(project: Project) -> None:
    wanted = spec()
    await project.new_adapter(Provisioner(None), app_name="other").ensure_agent(wanted)
    with pytest.raises(FoundryRefused, match=wanted.agent_id) as refused:
        await project.adapter.ensure_agent(wanted)
    assert refused.value.code == "agent_name_taken"
    assert await project.versions(wanted.agent_id) == ["1"]


async def test_a_missing_deployment_names_those_there_are(project: Project) -> None:
    wanted = spec(deployment="llama-3.3-70b-cxo")
    with pytest.raises(FoundryRefused, match=r"no deployment 'llama-3.3-70b-cxo'.*llama-3.3-70b-ceo") as refused:
        await project.adapter.ensure_agent(wanted)
    assert refused.value.code == "deployment_not_found"
    assert await project.versions(wanted.agent_id) == []


async def test_an_agent_that_was_deleted_outside_is_made_again(project: Project, account: StorageAccount) -> None:
    wanted = spec(unique())
    adapter = project.new_adapter(Provisioner(account))
    ref = await adapter.ensure_agent(wanted)
    remote_id = await adapter.open_conversation(ConversationKey(wanted.agent_id, "main"))
    await project.delete_agent(ref.name)
    with pytest.raises(AgentGone):
        await adapter.respond(ref, remote_id, (), "hello", 10)
    assert await adapter.ensure_agent(wanted) == ref, "nobody told it yet"
    await adapter.forget_agent(wanted.agent_id)
    again = await adapter.ensure_agent(wanted)
    assert await project.versions(ref.name) == [again.version]
    assert (await adapter.respond(again, remote_id, (), "@say back", 10)).text == "back"


async def test_forgetting_what_nobody_knows_is_harmless(account: StorageAccount) -> None:
    await Provisioner(account).forget(unique())


async def test_a_failure_frees_the_lease(project: Project, account: StorageAccount) -> None:
    wanted = spec(unique())
    await project.fail(503, f"/agents/{wanted.agent_id}/versions")
    with pytest.raises(FoundryUnavailable):
        await project.new_adapter(Provisioner(account)).ensure_agent(wanted)
    async with asyncio.timeout(30):
        assert (await project.new_adapter(Provisioner(account)).ensure_agent(wanted)).version == "1"


class Maker:
    """A Foundry that takes as long as the test wants to make an agent."""

    def __init__(self) -> None:
        self.asked, self.may_end = asyncio.Event(), asyncio.Event()

    async def list_agents(self) -> Mapping[str, KnownAgent]:
        return {}

    async def find_agent(self, name: str) -> KnownAgent | None:
        return None

    async def delete_agent(self, name: str) -> bool:
        return False

    async def create_agent(self, name: str, spec: AgentSpec, definition_hash: str) -> str:
        self.asked.set()
        await self.may_end.wait()
        return "7"


class FastClock:
    """A clock on which waiting takes no time."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)


async def test_whoever_waits_too_long_for_another_process_says_so(account: StorageAccount) -> None:
    wanted, maker, clock = spec(unique()), Maker(), FastClock()
    slow = asyncio.create_task(Provisioner(account, clock).ensure(wanted, maker))
    await maker.asked.wait()
    with pytest.raises(AgentNotReady) as waited:
        await Provisioner(account, clock).ensure(wanted, maker)
    assert waited.value.retry_after
    maker.may_end.set()
    assert (await slow).version == "7"


async def test_the_lease_of_a_dead_process_is_taken_over(account: StorageAccount) -> None:
    wanted, maker, clock = spec(unique()), Maker(), FastClock()
    dead = asyncio.create_task(Provisioner(account, clock).ensure(wanted, maker))
    await maker.asked.wait()
    clock.time += 61.0
    second = Maker()
    second.may_end.set()
    assert (await Provisioner(account, clock).ensure(wanted, second)).version == "7"
    maker.may_end.set()
    assert (await dead).version == "7", "it finds out that the row is no longer its own"


async def test_a_row_that_is_forgotten_while_the_agent_is_made(account: StorageAccount) -> None:
    wanted, maker = spec(unique()), Maker()
    making = asyncio.create_task(Provisioner(account).ensure(wanted, maker))
    await maker.asked.wait()
    await Provisioner(account).forget(wanted.agent_id)
    maker.may_end.set()
    assert (await making).version == "7"


async def test_a_row_that_is_forgotten_while_the_agent_is_made_keeps_nobody_waiting(account: StorageAccount) -> None:
    maker, wanted = Maker(), spec(unique())
    making = asyncio.create_task(Provisioner(account).ensure(wanted, maker))
    await asyncio.wait_for(maker.asked.wait(), 30)
    # Another process, too, was told by Foundry that the agent is gone.
    other = Provisioner(account)
    await other.forget(wanted.agent_id)
    maker.may_end.set()
    made = await making
    maker.asked.clear()
    async with asyncio.timeout(30):
        assert await other.ensure(wanted, maker) == made
    assert not maker.asked.is_set(), "it need not be made once more"


def test_the_hash_is_of_what_makes_the_agent() -> None:
    one = spec("a")
    assert definition_hash(one) == definition_hash(spec("b"))
    others = [spec("a", "Other."), spec("a", deployment="other"), AgentSpec("a", one.deployment, one.instructions, ())]
    assert len({definition_hash(each) for each in (one, *others)}) == 4
    twice = AgentSpec("a", one.deployment, one.instructions, (LOOKUP, LOOKUP))
    assert definition_hash(twice) != definition_hash(one)


agent_ids = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,47}", fullmatch=True)
VALID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@given(st.sets(agent_ids, max_size=8))
def test_names_are_valid_and_no_two_ids_share_one(ids: set[str]) -> None:
    # Names that were made are ids too: they must not be somebody else's name.
    ids |= {name for name in map(foundry_name, ids) if len(name) <= 48}
    names = [foundry_name(agent_id) for agent_id in ids]
    assert all(VALID.fullmatch(name) for name in names)
    assert len(set(names)) == len(ids)


@given(st.text(min_size=1))
def test_any_text_has_a_valid_name(text: str) -> None:
    assert VALID.fullmatch(foundry_name(text))


@pytest.mark.parametrize(
    ("agent_id", "name"),
    [
        ("ceo", "ceo"),
        ("vice-ceo", "vice-ceo"),
        ("vice_ceo", f"vice-ceo-{hashlib.sha256(b'vice_ceo').hexdigest()[:8]}"),
        ("ceo-", f"ceo-{hashlib.sha256(b'ceo-').hexdigest()[:8]}"),
    ],
)
def test_a_name_stays_what_it_is(agent_id: str, name: str) -> None:
    assert foundry_name(agent_id) == name
