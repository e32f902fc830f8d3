"""What this app made in Foundry and nobody refers to any more: found, and deleted where an operator wants that.

Agents are known from their rows (`aosagents`), which are written before an agent is made; versions and threads from the
service, by the app's name in their metadata; conversations from the state of those that replaced them. What is younger
than an hour, or belongs to a turn in work, is left alone, as is everything that does not carry the app's name.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from aos.agents.runtimes import open_runtime
from aos.config import STORAGE, Settings
from aos.errors import AgentNotReady, FoundryRefused, SettingError
from aos.foundry.clients import FoundryClients
from aos.foundry.inventory import Inventory, Made
from aos.foundry.values import LOCAL
from aos.identity import identity
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import ConversationStore, FoundryPort
from aos.registry.agents import AgentRegistry, parse_agents
from aos.registry.live import LiveRegistry
from aos.registry.source import BlobSource
from aos.routing import ROUTER
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.payloads import STATE_CONTAINER, Payloads

log = logging.getLogger("aos.foundry")

SETTLED = 3600.0
"""Seconds after which whatever was being made is referred to, or never will be."""

Kind = Literal["agent", "version", "thread", "conversation"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that nobody refers to.

    Attributes:
        since: When it was made, or left; None where that is not known.
        version: What is to be deleted of kind `version`.
    """

    kind: Kind
    identity: str
    agent_id: str
    why: str
    since: float | None = None
    version: Made | None = None


@dataclass(slots=True)
class _References:
    """What the conversations refer to."""

    remote: set[str] = field(default_factory=set)
    left: list[Leftover] = field(default_factory=list)
    versions: set[tuple[str, str]] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)


class Leftovers:
    """Compares what the app made with the registry and the conversations.

    Args:
        registry: Of agents, as it is now.
        rolled_over: Count conversations that were rolled over as left; their texts are nowhere else.

    Attributes:
        remarks: What could not be looked at, and why.
    """

    def __init__(
        self,
        store: TableConversations,
        port: FoundryPort,
        inventory: Inventory,
        registry: AgentRegistry,
        clock: Clock | None = None,
        *,
        rolled_over: bool = False,
    ) -> None:
        self._store: ConversationStore = store
        self._keys = store.keys
        self._port = port
        self._inventory = inventory
        self._registry = registry
        self._rolled_over = rolled_over
        self._clock = clock or SystemClock()
        self.remarks: list[str] = []

    async def find(self) -> list[Leftover]:
        """All of it.

        Raises:
            TransientError, FoundryRefused: Storage or Foundry cannot be read; nothing can be said then.
        """
        # In this order: what is listed and then not referred to had all the time to be.
        threads = await self._threads()
        made = await self._port.look_up_agents([])
        versions = {agent_id: await self._inventory.versions(agent_id) for agent_id in sorted(made)}
        references = await self._references()
        found = self._agents(made, references)
        gone = {leftover.agent_id for leftover in found}
        for agent_id, listed in versions.items():
            if agent_id not in gone:
                found += self._superseded(listed, references)
        found += [
            Leftover("thread", thread.identity, thread.agent_id, "no conversation goes on in it", thread.created_at)
            for thread in threads
            if thread.identity not in references.remote and self._settled(thread.created_at)
        ]
        return found + references.left

    async def remove(self, leftover: Leftover) -> bool:
        """Deletes it in Foundry. False: it was gone, or is needed again."""
        match leftover.kind:
            case "agent":
                return await self._port.remove_agent(leftover.agent_id)
            case "version":
                assert leftover.version is not None  # noqa: S101 - made by `find`
                await self._inventory.delete_version(leftover.version)
            case "thread" | "conversation":
                await self._inventory.delete_conversation(leftover.identity)
        return True

    async def _threads(self) -> list[Made]:
        try:
            return [thread async for thread in self._inventory.threads()]
        except FoundryRefused as error:
            self.remarks.append(f"Threads cannot be listed: {error.detail}")
            return []

    async def _references(self) -> _References:
        found = _References()
        async for key in self._keys():
            state = (await self._store.read(key)).state
            if state.remote_id is not None:
                found.remote.add(state.remote_id)
            if state.turn is not None:
                found.versions.add((state.turn.agent.name, state.turn.agent.version))
                found.busy.add(key.agent_id)
            rolled_over: list[tuple[str, float | None]] = [(remote_id, None) for remote_id in state.left]
            rolled_over += [(rollover.remote_id, rollover.at) for rollover in state.rollovers]
            for remote_id, at in rolled_over:
                if self._rolled_over and (at is None or self._settled(at)) and not remote_id.startswith(LOCAL):
                    why = f"{key.conversation_id} goes on in another one"
                    found.left.append(Leftover("conversation", remote_id, key.agent_id, why, at))
                found.remote.add(remote_id)
        return found

    def _agents(self, made: frozenset[str], references: _References) -> list[Leftover]:
        problems = self._registry.problems
        if any(problem.agent_id is None and problem.pointer.startswith("/agents") for problem in problems):
            self.remarks.append("Agents are left alone: an entry of the registry does not say whose it is.")
            return []
        known = self._registry.entries.keys() | {problem.agent_id for problem in problems}
        return [
            Leftover("agent", agent_id, agent_id, "the registry does not have it")
            for agent_id in sorted(made - known - references.busy - {ROUTER})
        ]

    def _superseded(self, versions: list[Made], references: _References) -> list[Leftover]:
        """All but the newest version, once that has been in force for long, and but those that turns began with."""
        if not versions or not self._settled(versions[0].created_at):
            return []
        return [
            Leftover(
                "version", made.identity, made.agent_id, f"replaced by {versions[0].identity}", made.created_at, made
            )
            for made in versions[1:]
            if (made.name, made.version) not in references.versions
        ]

    def _settled(self, at: float) -> bool:
        return at < self._clock.now() - SETTLED


@asynccontextmanager
async def open_leftovers(settings: Settings, *, rolled_over: bool = False) -> AsyncIterator[Leftovers]:
    """Leftovers as the settings say, with all that is needed for them, closed in the end.

    Raises:
        SettingError: There is no storage account, where it is recorded what the app made, or no Foundry.
        TransientError, RegistryInvalid: The registry of agents cannot be read.
    """
    if not settings.storage_configured:
        raise SettingError(f"{STORAGE} is not set: it names the storage account that records what AOS made.")
    if not settings.use_foundry:
        raise SettingError("USE_FOUNDRY_RUNTIME is false: there is nothing in Foundry to look at.")
    clock = SystemClock()
    credential = identity(settings) if settings.needs_identity else None
    account, clients = StorageAccount(settings, credential), FoundryClients(settings, credential)
    port = open_runtime(settings, account, credential, clock).port
    try:
        source = BlobSource(account, settings.agent_container, "agent_registry.json")
        registry = LiveRegistry(source, parse_agents, clock)
        loaded = await registry.current()
        if registry.problem is not None:
            raise AgentNotReady(f"The registry of agents cannot be read: {registry.problem}")
        store = TableConversations(account, Payloads(account, STATE_CONTAINER))
        inventory = Inventory(clients, settings.app_name, settings.foundry_api)
        yield Leftovers(store, port, inventory, loaded.value, clock, rolled_over=rolled_over)
    finally:
        await port.close()
        await clients.close()
        await account.close()
        if credential is not None:
            await credential.close()
