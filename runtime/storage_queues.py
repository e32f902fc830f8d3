"""Consumers of storage queues, for hosts without queue triggers of their own.

They promise what a Functions trigger does: at least once, deleted when the handler returns, delivered again when it
raises, and after the fifth time moved to the queue `{queue}-poison`. A queue is made if it is not there and the
app may do that. An account that is down is waited for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runtime.bus_connections import NotConfigured
from runtime.invocation import Invoker
from runtime.messages import StorageMessage
from runtime.route_checks import STORAGE_QUEUE
from runtime.routes import StorageQueueRoute, is_setting_reference

if TYPE_CHECKING:
    from azure.storage.queue import QueueMessage
    from azure.storage.queue.aio import QueueClient

log = logging.getLogger("runtime.queues")

MAX_DEQUEUE_COUNT = 5
"""As `queues.maxDequeueCount` in host.json, whose default this is."""
HIDDEN_SECONDS = 30
"""For so long nobody else gets a message; renewed while its handler runs."""
RENEW_SECONDS = HIDDEN_SECONDS / 2
"""Between two renewals."""
RENEW_AGAIN_SECONDS = 1.0
"""After a renewal that failed."""
AT_ONCE = 32
"""Messages that the service hands out at once."""
SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""Between looks at a queue that is empty; it doubles from the shortest one."""
DOWN_PAUSE_SECONDS = 5.0
DRAIN_SECONDS = 20.0
POISON = "-poison"

# The SDK's own pause before it tries again is 15 s: meanwhile others would get the messages that are being handled.
_BOUNDS: dict[str, Any] = {
    "retry_total": 2,
    "initial_backoff": 0.5,
    "increment_base": 1,
    "random_jitter_range": 0,
    "connection_timeout": 5,
    "read_timeout": 10,
}


class StorageConsumers:
    """One consumer per route of a storage queue."""

    def __init__(self, routes: Iterable[StorageQueueRoute], settings: Mapping[str, str], invoker: Invoker) -> None:
        self._consumers = [_Consumer(route, settings, invoker) for route in routes]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start consuming; returns at once, whether the account is there or not."""
        self._tasks = [asyncio.create_task(one.run(), name=f"queue-{one.route.name}") for one in self._consumers]

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Take no more messages, let running handlers end for so many seconds; what is left comes again."""
        for consumer in self._consumers:
            consumer.stop()
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=drain_seconds)
        for task in late:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("a consumer ended badly", exc_info=outcome)


class _Consumer:
    def __init__(self, route: StorageQueueRoute, settings: Mapping[str, str], invoker: Invoker) -> None:
        self.route = route
        self._settings = settings
        self._invoker = invoker
        self._stopping = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Consume until `stop`, then until the handlers have ended."""
        ready = asyncio.ensure_future(self._invoker.ready())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            stopping.cancel()
            await asyncio.gather(ready, stopping, return_exceptions=True)
        while not self._stopping.is_set():
            try:
                await self._consume()
            except NotConfigured as error:
                log.error("%s is not consumed: %s", self.route.label, error)
                return
            except Exception as error:
                log.warning("%s: %s: %s", self.route.label, type(error).__name__, error)
                await self._pause(DOWN_PAUSE_SECONDS)

    async def _consume(self) -> None:
        name = self._resolve(self.route.queue)
        if not STORAGE_QUEUE.fullmatch(name):
            raise NotConfigured(f"{name!r} is not the name of a storage queue of 3 to 56 characters")
        async with contextlib.AsyncExitStack() as stack:
            queue, poison = await self._client(name, stack), await self._client(name + POISON, stack)
            await _make(queue)
            try:
                await self._receive(queue, poison)
            finally:
                cancelled = self._current_is_cancelled()
                for task in self._running if cancelled else ():
                    task.cancel()
                await asyncio.gather(*self._running, return_exceptions=True)

    @staticmethod
    def _current_is_cancelled() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _receive(self, queue: QueueClient, poison: QueueClient) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while not self._stopping.is_set():
            room = self.route.max_concurrency - len(self._running)
            if room == 0:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                continue
            most = min(room, AT_ONCE)
            pages = queue.receive_messages(messages_per_page=most, max_messages=most, visibility_timeout=HIDDEN_SECONDS)
            messages = [message async for message in pages]
            for message in messages:
                task = asyncio.create_task(
                    self._handle(queue, poison, message), name=f"queue-{self.route.name}-message"
                )
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            if messages:
                pause = SHORTEST_PAUSE_SECONDS
                continue
            await self._pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _handle(self, queue: QueueClient, poison: QueueClient, message: QueueMessage) -> None:
        from azure.core.exceptions import AzureError

        count = message.dequeue_count or 1
        ended = asyncio.Event()
        keeping = asyncio.create_task(_keep(queue, message, ended), name=f"queue-{self.route.name}-renewal")
        try:
            # Beyond the last time only where a process ended without a word, which it would again.
            done = count <= MAX_DEQUEUE_COUNT and await self._hand_over(queue.queue_name, message, count)
        except asyncio.CancelledError:
            keeping.cancel()
            raise
        finally:
            # Not cancelled while a renewal is under way: its answer has the receipt that settling needs.
            ended.set()
            await asyncio.gather(keeping, return_exceptions=True)
        try:
            if done:
                await queue.delete_message(message.id, message.pop_receipt)
            elif count >= MAX_DEQUEUE_COUNT:
                await _make(poison)
                await poison.send_message(message.content, time_to_live=-1)
                await queue.delete_message(message.id, message.pop_receipt)
                log.error("%s: message %s was moved to %s", self.route.label, message.id, poison.queue_name)
            else:
                # As the host does: it comes again at once.
                await queue.update_message(message.id, message.pop_receipt, visibility_timeout=0)
        except AzureError as error:
            log.warning("%s: message %s is not settled and comes again: %s", self.route.label, message.id, error)

    async def _hand_over(self, queue: str, message: QueueMessage, count: int) -> bool:
        received = StorageMessage(
            _plain(str(message.content)), queue, str(message.id), count, inserted_at=message.inserted_on
        )
        try:
            await self._invoker.storage(self.route, received, patience_seconds=None)
        except Exception:
            log.exception("%s: message %s failed, time %d", self.route.label, message.id, count)
            return False
        return True

    async def _client(self, name: str, stack: contextlib.AsyncExitStack) -> QueueClient:
        from azure.storage.queue.aio import QueueClient

        connection = self.route.connection
        text = self._settings.get(connection, "").strip()
        if text:
            try:
                return await stack.enter_async_context(QueueClient.from_connection_string(text, name, **_BOUNDS))
            except ValueError as error:
                raise NotConfigured(f"the setting {connection} is no connection string: {error}") from None
        uri = self._settings.get(f"{connection}__queueServiceUri", "").strip()
        account = self._settings.get(f"{connection}__accountName", "").strip()
        if not uri and not account:
            raise NotConfigured(
                f"none of {connection}, {connection}__queueServiceUri, {connection}__accountName is set"
            )
        from azure.identity.aio import DefaultAzureCredential

        client_id = self._settings.get(f"{connection}__clientId", "").strip()
        credential = DefaultAzureCredential(**({"managed_identity_client_id": client_id} if client_id else {}))
        await stack.enter_async_context(credential)
        endpoint = uri or f"https://{account}.queue.core.windows.net"
        return await stack.enter_async_context(QueueClient(endpoint, name, credential=credential, **_BOUNDS))

    def _resolve(self, text: str) -> str:
        if not is_setting_reference(text):
            return text
        value = self._settings.get(text.strip("%"), "").strip()
        if not value:
            raise NotConfigured(f"the setting {text.strip('%')} is not set")
        return value

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def _make(queue: QueueClient) -> None:
    """Makes a queue that is not there. Who may only read or write messages may not: then it has to be there."""
    from azure.core.exceptions import HttpResponseError, ResourceExistsError

    try:
        await queue.create_queue()
    except ResourceExistsError:
        return
    except HttpResponseError as error:
        if error.status_code != 403:
            raise
        log.debug("%s may not be made: %s", queue.queue_name, error.message)


async def _keep(queue: QueueClient, message: QueueMessage, ended: asyncio.Event) -> None:
    """Keeps a message from others until its handler has ended."""
    from azure.core.exceptions import AzureError, HttpResponseError

    pause = RENEW_SECONDS
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await ended.wait()
                return
        try:
            renewed = await queue.update_message(message.id, message.pop_receipt, visibility_timeout=HIDDEN_SECONDS)
        except AzureError as error:
            log.warning("%s: message %s is not renewed: %s", queue.queue_name, message.id, error)
            if isinstance(error, HttpResponseError) and error.status_code in (400, 404):
                return  # it is another's by now, or gone
            pause = RENEW_AGAIN_SECONDS
        else:
            message.pop_receipt = renewed.pop_receipt
            pause = RENEW_SECONDS


def _plain(content: str) -> bytes:
    """What was sent: base64 is the default of Functions, plain text is taken as it is."""
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return content.encode()
