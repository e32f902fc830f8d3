"""Callers of this process that wait for operations to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aos.kernel.clock import Clock
from aos.kernel.types import ConversationKey, Operation


class Waiters:
    """Who waits for which operation.

    Args:
        read: Reads an operation.
        driven: Whether this process works on a conversation, so that the end of a turn in it is told here.
    """

    def __init__(
        self,
        clock: Clock,
        read: Callable[[str], Awaitable[Operation]],
        driven: Callable[[ConversationKey], bool],
    ) -> None:
        self._clock = clock
        self._read = read
        self._driven = driven
        self._waiting: dict[str, dict[asyncio.Future[Operation], None]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, operation: Operation, timeout: float) -> Operation:
        """Waits up to `timeout` seconds for the operation to end and returns it as it is then.

        The operation's row is the truth; what happens in this process only shortens the wait.
        """
        if operation.final or timeout <= 0:
            return operation
        key = ConversationKey(operation.agent_id, operation.conversation_id)
        done: asyncio.Future[Operation] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(operation.operation_id, {})
        waiters[done] = None
        ends = self._clock.now() + timeout
        interval = 0.025
        try:
            # Who has just been asked to drive the conversation begins: its end will be told here.
            await asyncio.sleep(0)
            while (left := ends - self._clock.now()) > 0:
                pause = min(left, 1.0 if self._driven(key) else interval)
                await asyncio.wait({done}, timeout=pause)
                if done.done():
                    return done.result()
                operation = await self._read(operation.operation_id)
                if operation.final:
                    break
                interval = min(interval * 1.5, 1.0)
        finally:
            waiters.pop(done, None)
            if not waiters:
                self._waiting.pop(operation.operation_id, None)
        return operation

    def ended(self, operation: Operation) -> None:
        """Wakes whoever waits for it."""
        for waiter in self._waiting.get(operation.operation_id, ()):
            if not waiter.done():
                waiter.set_result(operation)
