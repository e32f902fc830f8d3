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
    from azure.servicebus.aio import AutoLockRenewer, ServiceBusReceiver

log = logging.getLogger("runtime.bus")

RECEIVE_SECONDS = 60.0
# When a message waits to be settled, a receive under way gets this long to bring what the broker may have sent: what
# arrives between receives is handed back, and has to come a second time.
GRACE_SECONDS = 0.02
# A handler that is expected to end within this is waited for, so that its message is settled before the next receive.
QUICK_SECONDS = 0.01
# After so many messages in a row that met no other one in a handler, handlers are expected to be quick; and how often
# it is looked nevertheless whether another one waits.
ALONE, LOOK_EVERY = 2, 8
# Most handlers end within this, and need no renewal of their message's lock; a lock lasts 5 s at least.
RENEW_AFTER_SECONDS = 0.5


class _Outcome(NamedTuple):
    receiver: ServiceBusReceiver
    message: ServiceBusReceivedMessage
    done: bool


class ConcurrentConsumer(Consumer):
    """One coroutine receives and settles in turn; handlers run beside it and wake it when they end.

    A receive that has to be given up so that a message can be settled costs more than the wait for a quick handler. So
    as long as messages come one by one, each is settled before the next is asked for; as soon as two meet, it goes on
    receiving while handlers run.
    """

    def __init__(self, route: BusRoute, connections: BusConnections, invoker: Invoker) -> None:
        super().__init__(route, connections, invoker)
        self._running: set[asyncio.Task[None]] = set()
        self._ended: deque[_Outcome] = deque()
        self._wake = asyncio.Event()
        self._alone = 0
        self._task_name = f"bus-{route.name}-message"

    async def run(self) -> None:
        """Consume until `stop`, then until the handlers have ended."""
        await super().run()
        await self._drain(None)

    def stop(self, drain_seconds: float) -> None:
        """Make `run` end: no more messages, and so many seconds for the handlers that are running."""
        super().stop(drain_seconds)
        self._wake.set()

    async def _receive(self) -> None:
        async with self._opened() as opened:
            if opened is None:
                return
            receiver, renewer = opened
            while True:
                await self._settle_ended(receiver)
                if self._stopping.is_set():
                    break
                if len(self._running) >= self._route.max_concurrency:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                message = await self._next_message(receiver, RECEIVE_SECONDS)
                if message is not None:
                    self._alone = 0 if self._running else self._alone + 1
                    handling = self._begin(receiver, message)
                    await self._wait_if_quick()
                    if not handling.done():
                        self._renew_later(handling, receiver, renewer, message)
            await self._drain(receiver)

    def _begin(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> asyncio.Task[None]:
        task = asyncio.create_task(self._handle(receiver, message), name=self._task_name)
        self._running.add(task)
        task.add_done_callback(self._handler_ended)
        return task

    async def _wait_if_quick(self) -> None:
        if self._alone >= ALONE and self._alone % LOOK_EVERY:
            self._wake.clear()
            # Not a timeout, which costs as much as the rest of this: whoever wakes up looks at what there is.
            late = asyncio.get_running_loop().call_later(QUICK_SECONDS, self._wake.set)
            await self._wake.wait()
            late.cancel()
            if self._running:
                self._alone = -LOOK_EVERY

    def _renew_later(
        self,
        handling: asyncio.Task[None],
        receiver: ServiceBusReceiver,
        renewer: AutoLockRenewer,
        message: ServiceBusReceivedMessage,
    ) -> None:
        renewal = asyncio.get_running_loop().call_later(RENEW_AFTER_SECONDS, self._renew, receiver, renewer, message)
        handling.add_done_callback(lambda _: renewal.cancel())

    def _renew(
        self, receiver: ServiceBusReceiver, renewer: AutoLockRenewer, message: ServiceBusReceivedMessage
    ) -> None:
        from azure.servicebus.exceptions import ServiceBusError

        try:
            renewer.register(receiver, message)
        except ServiceBusError as error:
            log.debug("%s: no lock is renewed any more on a connection that was lost: %s", self._entity, error)

    async def _handle(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> None:
        self._ended.append(_Outcome(receiver, message, await self._hand_over(message)))

    def _handler_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        self._interrupt(GRACE_SECONDS)

    async def _settle_ended(self, receiver: ServiceBusReceiver | None) -> None:
        while self._ended:
            outcome = self._ended.popleft()
            if outcome.receiver is receiver:
                await self._settle(receiver, outcome.message, outcome.done)
            else:
                identifier = outcome.message.message_id
                log.warning(
                    "%s: the connection was lost meanwhile [message %r]; it comes again", self._entity, identifier
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
