"""A consumer without sessions: up to `max_concurrency` messages in handlers at once, through one receiver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from runtime.apart import apart
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


@dataclass(slots=True, eq=False)
class _Reception:
    """What is received on one link, and who does that.

    Attributes:
        over: Done when nobody receives any more, with what went wrong.
        leader: The task that receives.
    """

    receiver: ServiceBusReceiver
    renewer: AutoLockRenewer
    over: asyncio.Future[None]
    leader: asyncio.Task[None] = field(init=False)


class ConcurrentConsumer(Consumer):
    """One task at a time leads: it receives and settles in turn; handlers run beside it and wake it when they end.

    A receive that has to be given up so that a message can be settled costs more than the wait for a quick handler. So
    as long as messages come one by one, the leader runs the handler itself, and settles before it asks for the next
    one; if that takes longer, another one leads from then on. As soon as two messages meet, each gets a task.
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
            reception = _Reception(*opened, asyncio.get_running_loop().create_future())
            self._appoint(reception)
            try:
                await reception.over
            except asyncio.CancelledError:
                reception.leader.cancel()
                raise
            await self._drain(reception.receiver)

    def _appoint(self, reception: _Reception) -> None:
        reception.leader = asyncio.create_task(self._lead(reception), name=self._task_name)
        reception.leader.add_done_callback(partial(self._led, reception))

    async def _lead(self, reception: _Reception) -> None:
        this = reception.leader
        while not reception.over.done():
            await self._settle_ended(reception.receiver)
            if self._stopping.is_set():
                return
            if len(self._running) >= self._route.max_concurrency:
                self._wake.clear()
                await self._wake.wait()
                continue
            message = await self._next_message(reception.receiver, RECEIVE_SECONDS)
            if message is None:
                continue
            self._alone = 0 if self._running else self._alone + 1
            if self._alone < ALONE or self._alone % LOOK_EVERY == 0:
                handling = asyncio.create_task(self._handle(reception.receiver, message), name=self._task_name)
                handling.add_done_callback(self._handler_ended)
                self._running.add(handling)
                self._renew_later(reception, message, handling)
                continue
            late = asyncio.get_running_loop().call_later(QUICK_SECONDS, self._late, reception, message)
            await apart(self._handle(reception.receiver, message))
            late.cancel()
            if reception.leader is not this:
                return
            if this.cancelling():
                # Something cancelled the handler's task; the next message must not come to feel it.
                self._appoint(reception)
                return

    def _late(self, reception: _Reception, message: ServiceBusReceivedMessage) -> None:
        """The leader's handler takes its time: it goes on as one of many, and another one leads."""
        self._alone = -LOOK_EVERY
        self._running.add(reception.leader)
        self._renew_later(reception, message, reception.leader)
        self._appoint(reception)

    def _led(self, reception: _Reception, task: asyncio.Task[None]) -> None:
        if task is not reception.leader:
            self._handler_ended(task)
        elif reception.over.done():
            return
        elif task.cancelled():
            # By something that a handler left behind, which cannot mean the messages that are handled now.
            self._appoint(reception)
        elif (error := task.exception()) is not None:
            reception.over.set_exception(error)
        else:
            reception.over.set_result(None)

    def _renew_later(
        self, reception: _Reception, message: ServiceBusReceivedMessage, handling: asyncio.Task[None]
    ) -> None:
        loop = asyncio.get_running_loop()
        renewal = loop.call_later(RENEW_AFTER_SECONDS, self._renew, reception.receiver, reception.renewer, message)
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
        cancelled = False
        while self._running or self._ended:
            self._wake.clear()
            await self._settle_ended(receiver)
            if not self._running:
                continue
            if self._seconds_left() == 0:
                # Once: each one that ends is heard of here, and the others may still be cleaning up.
                for task in () if cancelled else self._running:
                    task.cancel()
                cancelled = True
                await self._wake.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds_left()):
                        await self._wake.wait()
