"""Messages: what the broker reads of them, what it leaves alone, what it refuses."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulators.servicebus import codec
from emulators.servicebus.codec import Symbol, Value
from emulators.servicebus.errors import AmqpError, DecodeError
from emulators.servicebus.message import (
    APPLICATION_PROPERTIES,
    DATA,
    FOOTER,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    VALUE,
    Message,
    Property,
    State,
    batch_items,
    sections,
)
from tests.emulators.servicebus.wire import encoded, message


def data_section(body: bytes = b"x") -> bytes:
    return codec.section(DATA, codec.encode(body))


def encoded_map(**entries: Value) -> bytes:
    """A map with symbols as keys; underscores stand for hyphens."""
    symbols: dict[Value, Value] = {Symbol(key.replace("_", "-")): value for key, value in entries.items()}
    return codec.encode(symbols)


def delivered(parsed: Message, **options: int) -> dict[int, Value]:
    """The sections of a delivery, decoded, by code."""
    raw = parsed.encode_delivery(
        sequence_number=7,
        enqueued_ms=1000,
        delivery_count=options.get("delivery_count", 0),
        state=State.ACTIVE,
        ttl_ms=options.get("ttl_ms"),
        locked_until_ms=options.get("locked_until_ms"),
    )
    return {item.code: codec.decode(raw, item.value, item.stop)[0] for item in sections(raw)}


def test_the_fields_that_routing_needs_are_read() -> None:
    parsed = message(message_id="m", subject="s", session_id="sid", ttl_ms=5000, due_ms=9000, application={"a": 1})
    assert (parsed.message_id, parsed.session_id, parsed.ttl_ms, parsed.scheduled_ms) == ("m", "sid", 5000, 9000)
    assert parsed.property(Property.SUBJECT) == "s"
    assert parsed.property(Property.TO) is None
    assert parsed.application_properties() == {"a": 1}


def test_a_delivery_carries_what_the_broker_knows() -> None:
    sections_ = delivered(message(b"hi"), delivery_count=3, ttl_ms=60_000, locked_until_ms=2000)
    assert sections_[HEADER] == [None, None, 60_000, None, 3]
    assert sections_[MESSAGE_ANNOTATIONS] == {
        "x-opt-enqueued-time": 1000,
        "x-opt-sequence-number": 7,
        "x-opt-message-state": 0,
        "x-opt-locked-until": 2000,
    }
    assert sections_[DATA] == b"hi"


def test_durable_and_priority_travel_along() -> None:
    raw = codec.composite(HEADER, [True, codec.ubyte(9)]) + data_section()
    assert delivered(Message.parse(raw))[HEADER] == [True, 9, None, None, 0]


def test_annotations_of_the_broker_in_a_message_that_is_sent_again_are_dropped() -> None:
    annotations = encoded_map(x_opt_sequence_number=99, x_opt_partition_key="p")
    raw = codec.section(MESSAGE_ANNOTATIONS, annotations) + data_section()
    found = delivered(Message.parse(raw))[MESSAGE_ANNOTATIONS]
    assert isinstance(found, dict)
    assert found["x-opt-sequence-number"] == 7
    assert found["x-opt-partition-key"] == "p"


def test_the_bare_message_is_left_as_it_is() -> None:
    bare = (
        codec.composite(PROPERTIES, [codec.ulong(5)])
        + codec.section(APPLICATION_PROPERTIES, codec.encoded_map(codec.encode("n") + codec.int32(1), 1))
        + data_section(b"one")
        + data_section(b"two")
        + codec.section(FOOTER, encoded_map(f=1))
    )
    parsed = Message.parse(codec.composite(HEADER, [None, None, codec.uint(1)]) + bare)
    assert parsed.encode().endswith(bare)
    assert Message.parse(parsed.encode()).encode() == parsed.encode()
    assert parsed.message_id == "5"


def test_application_properties_are_set_over_those_that_are_there() -> None:
    first = message(application={"DeadLetterReason": "old", "n": 1})
    second = first.with_application_properties({"DeadLetterReason": "new", "more": "x"})
    assert second.application_properties() == {"DeadLetterReason": "new", "n": 1, "more": "x"}
    assert first.application_properties() == {"DeadLetterReason": "old", "n": 1}
    assert second.size == len(second.encode())


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (codec.ulong(7), "7"), (uuid.UUID(int=1), str(uuid.UUID(int=1))), (b"\x01\xff", "01ff"), (None, None)],
)
def test_a_message_id_of_any_type_has_a_text(value: Value, text: str | None) -> None:
    assert message(message_id=value).message_id == text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        data_section()[:-1],
        data_section() + codec.composite(PROPERTIES, ["m"]),
        codec.composite(PROPERTIES, ["m"]) * 2,
        data_section() + codec.section(VALUE, b"\x40"),
        codec.section(0x60, b"\x45"),
        codec.section(DATA, codec.encode("text")),
        codec.composite(HEADER, ["durable"]),
        codec.composite(HEADER, [None, 3.5]),
        codec.composite(HEADER, [None, None, -1]),
        codec.composite(PROPERTIES, [True]),
        codec.composite(PROPERTIES, [None] * 10 + [7]),
        codec.composite(PROPERTIES, [1] * 14),
        codec.section(APPLICATION_PROPERTIES, codec.encoded_map(b"\x54\x01\x54\x02", 1)),
        codec.section(APPLICATION_PROPERTIES, b"\x45"),
        codec.section(MESSAGE_ANNOTATIONS, encoded_map(x_opt_scheduled_enqueue_time="soon")),
    ],
)
def test_malformed_messages_are_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        Message.parse(raw)


def test_ids_are_bounded() -> None:
    with pytest.raises(AmqpError, match="message id is longer than 128 characters"):
        message(message_id="x" * 129)
    with pytest.raises(AmqpError, match="session id is longer than 128 characters"):
        message(session_id="x" * 129)


def test_a_batch_is_made_of_data_sections() -> None:
    items = [encoded(b"a"), encoded(b"b")]
    assert batch_items(b"".join(map(data_section, items))) == items


@pytest.mark.parametrize("raw", [b"", codec.section(VALUE, b"\x40"), codec.composite(PROPERTIES, ["m"])])
def test_other_batches_are_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        batch_items(raw)


@settings(max_examples=300)
@given(st.data())
def test_damaged_messages_parse_or_raise_the_typed_error(data: st.DataObject) -> None:
    raw = bytearray(encoded(message_id="m", session_id="s", ttl_ms=1, due_ms=2, application={"a": [1], "b": "c"}))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = Message.parse(bytes(raw))
    except AmqpError:
        return
    parsed.application_properties()
    parsed.encode()
    delivered(parsed)
