from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from azure.storage.queue import QueueSasPermissions, generate_queue_sas
from azure.storage.queue.aio import QueueClient

from emulators.azurite import Azurite
from runtime import AsgiRuntime, Keys, RouteError, RouteRegistry, RuntimeConfig, StorageMessage
from runtime.storage_queues import MAX_DEQUEUE_COUNT
from tests.functions_worker import FunctionsWorker

T = TypeVar("T")
SETTING = "TEST_STORAGE"


def queue_name() -> str:
    return f"q-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def consuming(azurite: Azurite, registry: RouteRegistry, connection: str | None = None) -> AsyncIterator[None]:
    settings = {SETTING: connection or azurite.connection_string}
    host = AsgiRuntime(RuntimeConfig(app_name="t"), registry, keys=Keys(), settings=settings)
    async with host.app.router.lifespan_context(host.app):
        yield


@asynccontextmanager
async def client(azurite: Azurite, name: str) -> AsyncIterator[QueueClient]:
    async with QueueClient.from_connection_string(azurite.connection_string, name) as queue:
        yield queue


async def until_exists(queue: QueueClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await queue.get_queue_properties()
            except Exception:
                await asyncio.sleep(0.05)
            else:
                return


async def until(ask: Callable[[], Awaitable[T]], holds: Callable[[T], object]) -> T:
    """Asks again and again until the answer is as wanted."""
    async with asyncio.timeout(30):
        while True:
            if holds(found := await ask()):
                return found
            await asyncio.sleep(0.05)


async def test_messages_reach_the_handler_without_their_base64_and_are_deleted(azurite: Azurite) -> None:
    registry, name = RouteRegistry(), queue_name()
    seen: list[StorageMessage] = []
    both = asyncio.Event()

    async def handle(message: StorageMessage) -> None:
        seen.append(message)
        if len(seen) == 2:
            both.set()

    registry.register_storage_queue(name, handle, connection=SETTING)
    async with consuming(azurite, registry), client(azurite, name) as queue:
        await until_exists(queue)  # made on demand
        await queue.send_message(base64.b64encode(b'{"n": 1}').decode())
        await queue.send_message('{"n": 2}')
        await asyncio.wait_for(both.wait(), 30)
    assert sorted(message.json()["n"] for message in seen) == [1, 2]
    assert {(message.queue, message.dequeue_count) for message in seen} == {(name, 1)}
    async with client(azurite, name) as queue:
        assert (await queue.get_queue_properties()).approximate_message_count == 0


async def test_a_message_that_fails_each_time_goes_to_the_poison_queue(azurite: Azurite) -> None:
    registry, name = RouteRegistry(), queue_name()
    counts: list[int] = []

    def handle(message: StorageMessage) -> None:
        counts.append(message.dequeue_count)
        raise RuntimeError("broken on purpose")

    registry.register_storage_queue(name, handle, connection=SETTING)
    async with (
        consuming(azurite, registry),
        client(azurite, name) as queue,
        client(azurite, f"{name}-poison") as poison,
    ):
        await until_exists(queue)
        sent = base64.b64encode(b'{"n": 1}').decode()
        await queue.send_message(sent)
        await until_exists(poison)
        moved = await until(poison.peek_messages, bool)
        await until(queue.get_queue_properties, lambda found: not found.approximate_message_count)
    assert [message.content for message in moved] == [sent]
    assert counts == list(range(1, MAX_DEQUEUE_COUNT + 1))


async def test_a_message_that_ended_its_process_each_time_goes_to_the_poison_queue(azurite: Azurite) -> None:
    registry, name = RouteRegistry(), queue_name()
    seen: list[StorageMessage] = []
    registry.register_storage_queue(name, seen.append, connection=SETTING)
    async with client(azurite, name) as queue, client(azurite, f"{name}-poison") as poison:
        await queue.create_queue()
        await queue.send_message("deadly")
        for _ in range(MAX_DEQUEUE_COUNT):  # taken by a process that settled nothing, and its time ran out
            taken = await queue.receive_message()
            assert taken is not None
            await queue.update_message(taken.id, taken.pop_receipt, visibility_timeout=0)
        async with consuming(azurite, registry):
            await until_exists(poison)
            moved = await until(poison.peek_messages, bool)
            await until(queue.get_queue_properties, lambda found: not found.approximate_message_count)
    assert [message.content for message in moved] == ["deadly"]
    assert seen == []


async def test_a_queue_is_consumed_also_by_who_may_not_make_it(azurite: Azurite) -> None:
    registry, name = RouteRegistry(), queue_name()
    seen = asyncio.Event()

    async def handle(message: StorageMessage) -> None:
        seen.set()

    registry.register_storage_queue(name, handle, connection=SETTING)
    parts = dict(part.split("=", 1) for part in azurite.connection_string.split(";") if part)
    may = QueueSasPermissions(read=True, process=True)
    ends = datetime.now(UTC) + timedelta(hours=1)
    token = generate_queue_sas(parts["AccountName"], name, parts["AccountKey"], may, ends)
    connection = f"QueueEndpoint={parts['QueueEndpoint']};SharedAccessSignature={token}"
    async with client(azurite, name) as queue:
        await queue.create_queue()
        await queue.send_message("1")
        async with consuming(azurite, registry, connection):
            await asyncio.wait_for(seen.wait(), 30)
        assert (await queue.get_queue_properties()).approximate_message_count == 0


async def test_handlers_run_beside_each_other_up_to_a_bound(azurite: Azurite) -> None:
    registry, name = RouteRegistry(), queue_name()
    running = most = ended = 0
    three, all_ended = asyncio.Event(), asyncio.Event()

    async def handle(message: StorageMessage) -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        if running == 3:
            three.set()
        await three.wait()
        await asyncio.sleep(0.05)
        running -= 1
        ended += 1
        if ended == 9:
            all_ended.set()

    registry.register_storage_queue(name, handle, connection=SETTING, max_concurrency=3)
    async with client(azurite, name) as queue:
        await queue.create_queue()
        for number in range(9):
            await queue.send_message(str(number))
        async with consuming(azurite, registry):
            await asyncio.wait_for(all_ended.wait(), 30)
    assert most == 3


@pytest.mark.parametrize(
    ("queue", "fault"),
    [
        ("Not_A_Queue", "is not the name of a storage queue"),
        ("ab", "is not the name of a storage"),
        ("q" * 57, "'-poison' beside it"),
    ],
)
def test_a_name_that_storage_refuses_is_found_out_at_once(queue: str, fault: str) -> None:
    registry = RouteRegistry()
    registry.register_storage_queue(queue, lambda message: None, connection=SETTING)
    with pytest.raises(RouteError, match=fault):
        registry.check()


def test_a_missing_connection_is_named() -> None:
    registry = RouteRegistry()
    registry.register_storage_queue("work-items", lambda message: None, connection=SETTING)
    with pytest.raises(RouteError, match=f"none of {SETTING}, {SETTING}__queueServiceUri"):
        registry.check({})
    registry.check({f"{SETTING}__accountName": "books"})


async def test_azure_functions_sees_a_queue_trigger(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(
        "from runtime import RouteRegistry, RuntimeConfig, create_runtime\n"
        "registry = RouteRegistry()\n"
        "async def work(message):\n"
        "    print(message.json())\n"
        f"registry.register_storage_queue('work-items', work, connection='{SETTING}')\n"
        f"app = create_runtime(RuntimeConfig(app_name='t'), registry, settings={{'{SETTING}': 'x'}}).get_func_app()\n"
    )
    async with FunctionsWorker(tmp_path) as worker:
        trigger = json.loads(json.dumps(worker.functions["work-items"].trigger))
    assert (trigger["type"], trigger["queueName"], trigger["connection"]) == ("queueTrigger", "work-items", SETTING)
