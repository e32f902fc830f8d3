"""The emulator inside another program: its own thread, the synchronous SDK, many messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.exceptions import MessagingEntityNotFoundError

from emulators.ports import settle
from emulators.servicebus import ServiceBusEmulator, load_entities, server
from tests.emulators.servicebus.conftest import Links
from tests.emulators.servicebus.wire import Peer, layout


@contextmanager
def in_thread() -> Iterator[ServiceBusEmulator]:
    """An emulator in a thread with an event loop of its own."""
    bus = ServiceBusEmulator(load_entities(layout({"q": {}, "s": {"RequiresSession": True}})))
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        async with bus:
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(60)
    try:
        yield bus
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()


def test_the_synchronous_sdk() -> None:
    with in_thread() as bus, ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as client:
        with client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
            sender.send_messages([ServiceBusMessage("1", application_properties={"n": 1}), ServiceBusMessage("2")])
            (first,) = receiver.receive_messages(1, max_wait_time=20)
            receiver.renew_message_lock(first)
            receiver.abandon_message(first)
            (again,) = receiver.receive_messages(1, max_wait_time=20)
            assert (str(again), again.delivery_count, again.application_properties) == ("1", 1, {b"n": 1})
            receiver.complete_message(again)
            (second,) = receiver.receive_messages(1, max_wait_time=20)
            receiver.dead_letter_message(second, reason="why")
            numbers = sender.schedule_messages(ServiceBusMessage("3"), datetime.now(UTC) + timedelta(hours=1))
            assert [str(message) for message in receiver.peek_messages(5, sequence_number=1)] == ["3"]
            sender.cancel_scheduled_messages(numbers)
            with client.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as letters:
                (dead,) = letters.receive_messages(1, max_wait_time=20)
                assert dead.dead_letter_reason == "why"
                letters.complete_message(dead)
        with client.get_queue_sender("s") as sender:
            sender.send_messages(ServiceBusMessage("x", session_id="one"))
        with client.get_queue_receiver("s", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20) as receiver:
            receiver.session.set_state(b"state")
            assert (receiver.session.session_id, receiver.session.get_state()) == ("one", b"state")
            (message,) = receiver.receive_messages(1, max_wait_time=20)
            receiver.complete_message(message)
        with pytest.raises(MessagingEntityNotFoundError), client.get_queue_sender("nothing") as sender:
            pytest.fail("there is no such queue")


async def test_the_port_of_a_stopped_emulator_is_free_again() -> None:
    # Not one that the system may give to a connection in the meantime.
    port = settle({"BUS": ("the bus", 0)})["BUS"]
    async with ServiceBusEmulator(load_entities(layout({"q": {}})), port=port) as first:
        peer = await Peer.opened(first.port)
    assert await peer.reader.read() == b""
    await peer.close()
    async with ServiceBusEmulator(load_entities(layout({"q": {}})), port=first.port) as second:
        assert second.port == first.port
        with pytest.raises(OSError, match="address already in use"):
            await ServiceBusEmulator(load_entities(layout({"q": {}})), port=first.port).start()


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        first = await Peer.opened(bus.port)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await Peer.opened(bus.port)
        await first.attach(0, "q", receiver=False)
        await first.close()


def test_a_message_limit_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1024"):
        ServiceBusEmulator(max_message_bytes=100)


async def test_ten_thousand_messages(links: Links) -> None:
    total, got = 10_000, 0
    sender, receiver = links.sender("throughput"), links.receiver("throughput", delete=True)
    for start in range(0, total, 500):
        batch = await sender.create_message_batch()
        for number in range(start, start + 500):
            batch.add_message(ServiceBusMessage(str(number)))
        await sender.send_messages(batch)
    while got < total:
        messages = await receiver.receive_messages(1000, max_wait_time=20)
        assert [str(message) for message in messages] == [str(number) for number in range(got, got + len(messages))]
        assert messages
        got += len(messages)
