"""Processes that die at any await, and what ties each of them to the world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aos.errors import TransientError
from aos.kernel.breaker import Trip
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.ports import (
    Acceptance,
    AgentSpec,
    Change,
    ConversationStore,
    Due,
    HistoryEntry,
    Lease,
    RemoteItem,
    Snapshot,
)
from aos.kernel.types import AgentRef, Arrival, ConversationKey, ModelReply, Operation, Outgoing, ToolOutput
from tests.kernel.neighbours import Agents, Binding, Board, Bus
from tests.kernel.remote import Foundry

if TYPE_CHECKING:
    from tests.kernel.world import World

T = TypeVar("T")


class Killed(asyncio.CancelledError):
    """The process is no more."""


class Process:
    """A kernel in a process of its own; it can be killed before and after everything that it asks of the world."""

    def __init__(self, world: World, name: str, options: KernelOptions | None) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.points = 0
        self.kill_at: int | None = None
        self.stalled: asyncio.Event | None = None
        self.tasks: dict[asyncio.Task[None], None] = {}
        """In the order of their start: what happens must not depend on where in memory they are."""
        self.kernel = Kernel(
            store=StoreLink(self, world.store),
            foundry=FoundryLink(self, world.foundry),
            agents=AgentsLink(self, world.agents),
            outlet=OutletLink(self, world.bus),
            clock=ClockLink(self),
            options=options,
            owner=name,
            board=BoardLink(self, world.board) if world.board is not None else None,
            observer=world.observer,
        )

    async def point(self) -> None:
        self.points += 1
        if self.points == self.kill_at:
            self.kill()
        if not self.alive:
            raise Killed
        await asyncio.sleep(next(self.world.pauses))

    async def through(self, work: Awaitable[T]) -> T:
        """Asks something of the world: it may die before, or after, when what it asked for has happened."""
        try:
            await self.point()
        except BaseException:
            if asyncio.iscoroutine(work):
                work.close()
            raise
        result = await work
        await self.point()
        return result

    def kill(self) -> None:
        self.alive = False
        for task in self.tasks:
            task.cancel()

    def do(self, work: Coroutine[Any, Any, object], failed: Callable[[], None] | None = None) -> None:
        """Does something in this process, as its handlers do; `failed` is called when it did not get done."""

        async def handler() -> None:
            await work

        def over(task: asyncio.Task[None]) -> None:
            self.tasks.pop(task, None)
            work.close()  # of a task that was cancelled before it began
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, TransientError):
                self.world.errors.append(error)
            if (error is not None or task.cancelled()) and failed is not None:
                failed()

        task = asyncio.create_task(handler())
        self.tasks[task] = None
        task.add_done_callback(over)


@dataclass
class ClockLink:
    """The clock of a dead process does not wake it."""

    process: Process

    def now(self) -> float:
        return self.process.world.now

    async def sleep(self, seconds: float) -> None:
        await self.process.through(asyncio.sleep(seconds))


@dataclass
class StoreLink:
    process: Process
    store: ConversationStore

    async def _ask(self, work: Awaitable[T]) -> T:
        self.process.world.storage_up(work)
        return await self.process.through(work)

    async def accept(self, acceptance: Acceptance) -> tuple[Operation, bool]:
        return await self._ask(self.store.accept(acceptance))

    async def known(self, operation_id: str, fingerprint: str) -> Operation | None:
        return await self._ask(self.store.known(operation_id, fingerprint))

    async def add_arrival(self, key: ConversationKey, arrival: Arrival) -> bool:
        return await self._ask(self.store.add_arrival(key, arrival))

    async def read(self, key: ConversationKey) -> Snapshot:
        return await self._ask(self.store.read(key))

    async def commit(self, key: ConversationKey, etag: str | None, change: Change) -> str:
        return await self._ask(self.store.commit(key, etag, change))

    async def renew(self, key: ConversationKey, etag: str, lease: Lease) -> str:
        return await self._ask(self.store.renew(key, etag, lease))

    async def operation(self, operation_id: str) -> Operation | None:
        return await self._ask(self.store.operation(operation_id))

    async def end(self, operation: Operation) -> None:
        return await self._ask(self.store.end(operation))

    async def locate(self, operation_id: str) -> ConversationKey | None:
        return await self._ask(self.store.locate(operation_id))

    async def history(self, key: ConversationKey, after: int, limit: int) -> list[HistoryEntry]:
        return await self._ask(self.store.history(key, after, limit))

    async def erase(self, key: ConversationKey, etag: str) -> None:
        return await self._ask(self.store.erase(key, etag))

    async def unfinished(self) -> Mapping[str, int]:
        return await self._ask(self.store.unfinished())

    async def due(self, before: float, limit: int) -> list[Due]:
        return await self._ask(self.store.due(before, limit))

    async def move_due(self, entry: Due, at: float | None) -> None:
        await self._ask(self.store.move_due(entry, at))


@dataclass
class FoundryLink:
    process: Process
    foundry: Foundry

    async def ensure_agent(self, spec: AgentSpec) -> AgentRef:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def forget_agent(self, agent_id: str) -> None:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def look_up_agents(self, agent_ids: Collection[str]) -> frozenset[str]:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def remove_agent(self, agent_id: str) -> bool:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def open_conversation(self, key: ConversationKey) -> str:
        await self.process.point()
        remote_id = self.foundry.open()
        await self.process.point()
        return remote_id

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> ModelReply:
        if self.process.stalled is not None:
            await self.process.stalled.wait()
        return await self.process.through(
            self.foundry.respond(agent, remote_id, outputs, text, timeout, on_text=on_text)
        )

    async def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        await self.process.point()
        items = self.foundry.items_after(remote_id, anchor)
        await self.process.point()
        return items

    async def delete_conversation(self, remote_id: str) -> None:
        await self.process.point()
        self.foundry.available()
        self.foundry.remotes.pop(remote_id, None)
        await self.process.point()

    async def check(self) -> None:
        self.foundry.available()

    async def close(self) -> None:
        return None


@dataclass
class AgentsLink:
    process: Process
    agents: Agents

    async def bind(self, agent_id: str) -> Binding:
        return await self.process.through(self.agents.bind(agent_id))

    async def bound_to(self, agent_id: str, ref: AgentRef) -> Binding:
        return await self.process.through(self.agents.bound_to(agent_id, ref))

    async def forget(self, agent_id: str) -> None:
        self.agents.forgotten.append(agent_id)


@dataclass
class OutletLink:
    process: Process
    bus: Bus

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        await self.process.through(self.bus.send(key, effects))

    async def wake(self, key: ConversationKey, delay: float) -> None:
        await self.process.through(self.bus.wake(key, delay))


@dataclass
class BoardLink:
    process: Process
    board: Board

    async def put(self, trip: Trip) -> None:
        work = self.board.put(trip)
        self.process.world.storage_up(work)
        await self.process.through(work)

    async def all(self) -> Sequence[Trip]:
        work = self.board.all()
        self.process.world.storage_up(work)
        return await self.process.through(work)
