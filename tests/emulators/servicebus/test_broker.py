"""Names, topics and filters."""

from __future__ import annotations

import pytest

from emulators.servicebus import errors
from emulators.servicebus.broker import Broker
from emulators.servicebus.errors import AmqpError
from tests.emulators.servicebus.wire import Clock, Json, body_of, broker, message


def correlation(**conditions: object) -> Json:
    return {"Name": "rule", "Properties": {"FilterType": "Correlation", "CorrelationFilter": conditions}}


def topic(**subscriptions: list[Json]) -> Json:
    return {"t": {"Subscriptions": [{"Name": name, "Rules": rules} for name, rules in subscriptions.items()]}}


def received(found: Broker, name: str) -> list[bytes]:
    return [body_of(entry) for entry in found.source(f"t/Subscriptions/{name}").peek(0)]


def test_paths_are_compared_without_case() -> None:
    found = broker(Clock(), {"Orders": {}}, topic(sub=[]))
    assert found.source("ORDERS") is found.destination("orders")
    assert found.source("T/subscriptions/SUB/$deadletterqueue") is found.source("t/Subscriptions/sub").dead_letters


@pytest.mark.parametrize(
    "path", ["nothing", "q/$Transfer/$DeadLetterQueue", "t/Subscriptions/x", "t/$DeadLetterQueue", ""]
)
def test_unknown_entities_are_not_found(path: str) -> None:
    found = broker(Clock(), {"q": {}}, topic(sub=[]))
    for look in (found.source, found.destination):
        with pytest.raises(AmqpError) as caught:
            look(path)
        assert caught.value.condition == errors.NOT_FOUND


def test_only_queues_and_topics_take_messages() -> None:
    found = broker(Clock(), {"q": {}}, topic(sub=[]))
    for path in ("t/Subscriptions/sub", "q/$DeadLetterQueue"):
        with pytest.raises(AmqpError) as caught:
            found.destination(path)
        assert caught.value.condition == errors.NOT_ALLOWED
    with pytest.raises(AmqpError, match="one of its subscriptions"):
        found.source("t")


def test_every_subscription_gets_its_own_copy() -> None:
    found = broker(Clock(), topics=topic(a=[], b=[]))
    found.destination("t").publish([message(b"x")])
    assert received(found, "a") == received(found, "b") == [b"x"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([correlation(Label="red")], [b"red"]),
        ([correlation(Subject="red")], [b"red"]),
        ([correlation(MessageId="2")], [b"blue"]),
        ([correlation(SessionId="s")], [b"red"]),
        ([correlation(Properties={"n": 1})], [b"red"]),
        ([correlation(Properties={"n": True})], []),
        ([correlation(Label="red", Properties={"n": 2})], []),
        ([correlation(Label="red"), correlation(Label="blue")], [b"red", b"blue"]),
        ([correlation(To="nowhere")], []),
        ([{"Name": "all", "Properties": {"FilterType": "True"}}, correlation(To="nowhere")], [b"red", b"blue"]),
    ],
)
def test_filters_choose(rules: list[Json], expected: list[bytes]) -> None:
    found = broker(Clock(), topics=topic(sub=rules))
    red = message(b"red", message_id="1", subject="red", session_id="s", application={"n": 1})
    blue = message(b"blue", message_id="2", subject="blue", application={"n": "1"})
    found.destination("t").publish([red, blue])
    assert received(found, "sub") == expected


def test_a_topic_keeps_its_schedule_and_can_cancel() -> None:
    clock = Clock()
    found = broker(clock, topics=topic(sub=[]))
    due = clock.now + 1000
    keep, drop = found.destination("t").publish([message(b"keep", due_ms=due), message(b"drop", due_ms=due)])
    found.destination("t").cancel_scheduled([drop])
    assert received(found, "sub") == []
    clock.now = due
    found.tick()
    assert received(found, "sub") == [b"keep"]
    assert keep == 1


def test_a_topic_detects_duplicates_and_limits_the_time_to_live() -> None:
    clock = Clock()
    subscription: Json = {"Name": "sub", "Properties": {"DefaultMessageTimeToLive": "PT1H"}}
    properties = {"RequiresDuplicateDetection": True, "DefaultMessageTimeToLive": "PT1M"}
    found = broker(clock, topics={"t": {"Properties": properties, "Subscriptions": [subscription]}})
    found.destination("t").publish([message(b"1", message_id="m"), message(b"2", message_id="m")])
    assert received(found, "sub") == [b"1"]
    clock.now += 60_000
    found.tick()
    assert received(found, "sub") == []


def test_a_message_without_session_is_dead_lettered_where_sessions_are_required() -> None:
    subscription: Json = {"Name": "sub", "Properties": {"RequiresSession": True}}
    found = broker(Clock(), topics={"t": {"Subscriptions": [subscription]}})
    found.destination("t").publish([message(b"x")])
    assert received(found, "sub") == []
    (entry,) = found.source("t/Subscriptions/sub/$DeadLetterQueue").peek(0)
    assert entry.message.application_properties()["DeadLetterReason"] == "Session id is null."


def test_a_topic_is_full_when_a_subscription_that_wants_the_message_is() -> None:
    found = broker(Clock(), topics=topic(red=[correlation(Label="red")], all=[]), max_queue_bytes=2500)
    found.destination("t").publish([message(bytes(1500), subject="red")])
    with pytest.raises(AmqpError) as caught:
        found.destination("t").publish([message(bytes(1500), subject="blue")])
    assert caught.value.condition == errors.RESOURCE_LIMIT_EXCEEDED
