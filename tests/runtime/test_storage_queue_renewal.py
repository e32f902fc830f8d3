"""A message is kept from others while its handler runs, also over a connection that fails for a moment."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from azure.storage.queue.aio import QueueClient

from emulators.azurite import Azurite
from runtime import AsgiRuntime, Keys, RouteRegistry, RuntimeConfig, StorageMessage, storage_queues
from tests.runtime.test_storage_queues import SETTING, client, queue_name


class Relay:
    """Passes on what is sent to the queue service; renewals are dropped, or answered late."""

    def __init__(self) -> None:
        self.drops = 0
        self.dropped = asyncio.Event()
        self.under_way = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def connection(self, inwards: asyncio.StreamReader, back: asyncio.StreamWriter, host: str, port: int) -> None:
        answers, onwards = await asyncio.open_connection(host, port)
        backwards = asyncio.create_task(self._pass_answers(answers, back))
        try:
            while data := await inwards.read(65_536):
                if data.startswith(b"PUT ") and b"popreceipt=" in data:
                    if self.drops:
                        self.drops -= 1
                        self.dropped.set()
                        return
                    self.under_way.set()
                onwards.write(data)
                await onwards.drain()
        finally:
            backwards.cancel()
            await asyncio.gather(backwards, return_exceptions=True)
            for writer in (onwards, back):
                writer.close()

    async def _pass_answers(self, answers: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while data := await answers.read(65_536):
            await self.answers.wait()
            back.write(data)
            await back.drain()


@asynccontextmanager
async def consuming_through(
    relay: Relay, azurite: Azurite, name: str, handler: Callable[[StorageMessage], object]
) -> AsyncIterator[None]:
    """A consumer of the queue that reaches the service through the relay."""
    endpoint = re.search(r"QueueEndpoint=([^;]+)", azurite.connection_string)
    assert endpoint is not None
    upstream = urlsplit(endpoint[1])

    async def connected(inwards: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await relay.connection(inwards, back, str(upstream.hostname), int(upstream.port or 80))

    registry = RouteRegistry()
    registry.register_storage_queue(name, handler, connection=SETTING)
    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = {SETTING: azurite.connection_string.replace(upstream.netloc, f"127.0.0.1:{port}")}
        host = AsgiRuntime(RuntimeConfig(app_name="t"), registry, keys=Keys(), settings=settings)
        async with host.app.router.lifespan_context(host.app):
            yield


async def left(queue: QueueClient) -> int | None:
    return (await queue.get_queue_properties()).approximate_message_count


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_renewal_that_fails_is_tried_again_before_others_get_the_message(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    monkeypatch.setattr(storage_queues, "RENEW_SECONDS", 0.2)
    monkeypatch.setitem(storage_queues._BOUNDS, "retry_total", retries)
    relay, name, seen = Relay(), queue_name(), list[int]()
    relay.drops = 2  # aiohttp repeats one by itself, as the connection was in use before
    ended = asyncio.Event()

    async def handle(message: StorageMessage) -> None:
        seen.append(message.dequeue_count)
        if len(seen) == 1:
            await relay.dropped.wait()
            monkeypatch.setattr(storage_queues, "RENEW_SECONDS", 1000)  # not when the next one would be due
            await relay.under_way.wait()
        relay.under_way.set()  # a second one would mean that the first has waited long enough
        ended.set()

    async with client(azurite, name) as queue:
        await queue.create_queue()
        await queue.send_message("work")
        async with consuming_through(relay, azurite, name, handle), asyncio.timeout(30):
            await ended.wait()
        assert (seen, await left(queue)) == ([1], 0)


async def test_a_handler_that_ends_while_its_message_is_renewed_is_done_with_it(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_queues, "RENEW_SECONDS", 0.2)
    relay, name, seen = Relay(), queue_name(), list[int]()
    handled = asyncio.Event()

    async def handle(message: StorageMessage) -> None:
        seen.append(message.dequeue_count)
        relay.answers.clear()
        await relay.under_way.wait()
        handled.set()

    async with client(azurite, name) as queue:
        await queue.create_queue()
        await queue.send_message("work")
        async with consuming_through(relay, azurite, name, handle), asyncio.timeout(30):
            await handled.wait()
            asyncio.get_running_loop().call_later(0.2, relay.answers.set)
        assert (seen, await left(queue)) == ([1], 0)
