"""Sessions through the asynchronous SDK."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from emulators.servicebus import ServiceBusEmulator
from tests.emulators.servicebus.conftest import Links


async def test_a_named_session_has_order_state_and_a_lock(links: Links, client: ServiceBusClient) -> None:
    await links.send("sessions", ServiceBusMessage("other", session_id="other"))
    await links.send("sessions", *(ServiceBusMessage(str(n), session_id="mine") for n in range(3)))
    async with client.get_queue_receiver("sessions", session_id="mine") as receiver:
        session = receiver.session
        assert session.session_id == "mine"
        assert await session.get_state() is None
        await session.set_state(b"\x00state")
        assert await session.get_state() == b"\x00state"
        first = session.locked_until_utc
        assert first is not None
        assert datetime.now(UTC) < first <= datetime.now(UTC) + timedelta(seconds=61)
        assert await session.renew_lock() >= first
        got: list[str] = []
        while len(got) < 3:
            for message in await receiver.receive_messages(3, max_wait_time=20):
                assert message.session_id == "mine"
                got.append(str(message))
                await receiver.complete_message(message)
        assert got == ["0", "1", "2"]
        await session.set_state(None)
        assert await session.get_state() is None
        assert [str(message) for message in await receiver.peek_messages(9)] == []


async def test_the_next_session_is_one_with_messages(links: Links, client: ServiceBusClient) -> None:
    async def accept() -> tuple[str, str]:
        async with client.get_queue_receiver(
            "next-session", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20
        ) as receiver:
            (message,) = await receiver.receive_messages(1, max_wait_time=20)
            await receiver.complete_message(message)
            return receiver.session.session_id, str(message)

    waiting = asyncio.create_task(accept())
    await links.send("next-session", ServiceBusMessage("x", session_id="s1"))
    assert await waiting == ("s1", "x")
    with pytest.raises(OperationTimeoutError):
        async with client.get_queue_receiver("next-session", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1):
            pytest.fail("there is no session")


async def test_a_session_that_another_holds(links: Links, client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("held-session", session_id="s"):
        with pytest.raises(SessionCannotBeLockedError):
            async with client.get_queue_receiver("held-session", session_id="s"):
                pytest.fail("the session is held")
    async with client.get_queue_receiver("held-session", session_id="s") as receiver:
        await links.send("held-session", ServiceBusMessage("deferred", session_id="s"))
        (message,) = await receiver.receive_messages(1, max_wait_time=20)
        assert message.sequence_number is not None
        await receiver.defer_message(message)
        (deferred,) = await receiver.receive_deferred_messages(message.sequence_number)
        await receiver.complete_message(deferred)


async def test_a_lock_on_a_session_expires(bus: ServiceBusEmulator, links: Links, client: ServiceBusClient) -> None:
    await links.send("lost-session", ServiceBusMessage("x", session_id="s"))
    receiver = client.get_queue_receiver("lost-session", session_id="s")
    (message,) = await receiver.receive_messages(1, max_wait_time=20)
    # A short lock from here on: one from the beginning may be over before the message is there.
    queue = bus.broker.source("lost-session")
    options = queue.options
    queue.options = replace(options, lock_ms=300)
    await receiver.session.renew_lock()
    queue.options = options
    await asyncio.sleep(0.5)
    with pytest.raises(SessionLockLostError):
        await receiver.complete_message(message)
    await receiver.close()
    async with client.get_queue_receiver("lost-session", session_id="s") as other:
        (again,) = await other.receive_messages(1, max_wait_time=20)
        assert again.delivery_count == 1
        await other.complete_message(again)


async def test_request_and_reply_by_session(links: Links, client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("replies", session_id="asker") as receiver:
        await links.send("replies", ServiceBusMessage("answer", session_id="asker", correlation_id="q1"))
        (message,) = await receiver.receive_messages(1, max_wait_time=20)
        assert (message.correlation_id, str(message)) == ("q1", "answer")
        await receiver.complete_message(message)


async def test_sessions_are_asked_for_where_there_are_none(links: Links, client: ServiceBusClient) -> None:
    with pytest.raises(ServiceBusError, match="has no sessions"):
        async with client.get_queue_receiver("settle", session_id="s"):
            pytest.fail("the queue has no sessions")
    with pytest.raises(ServiceBusError, match="set the session id"):
        await links.send("replies", ServiceBusMessage("without a session"))
