from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from aos.config import load_settings
from aos.errors import BusUnavailable, EntityRefuses, SettingError, UnknownEntity
from aos.messaging import bus as bus_module
from aos.messaging.bus import Bus, Outbound
from aos.messaging.envelopes import EnvelopeInvalid
from emulators.ports import settle
from emulators.servicebus import ServiceBusEmulator, load_entities
from tests.messaging.conftest import ENTITIES, Inbox, bus_settings


def body(message: ServiceBusReceivedMessage) -> bytes:
    return b"".join(message.body)


@pytest.fixture
def collected() -> Iterator[None]:
    """Collects garbage: the SDK leaves the socket of a connection that broke to the collector."""
    yield
    gc.collect()


async def test_a_message_arrives_with_all_that_it_says(bus: Bus, inbox: Inbox) -> None:
    await bus.send(
        [
            Outbound(
                "answers",
                b'{"a": 1}',
                "m1",
                correlation_id="c1",
                session_id="s1",
                reply_to="somewhere",
                subject="sub",
                properties={"aos-source": "agent-events", "count": 7},
            )
        ]
    )
    (message,) = await inbox.take()
    assert (body(message), message.message_id, message.correlation_id) == (b'{"a": 1}', "m1", "c1")
    assert (message.session_id, message.reply_to, message.subject) == ("s1", "somewhere", "sub")
    assert message.content_type == "application/json"
    properties = dict(message.application_properties or {})
    # Where some other test switched tracing on in this process, the message says so.
    properties.pop(b"traceparent", None)
    assert properties == {b"aos-source": b"agent-events", b"count": 7}


async def test_many_messages_arrive_in_order(bus: Bus, inbox: Inbox) -> None:
    await bus.send(Outbound("answers", b"x", str(number)) for number in range(50))
    assert [message.message_id for message in await inbox.take(50)] == [str(number) for number in range(50)]


async def test_more_than_a_message_holds_goes_out_one_by_one(bus: Bus, inbox: Inbox) -> None:
    sent = [Outbound("answers", bytes([65 + number]) * 100_000, str(number)) for number in range(5)]
    await bus.send(sent)
    assert [body(message) for message in await inbox.take(5)] == [message.body for message in sent]


async def test_what_no_message_holds_is_refused_for_good(bus: Bus, inbox: Inbox) -> None:
    with pytest.raises(EnvelopeInvalid, match="answers") as refused:
        await bus.send([Outbound("answers", b"x" * 300_000, "big")])
    assert refused.value.code == "too_large"
    await bus.send([Outbound("answers", b"small", "small")])
    assert (await inbox.take())[0].message_id == "small"


async def test_a_delayed_message_waits(bus: Bus, inbox: Inbox) -> None:
    started = datetime.now(UTC)
    await bus.send([Outbound("answers", b"later", "later", delay=0.6), Outbound("answers", b"now", "now")])
    arrived = {message.message_id: message.enqueued_time_utc for message in await inbox.take(2)}
    assert arrived.keys() == {"now", "later"}
    assert arrived["later"] is not None
    assert arrived["later"] - started >= timedelta(seconds=0.599)  # the wire has whole milliseconds


async def test_a_session_and_a_topic(bus: Bus, client: ServiceBusClient) -> None:
    await bus.send([Outbound("in-sessions", b"1", "1", session_id="red"), Outbound("news", b"2", "2")])
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE

    async def first(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
        async with receiver:
            (message,) = await receiver.receive_messages(1, max_wait_time=30)
        return message

    in_session, news = await asyncio.gather(
        first(client.get_queue_receiver("in-sessions", session_id="red", receive_mode=mode)),
        first(client.get_subscription_receiver("news", "all", receive_mode=mode)),
    )
    assert (in_session.message_id, in_session.session_id, news.message_id) == ("1", "red", "2")


async def test_an_entity_that_is_not_there(bus: Bus) -> None:
    entities = ["nowhere", "no where/$at:all", "x" * 300]
    sent = (bus.send([Outbound(entity, b"x", "1")]) for entity in entities)
    for entity, outcome in zip(entities, await asyncio.gather(*sent, return_exceptions=True), strict=True):
        assert isinstance(outcome, UnknownEntity)
        assert repr(entity) in outcome.detail


async def test_an_entity_that_wants_sessions_refuses_what_has_none_for_good(bus: Bus, client: ServiceBusClient) -> None:
    with pytest.raises(EntityRefuses, match="ReplyToSessionId") as refused:
        await bus.send([Outbound("in-sessions", b"x", "1")])
    # Whoever can do without an answer that reaches nobody can do without this one.
    assert isinstance(refused.value, UnknownEntity)
    await bus.send([Outbound("in-sessions", b"x", "2", session_id="blue")])
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with client.get_queue_receiver("in-sessions", session_id="blue", receive_mode=mode) as receiver:
        assert [message.message_id for message in await receiver.receive_messages(1, max_wait_time=30)] == ["2"]


async def test_names_that_were_tried_are_not_kept(bus: Bus) -> None:
    with pytest.raises(UnknownEntity):
        await bus.send([Outbound("chosen-by-a-sender", b"{}", "m1")])
    gc.collect()
    assert "chosen-by-a-sender" not in {*bus._locks, *bus._senders}


async def test_senders_that_were_not_used_for_long_are_closed(
    emulator: ServiceBusEmulator, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "MOST_SENDERS", 2)
    bus = Bus(bus_settings(emulator))
    for number, entity in enumerate(["answers", "news", "answers", "in-sessions", "answers"]):
        await bus.send([Outbound(entity, b"x", str(number), session_id="green")])
    assert list(bus._senders) == ["in-sessions", "answers"]
    await bus.send([Outbound("news", b"x", "5")])
    assert list(bus._senders) == ["answers", "news"]
    await bus.close()
    assert [message.message_id for message in await inbox.take(3)] == ["0", "2", "4"]


async def test_a_sender_serves_many_tasks(bus: Bus, inbox: Inbox) -> None:
    await asyncio.gather(*(bus.send([Outbound("answers", b"x", str(number))]) for number in range(40)))
    assert sorted(int(str(message.message_id)) for message in await inbox.take(40)) == list(range(40))


async def test_senders_are_opened_ahead_and_after_a_close(emulator: ServiceBusEmulator, inbox: Inbox) -> None:
    bus = Bus(bus_settings(emulator))
    await bus.close()
    await bus.prepare("answers", "news")
    opened = dict(bus._senders)
    assert all(sender._running for sender, _ in opened.values()), "their links stand"
    await bus.send([Outbound("answers", b"x", "1")])
    assert bus._senders == opened, "opening takes half a second"
    assert list(opened) == ["answers", "news"]
    await bus.close()
    with pytest.raises(UnknownEntity, match="nowhere"):
        await bus.prepare("nowhere", "answers")
    await bus.send([Outbound("answers", b"x", "2")])
    await bus.close()
    assert [message.message_id for message in await inbox.take(2)] == ["1", "2"]


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_bus_goes_down_and_comes_back() -> None:
    # Not one that the system may give to a connection in the meantime.
    port = settle({"BUS": ("the bus", 0)})["BUS"]
    emulator = ServiceBusEmulator(load_entities(ENTITIES), port=port)
    await emulator.start()
    bus = Bus(bus_settings(emulator))
    await bus.send([Outbound("answers", b"x", "before")])
    await emulator.stop()
    with pytest.raises(BusUnavailable, match="answers"):
        await bus.send([Outbound("answers", b"x", "meanwhile")])
    async with ServiceBusEmulator(load_entities(ENTITIES), port=port) as again:
        await bus.send([Outbound("answers", b"x", "after")])
        await bus.close()
        mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
        async with (
            ServiceBusClient.from_connection_string(again.connection_string) as client,
            client.get_queue_receiver("answers", receive_mode=mode) as receiver,
        ):
            (message,) = await receiver.receive_messages(1, max_wait_time=30)
    assert message.message_id == "after"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "AZURE_SERVICE_BUS_CONNECTION_STRING is not set"),
        ({"AZURE_SERVICE_BUS_CONNECTION_STRING": "secret"}, "AZURE_SERVICE_BUS_CONNECTION_STRING is not a connection"),
        ({"AZURE_SERVICE_BUS_CONNECTION_STRING__fullyQualifiedNamespace": "a.b"}, "__fullyQualifiedNamespace"),
    ],
)
async def test_a_setting_that_is_no_use_is_named(values: dict[str, object], named: str) -> None:
    bus = Bus(load_settings(values))
    with pytest.raises(SettingError, match=named) as refused:
        await bus.send([Outbound("answers", b"x", "1")])
    assert "secret" not in refused.value.detail
