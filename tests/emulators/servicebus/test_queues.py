"""Queues through the asynchronous SDK."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
)

from emulators.servicebus import ServiceBusEmulator, load_entities
from tests.emulators.servicebus.conftest import Links
from tests.emulators.servicebus.wire import layout


async def test_every_field_of_a_message_arrives(links: Links) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    sent = ServiceBusMessage(
        b"\x00body\xff",
        message_id="id",
        subject="subject",
        to="to",
        reply_to="reply",
        correlation_id="correlation",
        content_type="application/octet-stream",
        reply_to_session_id="reply-session",
        time_to_live=timedelta(seconds=90),
        application_properties={"text": "t", "number": 7, "float": 0.5, "yes": True},
    )
    await links.send("fields", sent)
    got = await links.receive("fields")
    assert b"".join(got.body) == b"\x00body\xff"
    assert (got.message_id, got.subject, got.to, got.reply_to) == ("id", "subject", "to", "reply")
    assert (got.correlation_id, got.content_type) == ("correlation", "application/octet-stream")
    assert (got.reply_to_session_id, got.time_to_live) == ("reply-session", timedelta(seconds=90))
    assert got.application_properties == {b"text": b"t", b"number": 7, b"float": 0.5, b"yes": True}
    assert (got.delivery_count, got.sequence_number, got.state) == (0, 1, ServiceBusMessageState.ACTIVE)
    assert got.enqueued_time_utc is not None
    assert before <= got.enqueued_time_utc <= datetime.now(UTC)
    assert got.expires_at_utc == got.enqueued_time_utc + timedelta(seconds=90)
    assert got.locked_until_utc is not None
    assert timedelta(seconds=59) < got.locked_until_utc - got.enqueued_time_utc < timedelta(seconds=90)
    await links.receiver("fields").complete_message(got)


async def test_complete_and_abandon(links: Links) -> None:
    await links.send("settle", ServiceBusMessage("once more"))
    first = await links.receive("settle")
    await links.receiver("settle").abandon_message(first)
    second = await links.receive("settle")
    assert (str(second), second.delivery_count, second.sequence_number) == ("once more", 1, first.sequence_number)
    await links.receiver("settle").complete_message(second)
    assert await links.receiver("settle").peek_messages(10, sequence_number=1) == []


async def test_dead_lettering_with_a_reason(links: Links) -> None:
    await links.send("deadletter", ServiceBusMessage("bad", application_properties={"n": 1}))
    message = await links.receive("deadletter")
    await links.receiver("deadletter").dead_letter_message(message, reason="why", error_description="because")
    (peeked,) = await links.receiver("deadletter", dead_letters=True).peek_messages(5)
    assert (peeked.dead_letter_reason, peeked.dead_letter_error_description) == ("why", "because")
    dead = await links.receive("deadletter", dead_letters=True)
    assert str(dead) == "bad"
    assert dead.application_properties == {
        b"n": 1,
        b"DeadLetterReason": b"why",
        b"DeadLetterErrorDescription": b"because",
    }
    await links.receiver("deadletter", dead_letters=True).complete_message(dead)
    assert await links.receiver("deadletter", dead_letters=True).peek_messages(5, sequence_number=1) == []


async def test_too_many_deliveries_end_in_the_dead_letters(links: Links) -> None:
    await links.send("twice", ServiceBusMessage("bad"))
    for _ in range(2):
        await links.receiver("twice").abandon_message(await links.receive("twice"))
    dead = await links.receive("twice", dead_letters=True)
    assert (dead.dead_letter_reason, dead.delivery_count) == ("MaxDeliveryCountExceeded", 2)
    await links.receiver("twice", dead_letters=True).complete_message(dead)


async def test_deferred_messages(links: Links) -> None:
    receiver = links.receiver("defer")
    await links.send("defer", ServiceBusMessage("1"), ServiceBusMessage("2"), ServiceBusMessage("3"))
    numbers = []
    for _ in range(3):
        message = await links.receive("defer")
        assert message.sequence_number is not None
        numbers.append(message.sequence_number)
        await receiver.defer_message(message)
    completed, dead, abandoned = await receiver.receive_deferred_messages(numbers)
    assert [str(message) for message in (completed, dead, abandoned)] == ["1", "2", "3"]
    assert completed.state is ServiceBusMessageState.DEFERRED
    # Without a delivery on the link, these are settled through $management.
    await receiver.complete_message(completed)
    await receiver.dead_letter_message(dead, reason="why", error_description="because")
    await receiver.abandon_message(abandoned)
    letter = await links.receive("defer", dead_letters=True)
    assert (letter.dead_letter_reason, letter.dead_letter_error_description) == ("why", "because")
    await links.receiver("defer", dead_letters=True).complete_message(letter)
    (again,) = await receiver.receive_deferred_messages(numbers[2])
    await receiver.renew_message_lock(again)
    await receiver.complete_message(again)
    with pytest.raises(MessageNotFoundError):
        await receiver.receive_deferred_messages(numbers[0])


async def test_receive_and_delete(links: Links) -> None:
    await links.send("delete", ServiceBusMessage("1"), ServiceBusMessage("2"))
    receiver = links.receiver("delete", delete=True)
    got: list[str] = []
    while len(got) < 2:
        got += [str(message) for message in await receiver.receive_messages(5, max_wait_time=20)]
    assert got == ["1", "2"]
    assert await receiver.peek_messages(5, sequence_number=1) == []


async def test_peek_neither_locks_nor_counts(links: Links) -> None:
    receiver = links.receiver("peek")
    await links.send("peek", *(ServiceBusMessage(str(n)) for n in range(5)))
    assert [str(message) for message in await receiver.peek_messages(3)] == ["0", "1", "2"]
    assert [str(message) for message in await receiver.peek_messages(9)] == ["3", "4"]
    assert [str(message) for message in await receiver.peek_messages(2, sequence_number=2)] == ["1", "2"]
    message = await links.receive("peek")
    assert (str(message), message.delivery_count) == ("0", 0)
    assert len(await receiver.peek_messages(9, sequence_number=1)) == 5


async def test_scheduling_and_cancelling(links: Links) -> None:
    sender, receiver = links.sender("schedule"), links.receiver("schedule")
    later = datetime.now(UTC) + timedelta(hours=1)
    numbers = await sender.schedule_messages([ServiceBusMessage("a"), ServiceBusMessage("b")], later)
    await sender.send_messages(ServiceBusMessage("c", scheduled_enqueue_time_utc=later))
    peeked = await receiver.peek_messages(9, sequence_number=1)
    assert {message.state for message in peeked} == {ServiceBusMessageState.SCHEDULED}
    assert [str(message) for message in peeked] == ["a", "b", "c"]
    assert [message.sequence_number for message in peeked[:2]] == numbers
    number = peeked[2].sequence_number
    assert number is not None
    await sender.cancel_scheduled_messages([*numbers, number])
    soon = datetime.now(UTC) + timedelta(seconds=1)
    await sender.schedule_messages(ServiceBusMessage("soon"), soon)
    await sender.send_messages(ServiceBusMessage("soon too", scheduled_enqueue_time_utc=soon))
    got = [await links.receive("schedule"), await links.receive("schedule")]
    assert sorted(str(message) for message in got) == ["soon", "soon too"]
    for message in got:
        assert message.enqueued_time_utc is not None
        # The SDK sends whole milliseconds.
        assert message.enqueued_time_utc >= soon - timedelta(milliseconds=1)
        await receiver.complete_message(message)
    with pytest.raises(MessageNotFoundError):
        await sender.cancel_scheduled_messages(numbers)


async def test_batches(links: Links) -> None:
    sender = links.sender("batch")
    batch = await sender.create_message_batch()
    assert batch.max_size_in_bytes == 262_144
    for number in range(100):
        batch.add_message(ServiceBusMessage(str(number), message_id=f"m{number}"))
    await sender.send_messages(batch)
    single = await sender.create_message_batch()
    single.add_message(ServiceBusMessage("100", message_id="m100"))
    await sender.send_messages(single)
    peeked = await links.receiver("batch").peek_messages(200)
    assert [(str(message), message.message_id) for message in peeked] == [(str(n), f"m{n}") for n in range(101)]


async def test_a_sender_outlives_its_first_credit(links: Links) -> None:
    sender = links.sender("credit")
    for number in range(1200):
        await sender.send_messages(ServiceBusMessage(str(number)))
    peeked = await links.receiver("credit").peek_messages(2000)
    assert sorted(int(str(message)) for message in peeked) == list(range(1200))


async def test_sizes(links: Links) -> None:
    sender = links.sender("sizes")
    await sender.send_messages(ServiceBusMessage(b"x" * 262_000))
    message = await links.receive("sizes")
    assert len(b"".join(message.body)) == 262_000
    await links.receiver("sizes").complete_message(message)
    with pytest.raises(MessageSizeExceededError):
        await sender.send_messages(ServiceBusMessage(b"x" * 263_000))
    with pytest.raises(MessageSizeExceededError):
        await sender.schedule_messages(ServiceBusMessage(b"x" * 263_000), datetime.now(UTC) + timedelta(hours=1))
    await sender.send_messages(ServiceBusMessage("the link still works"))
    message = await links.receive("sizes")
    await links.receiver("sizes").complete_message(message)


async def test_limits_are_options() -> None:
    entities = load_entities(layout({"q": {}}))
    async with (
        ServiceBusEmulator(entities, max_message_bytes=10_000, max_queue_bytes=15_000) as bus,
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        client.get_queue_sender("q") as sender,
    ):
        assert (await sender.create_message_batch()).max_size_in_bytes == 10_000
        with pytest.raises(MessageSizeExceededError):
            await sender.send_messages(ServiceBusMessage(b"x" * 10_000))
        await sender.send_messages(ServiceBusMessage(b"x" * 9000))
        with pytest.raises(ServiceBusQuotaExceededError):
            await sender.send_messages(ServiceBusMessage(b"x" * 9000))


async def test_locks_are_renewed(links: Links) -> None:
    receiver = links.receiver("settle")
    await links.send("settle", ServiceBusMessage("x"))
    message = await links.receive("settle")
    first = message.locked_until_utc
    await asyncio.sleep(0.01)  # locks are counted in milliseconds
    renewed = await receiver.renew_message_lock(message)
    assert first is not None
    assert message.locked_until_utc == renewed > first
    await receiver.complete_message(message)


async def test_locks_expire(links: Links) -> None:
    receiver = links.receiver("short-lock")
    await links.send("short-lock", ServiceBusMessage("x"))
    message = await links.receive("short-lock")
    again = await links.receive("short-lock")  # comes when the lock has expired
    assert again.delivery_count is not None
    assert again.delivery_count >= 1
    with pytest.raises(MessageLockLostError):
        await receiver.complete_message(message)


async def test_duplicates_are_dropped(links: Links) -> None:
    await links.send("distinct", ServiceBusMessage("1", message_id="a"), ServiceBusMessage("2", message_id="a"))
    await links.send("distinct", ServiceBusMessage("3", message_id="a"), ServiceBusMessage("4", message_id="b"))
    peeked = await links.receiver("distinct").peek_messages(9)
    assert [str(message) for message in peeked] == ["1", "4"]


async def test_expired_messages_become_dead_letters(links: Links) -> None:
    await links.send("expiring", ServiceBusMessage("x", time_to_live=timedelta(seconds=1)), ServiceBusMessage("y"))
    dead = await links.receive("expiring", dead_letters=True)
    assert (str(dead), dead.dead_letter_reason) == ("x", "TTLExpiredException")
    await links.receiver("expiring", dead_letters=True).complete_message(dead)
    (kept,) = await links.receiver("expiring").peek_messages(9, sequence_number=1)
    assert kept.time_to_live == timedelta(hours=1)


async def test_competing_receivers_share(client: ServiceBusClient, links: Links) -> None:
    await links.send("competing", *(ServiceBusMessage(str(n)) for n in range(200)))
    got: list[str] = []
    both = asyncio.Barrier(2)

    async def consume() -> None:
        share = 0
        async with client.get_queue_receiver("competing", prefetch_count=10) as receiver:
            while len(got) < 200:
                for message in await receiver.receive_messages(10, max_wait_time=1):
                    await receiver.complete_message(message)
                    got.append(str(message))
                    share += 1
                    if share == 1:
                        await both.wait()  # nobody takes more than was prefetched before the other one has some

    async with asyncio.timeout(60):
        await asyncio.gather(consume(), consume())
    assert sorted(got, key=int) == [str(n) for n in range(200)]


@pytest.mark.parametrize("path", ["nothing", "colours/Subscriptions/nothing"])
async def test_unknown_entities(client: ServiceBusClient, path: str) -> None:
    sender, receiver = client.get_queue_sender(path), client.get_queue_receiver(path)
    results = await asyncio.gather(
        sender.send_messages(ServiceBusMessage("x")),
        receiver.receive_messages(1, max_wait_time=30),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [MessagingEntityNotFoundError] * 2
    await asyncio.gather(sender.close(), receiver.close())


@pytest.mark.parametrize("path", ["colours/Subscriptions/all", "settle/$DeadLetterQueue"])
async def test_messages_cannot_be_sent_to_what_only_gives_them(client: ServiceBusClient, path: str) -> None:
    sender = client.get_queue_sender(path)
    with pytest.raises(ServiceBusError, match="does not take messages"):
        await sender.send_messages(ServiceBusMessage("x"))
    await sender.close()


async def test_receive_mode_is_part_of_the_link(client: ServiceBusClient) -> None:
    receiver = client.get_queue_receiver("sessions", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    with pytest.raises(ServiceBusError, match="requires sessions"):
        await receiver.receive_messages(1, max_wait_time=30)
    await receiver.close()
