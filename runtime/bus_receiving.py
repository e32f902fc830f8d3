"""What consumers of a Service Bus entity have in common: opening, reconnecting, handing over, settling, stopping.

A receiver is used by one coroutine at a time. The SDK allows more, but two that wait on one connection read each
other's frames, and the one that was meant notices only when its own read times out, 0.2 s later.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runtime.bus_connections import BusConnections, NotConfigured
from runtime.bus_messages import from_servicebus
from runtime.invocation import Invoker
from runtime.routes import BusRoute, TopicRoute

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import AutoLockRenewer, ServiceBusReceiver

log = logging.getLogger("runtime.bus")

LOCK_RENEWAL_SECONDS = 600.0
OPEN_TIMEOUT_SECONDS = 30.0
SETTLE_TIMEOUT_SECONDS = 30.0
CLOSE_TIMEOUT_SECONDS = 5.0

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How a consumer fares. `since`: when `connected` last changed. Not `configured`: a setting is missing or bad."""

    name: str
    entity: str
    connected: bool
    since: datetime
    last_error: str | None = None
    configured: bool = True


class Consumer(ABC):
    """Receives the messages of one entity and hands each to the route's handler."""

    # How many receivers at once, and how long opening one may wait for a session (None: no sessions).
    workers = 1
    session_wait_seconds: float | None = None
    # How long a session is kept that has messages all the time.
    hold_seconds = 0.0

    def __init__(self, route: BusRoute, connections: BusConnections, invoker: Invoker) -> None:
        self._route = route
        self._connections = connections
        self._invoker = invoker
        self._stopping = asyncio.Event()
        self._deadline = 0.0
        self._receiving: set[asyncio.Timeout] = set()
        self._entity = route.entity
        self.state = ConsumerState(route.name, self._entity, connected=False, since=datetime.now(UTC))

    async def run(self) -> None:
        """Consume until `stop`, then until the handlers have ended."""
        # Before the application is ready there is nobody to hand messages to: abandoning them would wear them out.
        await self._unless_stopping(self._invoker.ready())
        await asyncio.gather(*(self._keep_receiving() for _ in range(self.workers)))

    def stop(self, drain_seconds: float) -> None:
        """Make `run` end: no more messages, and so many seconds for the handlers that are running."""
        self._deadline = asyncio.get_running_loop().time() + drain_seconds
        self._stopping.set()
        self._interrupt()

    @abstractmethod
    async def _receive(self) -> None:
        """Open a receiver and use it until it fails, has nothing more, or `stop` is called."""

    async def _keep_receiving(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                await self._receive()
                pause = _FIRST_PAUSE_SECONDS
                continue
            except NotConfigured as error:
                self._set_state(connected=False, error=str(error), configured=False)
                log.error("%s is not consumed: %s", self._entity, error)
                return
            except Exception as error:
                if self.state.connected:
                    pause = _FIRST_PAUSE_SECONDS
                self._set_state(connected=False, error=f"{type(error).__name__}: {error}")
                log.warning("%s: %s; next attempt in about %.1f s", self._entity, self.state.last_error, pause)
            await self._unless_stopping(asyncio.sleep(pause * random.uniform(0.8, 1.2)))  # noqa: S311  # spreads load
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[ServiceBusReceiver, AutoLockRenewer] | None]:
        """An open receiver and what renews locks of its messages, or None if `stop` came first or no session has any.

        The lock of a session is renewed as a whole from the beginning.
        """
        from azure.servicebus.aio import AutoLockRenewer
        from azure.servicebus.exceptions import OperationTimeoutError

        renewer = AutoLockRenewer(max_lock_renewal_duration=self.hold_seconds + LOCK_RENEWAL_SECONDS)
        receiver = self._new_receiver()
        try:
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
                    await self._unless_stopping(receiver.__aenter__())
            except OperationTimeoutError:
                if self.session_wait_seconds is None:
                    raise
                self._set_state(connected=True)
                yield None
                return
            if self._stopping.is_set():
                yield None
                return
            if self.session_wait_seconds is not None:
                renewer.register(receiver, receiver.session)
            self._set_state(connected=True)
            yield receiver, renewer
        finally:
            await asyncio.gather(renewer.close(), _close(receiver))

    def _new_receiver(self) -> ServiceBusReceiver:
        from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceiveMode

        client = self._connections.client(self._route.connection)
        mode = ServiceBusReceiveMode.PEEK_LOCK
        wait = self.session_wait_seconds
        session = NEXT_AVAILABLE_SESSION if wait is not None else None
        if isinstance(self._route, TopicRoute):
            return client.get_subscription_receiver(
                self._connections.resolve(self._route.topic),
                self._connections.resolve(self._route.subscription),
                session_id=session,
                receive_mode=mode,
                max_wait_time=wait,
            )
        return client.get_queue_receiver(
            self._connections.resolve(self._route.queue), session_id=session, receive_mode=mode, max_wait_time=wait
        )

    async def _next_message(
        self, receiver: ServiceBusReceiver, wait_seconds: float
    ) -> ServiceBusReceivedMessage | None:
        """The next message, or None after `wait_seconds`, or when `_interrupt` is called meanwhile.

        Giving up a receive of one message loses nothing: what has arrived stays in the receiver for the next one.
        """
        receiving = asyncio.timeout(None)
        try:
            # In this task, not in one of its own: two tasks and two waits for each message are half of what it costs.
            async with receiving:
                self._receiving.add(receiving)
                try:
                    messages = await receiver.receive_messages(max_message_count=1, max_wait_time=wait_seconds)
                finally:
                    self._receiving.discard(receiving)
        except TimeoutError:
            if not receiving.expired():
                raise
            return None
        return next(iter(messages), None)

    def _interrupt(self, grace_seconds: float = 0.0) -> None:
        """Make receives that are under way end within so many seconds."""
        when = asyncio.get_running_loop().time() + grace_seconds
        for receiving in self._receiving:
            planned = receiving.when()
            if not receiving.expired() and (planned is None or when < planned):
                receiving.reschedule(when)

    async def _hand_over(self, message: ServiceBusReceivedMessage) -> bool:
        """Run the handler. Whether the message is done with; False when the handler raised or was cancelled."""
        try:
            await self._invoker.bus(self._route, from_servicebus(message, self._entity), patience_seconds=None)
        except asyncio.CancelledError:
            log.warning("%s: stopped before its handler ended [message %r]", self._entity, message.message_id)
            return False
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:
            # Some libraries steer with exceptions that are no `Exception`: one of them must not end the consumer.
            log.exception("%s: handler failed [message %r]; abandoned", self._entity, message.message_id)
            return False
        return True

    async def _settle(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage, done: bool) -> None:
        """Complete or abandon. Raises what makes the receiver unfit for use; the message comes again then."""
        from azure.servicebus.exceptions import MessageLockLostError

        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_SECONDS):
                await (receiver.complete_message if done else receiver.abandon_message)(message)
        except MessageLockLostError:
            log.warning("%s: lock lost [message %r]; it comes again", self._entity, message.message_id)

    async def _unless_stopping(self, work: Coroutine[object, object, object]) -> None:
        """Await `work`, or cancel it when the consumer is told to stop. Raises what it raises."""
        doing = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            doing.cancel()
            await asyncio.wait([doing, stopping])
        if not doing.cancelled():
            doing.result()

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def _set_state(self, *, connected: bool, error: str | None = None, configured: bool = True) -> None:
        changed = connected != self.state.connected
        if changed and connected:
            log.info("%s: connected", self._entity)
        self.state = replace(
            self.state,
            connected=connected,
            since=datetime.now(UTC) if changed else self.state.since,
            last_error=None if connected else error,
            configured=configured,
        )


async def _close(receiver: ServiceBusReceiver) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await receiver.close()
    except Exception as error:
        log.debug("closing a receiver: %r", error)
