"""A message as the broker sees it: what routing and settlement need is decoded, the rest stays bytes.

Sections are those of AMQP 1.0 part 3.2. The bare message (properties, application properties, body) goes to the
receiver byte for byte as the sender wrote it; bodies made of data sections are never decoded.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final

from emulators.servicebus import codec
from emulators.servicebus.codec import Symbol, Value
from emulators.servicebus.errors import INVALID_FIELD, AmqpError, DecodeError

HEADER: Final = 0x70
DELIVERY_ANNOTATIONS: Final = 0x71
MESSAGE_ANNOTATIONS: Final = 0x72
PROPERTIES: Final = 0x73
APPLICATION_PROPERTIES: Final = 0x74
DATA: Final = 0x75
SEQUENCE: Final = 0x76
VALUE: Final = 0x77
FOOTER: Final = 0x78

MAX_ID_LENGTH: Final = 128
"""Longest message id and session id, in characters, as in Service Bus."""
MAX_TTL_MS: Final = 0xFFFFFFFF

_LAST_TIME_MS: Final = (1 << 63) - 1
"""A timestamp is a signed 64-bit number of milliseconds (AMQP 1.0 part 1.6.17)."""
_SCHEDULED_TIME: Final = "x-opt-scheduled-enqueue-time"
# Written by the broker alone; a copy that a sender took over from a message it had received is dropped.
_BROKER_ANNOTATIONS: Final = frozenset(
    f"x-opt-{name}"
    for name in ("enqueued-time", "sequence-number", "message-state", "locked-until", "lock-token", "deadletter-source")
)


class State(IntEnum):
    """Where a message stands, with the numbers that the Azure SDKs read from ``x-opt-message-state``."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


class Property(IntEnum):
    """Positions in the properties section (AMQP 1.0 part 3.2.4)."""

    MESSAGE_ID = 0
    TO = 2
    SUBJECT = 3
    REPLY_TO = 4
    CORRELATION_ID = 5
    CONTENT_TYPE = 6
    GROUP_ID = 10
    REPLY_TO_GROUP_ID = 12


class Message:
    """The content of a message; it does not change once it is parsed, so the copies of a topic share it."""

    __slots__ = (
        "_annotation_count", "_annotations", "_application", "_bare_properties", "_body", "_durable", "_priority",
        "message_id", "properties", "scheduled_ms", "session_id", "size", "ttl_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self._durable: bool | None = None
        self._priority: int | None = None
        self._annotations = b""
        self._annotation_count = 0
        self._bare_properties = b""
        self._application = b""
        self._body = b""
        self.properties: list[Value] = []
        self.message_id: str | None = None
        """The message id as text, whatever its wire type."""
        self.session_id: str | None = None
        self.ttl_ms: int | None = None
        self.scheduled_ms: int | None = None
        self.size = 0
        """Bytes that the message takes in its encoded form."""

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """Read one encoded message and check that every section is what AMQP says it is.

        Raises `DecodeError` for malformed bytes and `AmqpError` for an id that Service Bus does not take.
        """
        message = cls()
        message.size = len(data)
        if not data:
            raise DecodeError("A message cannot be empty.")
        for section in sections(data):
            code = section.code
            if code == HEADER:
                message._read_header(section.fields)
            elif code == MESSAGE_ANNOTATIONS:
                message._read_annotations(section.entries)
            elif code == PROPERTIES:
                message._read_properties(section.fields)
                message._bare_properties = data[section.start : section.stop]
            elif code == APPLICATION_PROPERTIES:
                message._application = data[section.start : section.stop]
            elif code > APPLICATION_PROPERTIES and not message._body:
                message._body = data[section.start :]
        return message

    def property(self, name: Property) -> Value:
        """A field of the properties section; None if it is absent."""
        return self.properties[name] if len(self.properties) > name else None

    def application_properties(self) -> dict[str, Value]:
        """The application properties, decoded."""
        return {key: codec.decode(raw, 0, len(raw))[0] for key, raw in self._application_entries()}

    def with_application_properties(self, added: Mapping[str, str]) -> Message:
        """A copy with text properties set over those it has."""
        entries = dict(self._application_entries())
        entries.update({key: codec.encode(value) for key, value in added.items()})
        pairs = b"".join([codec.encode(key) + raw for key, raw in entries.items()])
        copy = Message()
        for slot in Message.__slots__:
            setattr(copy, slot, getattr(self, slot))
        copy._application = codec.section(APPLICATION_PROPERTIES, codec.encoded_map(pairs, len(entries)))
        copy.size = self.size + len(copy._application) - len(self._application)
        return copy

    def encode(self) -> bytes:
        """The message as it is stored: what the sender gave, without anything that the broker adds."""
        fields = self._header_fields(self.ttl_ms)
        header = b"" if fields == [None, None, None] else codec.composite(HEADER, fields)
        annotations = b""
        if self._annotation_count:
            value = codec.encoded_map(self._annotations, self._annotation_count)
            annotations = codec.section(MESSAGE_ANNOTATIONS, value)
        content = b"".join((header, annotations, self._bare_properties, self._application, self._body))
        # Of a message that has only what the broker drops, an empty header is left: no bytes at all are no message.
        return content or codec.composite(HEADER, [])

    def encode_delivery(
        self,
        *,
        sequence_number: int,
        enqueued_ms: int,
        delivery_count: int,
        state: State,
        ttl_ms: int | None,
        locked_until_ms: int | None = None,
    ) -> bytes:
        """The message as a receiver gets it: times are milliseconds since the Unix epoch."""
        if self._durable is None and self._priority is None:
            header = _header(ttl_ms, delivery_count)
        else:
            fields = [*self._header_fields(ttl_ms), None, codec.uint(delivery_count)]
            header = codec.composite(HEADER, fields)
        annotations = self._annotations + _broker_annotations(enqueued_ms, sequence_number, state)
        count = self._annotation_count + 3
        if locked_until_ms is not None:
            annotations += _LOCKED_UNTIL + _pack_time(0x83, locked_until_ms)
            count += 1
        value = codec.encoded_map(annotations, count)
        return b"".join((header, b"\x00\x53\x72", value, self._bare_properties, self._application, self._body))

    def _header_fields(self, ttl_ms: int | None) -> list[Value]:
        return [
            self._durable,
            None if self._priority is None else codec.ubyte(self._priority),
            None if ttl_ms is None else codec.uint(ttl_ms),
        ]

    def _application_entries(self) -> list[tuple[str, bytes]]:
        raw = self._application
        return codec.map_entries(raw, codec.descriptor_at(raw, 0, len(raw))[1], len(raw))[0] if raw else []

    def _read_header(self, fields: list[Value]) -> None:
        durable, priority, ttl = (*fields[:3], None, None, None)[:3]
        if not (durable is None or isinstance(durable, bool)):
            raise DecodeError("header.durable has to be a boolean.")
        if not (priority is None or _is_unsigned(priority, 0xFF)):
            raise DecodeError("header.priority has to be a ubyte.")
        if not (ttl is None or _is_unsigned(ttl, MAX_TTL_MS)):
            raise DecodeError("header.ttl has to be a number of milliseconds (uint).")
        self._durable = durable
        self._priority = priority if isinstance(priority, int) else None
        self.ttl_ms = ttl if isinstance(ttl, int) else None

    def _read_annotations(self, entries: list[tuple[str, bytes]]) -> None:
        kept = []
        for key, raw in entries:
            if key in _BROKER_ANNOTATIONS:
                continue
            if key == _SCHEDULED_TIME:
                due = codec.decode(raw, 0, len(raw))[0]
                if due is not None and (isinstance(due, bool) or not isinstance(due, int) or due > _LAST_TIME_MS):
                    raise DecodeError(f"The annotation {_SCHEDULED_TIME} has to be a timestamp.")
                self.scheduled_ms = due
            kept.append(codec.encode(Symbol(key) if key.isascii() else key) + raw)
        self._annotations, self._annotation_count = b"".join(kept), len(kept)

    def _read_properties(self, fields: list[Value]) -> None:
        if len(fields) > 13:
            raise DecodeError("The properties section has 13 fields.")
        self.properties = fields
        self.message_id = identifier(fields[0] if fields else None)
        session_id = self.property(Property.GROUP_ID)
        if not (session_id is None or isinstance(session_id, str)):
            raise DecodeError("properties.group-id has to be a string.")
        self.session_id = session_id
        for name, text in (("message id", self.message_id), ("session id", session_id)):
            if text is not None and len(text) > MAX_ID_LENGTH:
                raise AmqpError(INVALID_FIELD, f"The {name} is longer than {MAX_ID_LENGTH} characters; shorten it.")


class Section:
    """One section: its code, its span with the descriptor, and what is inside."""

    __slots__ = ("code", "entries", "fields", "start", "stop", "value")

    def __init__(self, code: int, start: int, value: int) -> None:
        self.code = code
        self.start = start
        self.stop = value
        self.value = value
        """Where the described value starts."""
        self.fields: list[Value] = []
        """The items of a list: header, properties, an amqp-sequence."""
        self.entries: list[tuple[str, bytes]] = []
        """The entries of a map, values still encoded: annotations, application properties, footer."""


def sections(data: bytes) -> Iterator[Section]:
    """Walk over the sections of a message.

    Raises `DecodeError` if a section is unknown, malformed or out of order (AMQP 1.0 part 3.2).
    """
    position, end, previous = 0, len(data), 0
    while position < end:
        code, value = codec.descriptor_at(data, position, end)
        if not HEADER <= code <= FOOTER:
            raise DecodeError(f"0x{code:x} is not a section of a message.")
        if code < previous or (code == previous and code not in (DATA, SEQUENCE)):
            raise DecodeError("The sections of a message are out of order.")
        if DATA <= previous <= VALUE and code not in (previous, FOOTER):
            raise DecodeError("A message has a body of one kind only.")
        section = Section(code, position, value)
        if code == DATA:
            section.stop = codec.binary_span(data, value, end)[1]
        elif code == VALUE:
            section.stop = codec.decode(data, value, end)[1]
        elif code in (HEADER, PROPERTIES, SEQUENCE):
            section.fields, section.stop = codec.decode_list(data, value, end)
        else:
            section.entries, section.stop = codec.map_entries(data, value, end)
        yield section
        position, previous = section.stop, code


def batch_items(data: bytes) -> list[bytes]:
    """The encoded messages of a batch (message-format 0x80013700): one to each data section."""
    items = []
    for section in sections(data):
        if section.code == DATA:
            start, stop = codec.binary_span(data, section.value, section.stop)
            items.append(data[start:stop])
        elif section.code > DATA:
            raise DecodeError("A batch is made of data sections.")
    if not items:
        raise DecodeError("A batch holds no message.")
    return items


def identifier(value: Value) -> str | None:
    """The text of a message id or correlation id, which may be a string, a number, a uuid or binary."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, uuid.UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise DecodeError("A message id has to be a string, a number, a uuid or binary.")


def _is_unsigned(value: Value, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum


_pack_time = struct.Struct(">Bq").pack
_LOCKED_UNTIL: Final = codec.encode(Symbol("x-opt-locked-until"))
_ENQUEUED: Final = codec.encode(Symbol("x-opt-enqueued-time"))
_SEQUENCE_NUMBER: Final = codec.encode(Symbol("x-opt-sequence-number"))
_STATES: Final = [codec.encode(Symbol("x-opt-message-state")) + codec.int32(state) for state in State]


def _broker_annotations(enqueued_ms: int, sequence_number: int, state: State) -> bytes:
    enqueued = _ENQUEUED + _pack_time(0x83, enqueued_ms)
    return enqueued + _SEQUENCE_NUMBER + _pack_time(0x81, sequence_number) + _STATES[state]


def _header(ttl_ms: int | None, delivery_count: int) -> bytes:
    ttl = codec.NULL if ttl_ms is None else codec.uint(ttl_ms)
    return b"\x00\x53\x70" + codec.encoded_list((codec.NULL, codec.NULL, ttl, codec.NULL, codec.uint(delivery_count)))
