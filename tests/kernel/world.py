"""A world for the kernel to live in: time, Foundry, tools, senders, and processes that die at any await.

Everything runs on a loop whose time jumps instead of passing: hours take milliseconds, and every run is the same.
A process that was killed gets nothing done any more, while Foundry and the tools go on without it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from aos.errors import StorageUnavailable
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.observing import Observer
from aos.kernel.types import ConversationKey, Message, Operation, ReplyAddress, SendTool, ToolResult
from aos.storage.memory import MemoryConversations
from tests.kernel.neighbours import Agents, Board, Bus
from tests.kernel.process import Process
from tests.kernel.remote import Foundry
from tests.kernel.virtual_time import LoopClock, VirtualLoop

T = TypeVar("T")
KEY = ConversationKey("ceo", "main")
OTHER = ConversationKey("ceo", "other")


class World:
    """Storage, Foundry, bus and agents, and the processes that share them.

    Args:
        board: Set where the processes tell each other of their circuits.
        observer: Watches the turns of all processes.
    """

    def __init__(
        self,
        options: KernelOptions | None = None,
        store: MemoryConversations | None = None,
        board: Board | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.options = options
        self.board = board
        self.observer = observer
        self.clock = LoopClock()
        self.store = store or MemoryConversations(self.clock)
        self.storage_down = False
        self.foundry = Foundry()
        self.agents = Agents()
        self.bus = Bus(self)
        self.processes: list[Process] = []
        self.timers: set[asyncio.TimerHandle] = set()
        self.accepted: list[tuple[ConversationKey, Message]] = []
        self.errors: list[BaseException] = []
        self.over = False
        self.pauses: Iterator[float] = itertools.repeat(0.0)
        """Seconds that pass before and after everything that a process asks of the world."""
        self.start()

    @property
    def now(self) -> float:
        return self.clock.now()

    @property
    def process(self) -> Process:
        """The newest living process."""
        return next(process for process in reversed(self.processes) if process.alive)

    @property
    def kernel(self) -> Kernel:
        return self.process.kernel

    def start(self) -> Process:
        self.processes.append(Process(self, f"p{len(self.processes)}", self.options))
        return self.processes[-1]

    def storage_up(self, work: Awaitable[object]) -> None:
        if self.storage_down:
            if asyncio.iscoroutine(work):
                work.close()
            raise StorageUnavailable("Storage is down.")

    # --- what comes from outside

    def message(self, text: str = "hello", *, reply: bool = False) -> Message:
        turn = (self.options or KernelOptions()).turn
        to = ReplyAddress("answers") if reply else None
        operation_id = f"op{len(self.accepted)}"
        return Message(operation_id, text, self.now, self.now + turn, reply_to=to)

    async def accept(self, text: str = "hello", *, key: ConversationKey = KEY, reply: bool = False) -> Operation:
        message = self.message(text, reply=reply)
        self.accepted.append((key, message))
        operation, _ = await self.kernel.accept(key, message, text, fresh=False)
        return operation

    async def tell(self, text: str = "hello", *, key: ConversationKey = KEY, reply: bool = False) -> Operation:
        """Accepts a message, drives it, and returns its operation as it is when the driver returns."""
        operation = await self.accept(text, key=key, reply=reply)
        await self.kernel.drive(key)
        return await self.kernel.operation(operation.operation_id)

    async def finished(self, operation: Operation, within: float = 10_000.0) -> Operation:
        """The operation when it ended; the sweep runs every 30 seconds meanwhile."""
        ends = self.now + within
        while True:
            found = await self.store.operation(operation.operation_id)
            if found is not None and found.final:
                return found
            assert self.now < ends, f"{operation.operation_id} never ends: {found}"
            await asyncio.sleep(30.0)
            self.process.do(self.kernel.sweep())

    def later(self, delay: float, work: Callable[[], None]) -> None:
        self.timers.add(asyncio.get_running_loop().call_later(delay, work))

    def deliver(self, work: Callable[[Kernel], Coroutine[Any, Any, None]]) -> None:
        """Gives a bus message to a living process, again and again until one took it to its end."""

        def again() -> None:
            if not self.over:
                self.later(5.0, lambda: self.deliver(work))

        alive = [process for process in self.processes if process.alive]
        if alive:
            alive[-1].do(work(alive[-1].kernel), again)
        else:
            again()

    def result(self, request_id: str) -> None:
        result = self.ledger[request_id][1]
        self.deliver(lambda kernel: kernel.add_result(request_id.partition(".")[0], result))

    @property
    def ledger(self) -> Mapping[str, tuple[SendTool, ToolResult]]:
        return self.bus.ledger

    def resume(self, key: ConversationKey) -> None:
        self.deliver(lambda kernel: kernel.drive(key, resume=True))

    async def settle(self) -> None:
        """Lets everything happen that can happen at this moment."""
        for _ in range(200):
            await asyncio.sleep(0)

    # --- what must be true in the end

    def check(self) -> None:
        assert not self.errors
        for process in self.processes:
            kernel = process.kernel
            if process.alive:
                assert not kernel._driver._again, "a driver is left"
                assert not kernel._leases.holds, "a hold is left"
            assert not kernel._waiters, "a waiter is left"

    async def end(self) -> None:
        self.over = True
        for timer in self.timers:
            timer.cancel()
        for process in self.processes:
            process.kill()
            await process.kernel.close(grace=0.0)
            assert not process.kernel._tasks, "a task is left"
            await asyncio.gather(*process.tasks, return_exceptions=True)
        await asyncio.gather(*self.foundry.running, return_exceptions=True)


def run(
    scenario: Callable[[World], Coroutine[Any, Any, T]],
    options: KernelOptions | None = None,
    board: Board | None = None,
    observer: Observer | None = None,
) -> T:
    """Runs a scenario in a world of its own, and checks what must be true of every world."""

    async def live() -> T:
        world = World(options, board=board, observer=observer)
        try:
            result = await asyncio.wait_for(scenario(world), 100_000.0)
            await world.settle()
            world.check()
        finally:
            await world.end()
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(live())


def code(operation: Operation) -> str:
    assert operation.error is not None
    return operation.error.code
