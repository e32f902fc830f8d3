"""``kill -9`` of a real process: what was acknowledged is there afterwards, what was completed is not."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError

from tests.emulators.servicebus.wire import layout

# The SDK does not close the socket of a connection that the server broke off.
pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


@asynccontextmanager
async def emulator(folder: Path) -> AsyncIterator[tuple[Process, ServiceBusClient]]:
    """The emulator in a process of its own, with a database; it is killed, never stopped."""
    queues = {"q": {}, "s": {"RequiresSession": True}, "d": {"RequiresDuplicateDetection": True}}
    config = folder / "config.json"
    config.write_text(json.dumps(layout(dict(queues))))
    command = ["-m", "emulators.servicebus", "--port", "0", "--config", str(config), "--db", str(folder / "bus.db")]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode().strip()
        async with ServiceBusClient.from_connection_string(line, retry_total=0) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL


async def test_state_survives(tmp_path: Path) -> None:
    async with emulator(tmp_path) as (process, client):
        await asyncio.gather(settle_in_every_way(client), keep_session_state(client), send_distinct(client, "first"))
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with emulator(tmp_path) as (_, client):
        await asyncio.gather(check_messages(client), check_session(client), check_duplicates(client))


async def settle_in_every_way(client: ServiceBusClient) -> None:
    async with client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        await sender.send_messages([ServiceBusMessage(str(n)) for n in range(6)])
        got: list[ServiceBusReceivedMessage] = []
        while len(got) < 4:
            got += await receiver.receive_messages(4 - len(got), max_wait_time=20)
        await receiver.complete_message(got[0])
        await receiver.abandon_message(got[1])
        await receiver.defer_message(got[2])
        await receiver.dead_letter_message(got[3], reason="why")
        await sender.schedule_messages(ServiceBusMessage("scheduled"), datetime.now(UTC) + timedelta(hours=1))


async def check_messages(client: ServiceBusClient) -> None:
    async with (
        client.get_queue_receiver("q") as receiver,
        client.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as letters,
    ):
        peeked = await receiver.peek_messages(20, sequence_number=1)
        assert [(str(m), m.delivery_count, m.state) for m in peeked] == [
            ("1", 1, ServiceBusMessageState.ACTIVE),
            ("2", 1, ServiceBusMessageState.DEFERRED),
            ("4", 0, ServiceBusMessageState.ACTIVE),
            ("5", 0, ServiceBusMessageState.ACTIVE),
            ("scheduled", 0, ServiceBusMessageState.SCHEDULED),
        ]
        number = peeked[1].sequence_number
        assert number is not None
        (deferred,) = await receiver.receive_deferred_messages(number)
        assert str(deferred) == "2"
        (dead,) = await letters.peek_messages(5)
        assert (str(dead), dead.dead_letter_reason) == ("3", "why")


async def keep_session_state(client: ServiceBusClient) -> None:
    async with client.get_queue_sender("s") as sender:
        await sender.send_messages(ServiceBusMessage("m", session_id="one"))
    async with client.get_queue_receiver("s", session_id="one") as receiver:
        await receiver.session.set_state(b"state")


async def check_session(client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("s", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20) as receiver:
        assert receiver.session.session_id == "one"
        assert await receiver.session.get_state() == b"state"


async def send_distinct(client: ServiceBusClient, body: str) -> None:
    async with client.get_queue_sender("d") as sender:
        await sender.send_messages(ServiceBusMessage(body, message_id="same"))


async def check_duplicates(client: ServiceBusClient) -> None:
    await send_distinct(client, "second")
    async with client.get_queue_receiver("d") as receiver:
        assert [str(m) for m in await receiver.peek_messages(5)] == ["first"]


async def test_every_acknowledged_message_is_there_in_order(tmp_path: Path) -> None:
    acknowledged = 0
    async with emulator(tmp_path) as (process, client), client.get_queue_sender("q") as sender:
        loop = asyncio.get_running_loop()
        await sender.send_messages(ServiceBusMessage("0"))
        acknowledged = 1
        loop.call_later(0.3, process.send_signal, signal.SIGKILL)
        try:
            while True:
                await sender.send_messages(ServiceBusMessage(str(acknowledged)))
                acknowledged += 1
        except ServiceBusError:
            await process.wait()

    async with emulator(tmp_path) as (_, client), client.get_queue_receiver("q") as receiver:
        got: list[str] = []
        while len(got) < acknowledged:
            more = await receiver.receive_messages(500, max_wait_time=20)
            assert more, "an acknowledged message is missing"
            got += [str(message) for message in more]
        # One more may have been written whose acknowledgement was cut off.
        assert got in ([str(n) for n in range(acknowledged)], [str(n) for n in range(acknowledged + 1)])
