"""A consumer without sessions: up to `max_concurrency` messages in handlers at once, through one receiver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from runtime.bus_connections import BusConnections
from runtime.bus_receiving import Consumer
from runtime.invocation import Invoker
from runtime.routes import BusRoute

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import ServiceBusReceiver

log = logging.getLogger("runtime.bus")

RECEIVE_SECONDS = 60.0
# When a message waits to be settled, a receive under way gets this long to bring what the broker may have sent: what
# arrives between receives is handed back, and has to come a second time.
GRACE_SECONDS = 0.02


class _Outcome(NamedTuple):
    receiver: ServiceBusReceiver
    message: ServiceBusReceivedMessage
    done: bool


class ConcurrentConsumer(Consumer):
    """One coroutine receives and settles in turn; handlers run beside it and wake it when they end."""

    def __init__(self, route: BusRoute, connections: BusConnections, invoker: Invoker) -> None:
        super().__init__(route, connections, invoker)
        self._running: set[asyncio.Task[None]] = set()
        self._ended: deque[_Outcome] = deque()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Consume until `stop`, then until the handlers have ended."""
        await super().run()
        await self._drain(None)

    def stop(self, drain_seconds: float) -> None:
        """Make `run` end: no more messages, and so many seconds for the handlers that are running."""
        super().stop(drain_seconds)
        self._wake.set()

    async def _receive(self) -> None:
        async with self._opened() as receiver:
            if receiver is None:
                return
            while not self._stopping.is_set():
                self._wake.clear()
                await self._settle_ended(receiver)
                if len(self._running) >= self._route.max_concurrency:
                    await self._wake.wait()
                elif not self._stopping.is_set():
                    message = await self._next_message(receiver, RECEIVE_SECONDS, self._wake, GRACE_SECONDS)
                    if message is not None:
                        task = asyncio.create_task(
                            self._handle(receiver, message), name=f"bus-{self._route.name}-message"
                        )
                        self._running.add(task)
                        task.add_done_callback(self._handler_ended)
            await self._drain(receiver)

    async def _handle(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> None:
        done = await self._hand_over(message)
        self._ended.append(_Outcome(receiver, message, done))

    def _handler_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()

    async def _settle_ended(self, receiver: ServiceBusReceiver | None) -> None:
        while self._ended:
            outcome = self._ended.popleft()
            if outcome.receiver is receiver:
                await self._settle(receiver, outcome.message, outcome.done)
            else:
                identifier = outcome.message.message_id
                log.warning(
                    "%s: the connection was lost meanwhile [message %s]; it comes again", self._entity, identifier
                )

    async def _drain(self, receiver: ServiceBusReceiver | None) -> None:
        while self._running or self._ended:
            self._wake.clear()
            await self._settle_ended(receiver)
            if not self._running:
                continue
            if self._seconds_left() == 0:
                for task in self._running:
                    task.cancel()
                await self._wake.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds_left()):
                        await self._wake.wait()
