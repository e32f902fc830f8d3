"""What AOS made in Foundry and nobody refers to any more, on an emulated project and Azurite."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import aos.errors
import aos.leftovers
from aos.__main__ import cli
from aos.config import Settings, load_settings
from aos.intake import Ask
from aos.kernel.ports import Change, Lease
from aos.kernel.types import AgentRef, Conversation, ConversationKey, Message, Rollover, Turn
from aos.leftovers import open_leftovers
from aos.routing import NoAgentFits
from aos.storage.account import StorageAccount
from aos.system import AGENT_REGISTRY, SERVER_REGISTRY, AgentOperatingSystem
from emulators.foundry import FoundryEmulator
from tests.agents.office import agent_entry
from tests.foundry.project import Api, Project, running

APIS: tuple[Api, ...] = ("responses", "threads")


@dataclass
class Site:
    """An app of its own in a project, with the means to make things there."""

    project: Project
    settings: Settings
    values: dict[str, str]
    account: StorageAccount
    system: AgentOperatingSystem
    mark: str

    async def registry(self, *entries: dict[str, Any]) -> None:
        for container, name, key, listed in (
            (self.settings.agent_container, AGENT_REGISTRY, "agents", entries),
            (self.settings.mcp_container, SERVER_REGISTRY, "servers", ()),
        ):
            client = await self.account.container(container)
            await client.upload_blob(name, json.dumps({"version": "1.0", key: listed}), overwrite=True)
        await self.system.directory.reload()

    async def state(self, state: Conversation) -> None:
        await self.system.store.commit(state.key, None, Change(state, Lease()))

    async def found(self, *, rolled_over: bool = False) -> list[tuple[str, str]]:
        async with open_leftovers(self.settings, rolled_over=rolled_over) as leftovers:
            return [(leftover.kind, leftover.identity) for leftover in await leftovers.find()]

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of `python -m aos foundry`."""
        runner = CliRunner(env={**dict.fromkeys(os.environ, None), **self.values})
        result = await asyncio.to_thread(runner.invoke, cli, ["foundry", *arguments])
        return result.exit_code, result.output


@pytest.fixture(params=APIS)
async def site(request: pytest.FixtureRequest, own_storage_settings: Settings, tmp_path: Path) -> AsyncIterator[Site]:
    mark = uuid.uuid4().hex[:8]
    async with running(FoundryEmulator(), request.param) as project:
        values = {
            "AZURE_STORAGE_CONNECTION_STRING": own_storage_settings.storage or "",
            "AZURE_AI_PROJECT_ENDPOINT": project.emulator.endpoint,
            "AZURE_AI_API_KEY": "local",
            "AOS_APP_NAME": f"aos{mark}",
            "AOS_ROLES": "agents",
            "FOUNDRY_API": project.api,
            "AGENT_CONFIG_BLOB_CONTAINER": f"agents-{mark}",
            "MCP_REGISTRY_BLOB_CONTAINER": f"servers-{mark}",
        }
        settings = load_settings(values)
        account, system = StorageAccount(settings), AgentOperatingSystem(settings, folder=tmp_path)
        try:
            yield Site(project, settings, values, account, system, mark)
        finally:
            await system.close(0)
            await account.close()


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was made has had its time."""
    monkeypatch.setattr(aos.leftovers, "SETTLED", -60.0)


async def test_an_agent_and_versions_that_nobody_needs_are_found_and_deleted(site: Site, long_ago: None) -> None:
    kept, gone, busy = f"kept{site.mark}x", f"gone{site.mark}x", f"busy{site.mark}x"
    entries = [agent_entry(kept), agent_entry(gone), agent_entry(busy)]
    await site.registry(*entries)
    for agent_id in (kept, gone, busy):
        await site.system.directory.bind(agent_id)
    first = (await site.project.versions(kept))[0]
    assert await site.found() == []
    await site.registry({**entries[0], "purpose": "Another one."})
    second = (await site.system.directory.bind(kept)).ref.version
    turn = Turn(Message("op_x", "hi", 0.0, 1.0), AgentRef(busy, "1", "h", "d"))
    await site.state(Conversation(ConversationKey(busy, "c"), turn=turn))
    name = first if site.project.api == "threads" else f"{kept}:{first}"
    assert await site.found() == [("agent", gone), ("version", name)]
    status, output = await site.command("clean")
    assert (status, gone in output, "Nothing was deleted" in output) == (0, True, True), output
    assert await site.project.versions(gone)
    status, output = await site.command("clean", "--yes")
    assert (status, output.count("deleted")) == (0, 2), output
    assert await site.project.versions(gone) == []
    assert await site.project.versions(kept) == [second]
    assert await site.project.versions(busy)
    assert (await site.command("list")) == (0, "Nothing is left over.\n")


async def test_a_version_stays_as_long_as_a_turn_began_with_it(site: Site, long_ago: None) -> None:
    agent_id = f"kept{site.mark}x"
    await site.registry(agent_entry(agent_id))
    ref = (await site.system.directory.bind(agent_id)).ref
    state = Conversation(ConversationKey(agent_id, "c"), turn=Turn(Message("op_x", "hi", 0.0, 1.0), ref))
    await site.state(state)
    await site.registry(agent_entry(agent_id, purpose="Another one."))
    await site.system.directory.bind(agent_id)
    assert await site.found() == []


async def test_who_chooses_agents_for_messages_is_no_leftover(site: Site, long_ago: None) -> None:
    await site.registry(*(agent_entry(f"{name}{site.mark}x") for name in ("one", "two")))
    with pytest.raises(NoAgentFits, match="its answer was unusable"):
        await site.system.router.query(Ask(message="Who knows?"), caller="anybody", idempotency_key=None)
    assert await site.found() == []


async def test_what_was_just_made_is_left_alone(site: Site) -> None:
    agent_id = f"kept{site.mark}x"
    await site.registry(agent_entry(agent_id))
    await site.system.directory.bind(agent_id)
    await site.registry(agent_entry(agent_id, purpose="Another one."))
    await site.system.directory.bind(agent_id)
    await site.project.any_adapter(app_name=site.settings.app_name).open_conversation(ConversationKey(agent_id, "c"))
    assert await site.found() == []


async def test_threads_and_conversations_that_were_left_are_found(site: Site, long_ago: None) -> None:
    key = ConversationKey(f"kept{site.mark}x", "c")
    await site.registry(agent_entry(key.agent_id))
    ours = site.project.any_adapter(app_name=site.settings.app_name)
    used, left, lost, older = [await ours.open_conversation(key) for _ in range(4)]
    theirs = await site.project.any_adapter(app_name="another").open_conversation(key)
    await site.state(Conversation(key, used, rollovers=(Rollover(1.0, left, 3, "summary"),), left=(older,)))
    listed = [("thread", lost)] if site.project.api == "threads" else []
    # Others of this storage account, of other tests, may have been left, too.
    assert [found for found in await site.found() if found[0] != "conversation"] == listed
    assert {("conversation", left), ("conversation", older)} <= {*await site.found(rolled_over=True)}
    async with open_leftovers(site.settings, rolled_over=True) as leftovers:
        for leftover in await leftovers.find():
            if leftover.identity in (used, left, lost, older, theirs):
                assert await leftovers.remove(leftover)
    assert await ours.items_after(used, None) == []
    assert await ours.items_after(theirs, None) == []
    with pytest.raises(aos.errors.ConversationGone):
        await ours.items_after(left, None)


async def test_without_a_readable_registry_nothing_is_said(site: Site) -> None:
    status, output = await site.command("list")
    assert status == 2
    assert AGENT_REGISTRY in output


async def test_an_entry_that_does_not_say_whose_it_is_keeps_all_agents(site: Site, long_ago: None) -> None:
    gone = f"gone{site.mark}x"
    await site.registry(agent_entry(gone))
    await site.system.directory.bind(gone)
    await site.registry({"purpose": "?"})
    status, output = await site.command("list")
    assert status == 0
    assert "Agents are left alone" in output
    assert "Nothing is left over." in output
