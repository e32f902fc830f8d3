"""Consumers of Service Bus queues and subscriptions, for hosts without bus triggers of their own.

They promise what a Functions trigger does: at least once, completed when the handler returns, abandoned when it raises,
locks renewed meanwhile. A bus that is down is waited for, however long; the consumer says so in its state.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runtime.bus_connections import BusConnections, NotConfigured
from runtime.bus_messages import from_servicebus
from runtime.invocation import Invoker
from runtime.routes_registry import BusRoute, TopicRoute

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import AutoLockRenewer, ServiceBusReceiver

log = logging.getLogger("runtime.bus")

LOCK_RENEWAL_SECONDS = 600.0
DRAIN_SECONDS = 25.0
# How long one receive waits, and so how long stopping may take: cancelling it could lose sight of a locked message.
POLL_SECONDS = 1.0
OPEN_TIMEOUT_SECONDS = 30.0
# How long a session receiver waits for a session, and for the next message of the session that it holds.
NEXT_SESSION_SECONDS = 10.0
SESSION_IDLE_SECONDS = 5.0
MAX_SESSIONS = 8
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


class BusConsumers:
    """One consumer per bus route, and the clients that they share."""

    def __init__(self, routes: Iterable[BusRoute], settings: Mapping[str, str], invoker: Invoker) -> None:
        self._connections = BusConnections(settings)
        self._consumers = [BusConsumer(route, self._connections, invoker) for route in routes]
        self._tasks: list[asyncio.Task[None]] = []

    def states(self) -> list[ConsumerState]:
        """The state of each consumer, in order of registration."""
        return [consumer.state for consumer in self._consumers]

    def start(self) -> None:
        """Start consuming; returns at once, whether the bus is there or not."""
        self._tasks = [asyncio.create_task(c.run(), name=f"bus-{c.state.name}") for c in self._consumers]

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Take no more messages, let running handlers end for so many seconds, abandon the rest, close everything."""
        for consumer in self._consumers:
            consumer.stop(drain_seconds)
        tasks, self._tasks = self._tasks, []
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.error("a consumer ended badly", exc_info=outcome)
        await self._connections.close()


class BusConsumer:
    """Receives the messages of one entity and hands each to the route's handler, at most `max_concurrency` at once.

    With sessions, messages of one session are handled one after the other, and up to `MAX_SESSIONS` sessions at once.
    """

    def __init__(self, route: BusRoute, connections: BusConnections, invoker: Invoker) -> None:
        self._route = route
        self._connections = connections
        self._invoker = invoker
        self._slots = asyncio.Semaphore(route.max_concurrency)
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._deadline = 0.0
        self._entity = f"{route.topic}/{route.subscription}" if isinstance(route, TopicRoute) else route.queue
        self.state = ConsumerState(route.name, self._entity, connected=False, since=datetime.now(UTC))

    async def run(self) -> None:
        """Consume until `stop`, then until the handlers have ended."""
        # Before the application is ready there is nobody to hand messages to: abandoning them would only wear them out.
        await self._unless_stopping(self._invoker.ready())
        workers = min(self._route.max_concurrency, MAX_SESSIONS) if self._route.sessions else 1
        await asyncio.gather(*(self._keep_receiving() for _ in range(workers)))
        await self._drain()

    def stop(self, drain_seconds: float) -> None:
        """Make `run` end: no more messages, and so many seconds for the handlers that are running."""
        self._deadline = asyncio.get_running_loop().time() + drain_seconds
        self._stopping.set()

    async def _keep_receiving(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                await (self._receive_session() if self._route.sessions else self._receive())
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

    async def _receive(self) -> None:
        async with AsyncExitStack() as stack:
            renewer = _new_renewer()
            stack.push_async_callback(renewer.close)
            receiver = self._new_receiver(renewer)
            stack.push_async_callback(_close, receiver)
            async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
                await receiver.__aenter__()
            self._set_state(connected=True)
            broken = asyncio.Event()
            while not self._stopping.is_set() and not broken.is_set():
                await self._slots.acquire()
                if self._stopping.is_set():  # a slot came free because its handler was waited for
                    self._slots.release()
                    break
                try:
                    # One at a time: for more, the SDK would hold the first back for 0.2 s to see what else comes.
                    messages = await receiver.receive_messages(max_message_count=1, max_wait_time=POLL_SECONDS)
                except BaseException:
                    self._slots.release()
                    raise
                if messages:
                    self._spawn(receiver, messages[0], broken).add_done_callback(lambda _: self._slots.release())
                else:
                    self._slots.release()
            if self._stopping.is_set():
                await self._drain()

    async def _receive_session(self) -> None:
        from azure.servicebus.exceptions import OperationTimeoutError

        async with AsyncExitStack() as stack:
            renewer = _new_renewer()
            stack.push_async_callback(renewer.close)
            receiver = self._new_receiver(None)
            stack.push_async_callback(_close, receiver)
            try:
                await self._unless_stopping(receiver.__aenter__())
            except OperationTimeoutError:  # no session has messages
                self._set_state(connected=True)
                return
            if self._stopping.is_set():
                return
            self._set_state(connected=True)
            renewer.register(receiver, receiver.session)
            broken = asyncio.Event()
            idle_since = asyncio.get_running_loop().time()
            while not self._stopping.is_set() and not broken.is_set():
                messages = await receiver.receive_messages(max_message_count=1, max_wait_time=POLL_SECONDS)
                if not messages and asyncio.get_running_loop().time() - idle_since >= SESSION_IDLE_SECONDS:
                    return
                if not messages:
                    continue
                idle_since = asyncio.get_running_loop().time()
                await self._unless_stopping(asyncio.wait([self._spawn(receiver, messages[0], broken)]))
            if self._stopping.is_set():
                await self._drain()

    def _new_receiver(self, renewer: AutoLockRenewer | None) -> ServiceBusReceiver:
        from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceiveMode

        client = self._connections.client(self._route.connection)
        mode = ServiceBusReceiveMode.PEEK_LOCK
        session = NEXT_AVAILABLE_SESSION if self._route.sessions else None
        wait = NEXT_SESSION_SECONDS if self._route.sessions else None
        if isinstance(self._route, TopicRoute):
            return client.get_subscription_receiver(
                self._connections.resolve(self._route.topic),
                self._connections.resolve(self._route.subscription),
                session_id=session,
                receive_mode=mode,
                auto_lock_renewer=renewer,
                max_wait_time=wait,
            )
        return client.get_queue_receiver(
            self._connections.resolve(self._route.queue),
            session_id=session,
            receive_mode=mode,
            auto_lock_renewer=renewer,
            max_wait_time=wait,
        )

    def _spawn(
        self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage, broken: asyncio.Event
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._handle(receiver, message, broken), name=f"bus-{self._route.name}-message")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _handle(
        self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage, broken: asyncio.Event
    ) -> None:
        from azure.servicebus.exceptions import MessageLockLostError

        settle = receiver.complete_message
        try:
            await self._invoker.bus(self._route, from_servicebus(message, self._entity), patience_seconds=None)
        except asyncio.CancelledError:
            settle = receiver.abandon_message
        except Exception:
            settle = receiver.abandon_message
            log.exception("%s: handler failed [message %s]; abandoned", self._entity, message.message_id)
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_SECONDS):
                await settle(message)
        except MessageLockLostError:
            log.warning("%s: lock lost [message %s]; it comes again", self._entity, message.message_id)
        except Exception as error:
            # A receiver whose link failed must not be used again: see BusConnections about delivery numbers.
            broken.set()
            log.warning("%s: not settled [message %s]; it comes again: %r", self._entity, message.message_id, error)

    async def _drain(self) -> None:
        if self._running:
            left = max(0.0, self._deadline - asyncio.get_running_loop().time())
            await asyncio.wait(self._running, timeout=left)
        for task in self._running:
            log.warning("%s: a handler did not end in time; its message is abandoned", self._entity)
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

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


def _new_renewer() -> AutoLockRenewer:
    from azure.servicebus.aio import AutoLockRenewer

    return AutoLockRenewer(max_lock_renewal_duration=LOCK_RENEWAL_SECONDS)


async def _close(receiver: ServiceBusReceiver) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await receiver.close()
    except Exception as error:
        log.debug("closing a receiver: %r", error)
