"""Frames and performatives of AMQP 1.0 (part 2.3 and 2.7): typed models of what comes in, bytes of what goes out."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from emulators.servicebus import codec
from emulators.servicebus.codec import Described, Encoded, Symbol, Value
from emulators.servicebus.errors import AmqpError, DecodeError

AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
FRAME_HEADER_SIZE: Final = 8
EMPTY_FRAME: Final = b"\x00\x00\x00\x08\x02\x00\x00\x00"
AMQP_FRAME: Final = 0
SASL_FRAME: Final = 1

OPEN: Final = 0x10
BEGIN: Final = 0x11
ATTACH: Final = 0x12
FLOW: Final = 0x13
TRANSFER: Final = 0x14
DISPOSITION: Final = 0x15
DETACH: Final = 0x16
END: Final = 0x17
CLOSE: Final = 0x18
SASL_MECHANISMS: Final = 0x40
SASL_INIT: Final = 0x41
SASL_OUTCOME: Final = 0x44

ERROR: Final = 0x1D
RECEIVED: Final = 0x23
ACCEPTED: Final = 0x24
REJECTED: Final = 0x25
RELEASED: Final = 0x26
MODIFIED: Final = 0x27
SOURCE: Final = 0x28
TARGET: Final = 0x29

UINT_MAX: Final = 0xFFFFFFFF
_pack_frame_header = struct.Struct(">IBBH").pack


class Fields:
    """The fields of a composite value, checked as they are read; an absent field is None or its default."""

    __slots__ = ("_items", "_name")

    def __init__(self, name: str, items: Sequence[Value]) -> None:
        self._name = name
        self._items = items

    @classmethod
    def of(cls, name: str, value: Value, code: int) -> Fields | None:
        """The fields of a described list; None if there is no value."""
        if value is None:
            return None
        if isinstance(value, Described) and value.descriptor == code and isinstance(value.value, list):
            return cls(name, value.value)
        raise DecodeError(f"{name} has to be a described list with the descriptor 0x{code:x}.")

    def raw(self, index: int) -> Value:
        return self._items[index] if index < len(self._items) else None

    def uint(self, index: int, field: str) -> int:
        value = self.optional_uint(index, field)
        if value is None:
            raise DecodeError(f"{self._name}.{field} is required.")
        return value

    def optional_uint(self, index: int, field: str) -> int | None:
        value = self._items[index] if index < len(self._items) else None
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= UINT_MAX:
            raise DecodeError(f"{self._name}.{field} has to be an unsigned 32-bit number.")
        return value

    def flag(self, index: int, field: str, default: bool = False) -> bool:
        value = self._items[index] if index < len(self._items) else None
        if value is None:
            return default
        if not isinstance(value, bool):
            raise DecodeError(f"{self._name}.{field} has to be a boolean.")
        return value

    def text(self, index: int, field: str) -> str | None:
        value = self.raw(index)
        if not (value is None or isinstance(value, str)):
            raise DecodeError(f"{self._name}.{field} has to be text.")
        return value

    def mapping(self, index: int, field: str) -> Mapping[str, Value]:
        value = self.raw(index)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise DecodeError(f"{self._name}.{field} has to be a map.")
        return {key: item for key, item in value.items() if isinstance(key, str)}


@dataclass(slots=True)
class Open:
    """Part 2.7.1."""

    max_frame_size: int
    idle_timeout_ms: int | None

    @classmethod
    def parse(cls, fields: Fields) -> Open:
        if fields.text(0, "container-id") is None:
            raise DecodeError("open.container-id is required.")
        max_frame_size = fields.optional_uint(2, "max-frame-size")
        return cls(UINT_MAX if max_frame_size is None else max_frame_size, fields.optional_uint(4, "idle-time-out"))


@dataclass(slots=True)
class Begin:
    """Part 2.7.2."""

    next_outgoing_id: int
    incoming_window: int

    @classmethod
    def parse(cls, fields: Fields) -> Begin:
        return cls(fields.uint(1, "next-outgoing-id"), fields.uint(2, "incoming-window"))


@dataclass(slots=True)
class Attach:
    """Part 2.7.3, with what matters of source and target (part 3.5.3 and 3.5.4)."""

    name: str
    handle: int
    peer_receives: bool
    sender_settles: bool
    """snd-settle-mode is settled: the sender settles every delivery as it sends it."""
    snd_settle_mode: int
    rcv_settle_mode: int
    source: str | None
    target: str | None
    filters: Mapping[str, Value]
    properties: Mapping[str, Value]

    @classmethod
    def parse(cls, fields: Fields) -> Attach:
        name = fields.text(0, "name")
        if name is None:
            raise DecodeError("attach.name is required.")
        if fields.raw(2) is None:
            raise DecodeError("attach.role is required.")
        snd_settle_mode = fields.optional_uint(3, "snd-settle-mode")
        rcv_settle_mode = fields.optional_uint(4, "rcv-settle-mode")
        source = Fields.of("attach.source", fields.raw(5), SOURCE)
        target = Fields.of("attach.target", fields.raw(6), TARGET)
        return cls(
            name=name,
            handle=fields.uint(1, "handle"),
            peer_receives=fields.flag(2, "role"),
            sender_settles=snd_settle_mode == 1,
            snd_settle_mode=2 if snd_settle_mode is None else min(snd_settle_mode, 2),
            rcv_settle_mode=min(rcv_settle_mode or 0, 1),
            source=source.text(0, "address") if source else None,
            target=target.text(0, "address") if target else None,
            filters=source.mapping(7, "filter") if source else {},
            properties=fields.mapping(13, "properties"),
        )


@dataclass(slots=True)
class Flow:
    """Part 2.7.4."""

    next_incoming_id: int | None
    incoming_window: int
    next_outgoing_id: int
    handle: int | None
    delivery_count: int | None
    link_credit: int | None
    drain: bool
    echo: bool

    @classmethod
    def parse(cls, fields: Fields) -> Flow:
        return cls(
            fields.optional_uint(0, "next-incoming-id"),
            fields.uint(1, "incoming-window"),
            fields.uint(2, "next-outgoing-id"),
            fields.optional_uint(4, "handle"),
            fields.optional_uint(5, "delivery-count"),
            fields.optional_uint(6, "link-credit"),
            fields.flag(8, "drain"),
            fields.flag(9, "echo"),
        )


@dataclass(slots=True)
class Transfer:
    """Part 2.7.5."""

    handle: int
    delivery_id: int | None
    message_format: int
    settled: bool
    more: bool
    aborted: bool

    @classmethod
    def parse(cls, fields: Fields) -> Transfer:
        return cls(
            fields.uint(0, "handle"),
            fields.optional_uint(1, "delivery-id"),
            fields.optional_uint(3, "message-format") or 0,
            fields.flag(4, "settled"),
            fields.flag(5, "more"),
            fields.flag(9, "aborted"),
        )


@dataclass(slots=True)
class Disposition:
    """Part 2.7.6, with the outcome (part 3.4)."""

    peer_receives: bool
    first: int
    last: int
    settled: bool
    outcome: int | None
    """The descriptor of the state; None if there is no state."""
    state: Fields

    @classmethod
    def parse(cls, fields: Fields) -> Disposition:
        first = fields.uint(1, "first")
        last = fields.optional_uint(2, "last")
        state = fields.raw(4)
        outcome: int | None = None
        items: Sequence[Value] = ()
        if state is not None:
            if not (
                isinstance(state, Described) and isinstance(state.descriptor, int) and isinstance(state.value, list)
            ):
                raise DecodeError("disposition.state has to be an outcome.")
            outcome, items = state.descriptor, state.value
        return cls(
            peer_receives=fields.flag(0, "role"),
            first=first,
            last=first if last is None else last,
            settled=fields.flag(3, "settled"),
            outcome=outcome,
            state=Fields("disposition.state", items),
        )


# ---- outgoing


def frame(channel: int, performative: bytes, kind: int = AMQP_FRAME) -> bytes:
    """Put the frame header in front of a performative."""
    return _pack_frame_header(len(performative) + FRAME_HEADER_SIZE, 2, kind, channel) + performative


def transfer(handle: int, delivery_id: int, tag: bytes, *, settled: bool, more: bool) -> bytes:
    """A transfer performative; the payload follows it in the frame."""
    fields = b"".join(
        (
            codec.uint(handle),
            codec.uint(delivery_id),
            b"\xa0",
            bytes((len(tag),)),
            tag,
            b"\x43\x41" if settled else b"\x43\x42",
            codec.TRUE if more else codec.FALSE,
        )
    )
    return b"\x00\x53\x14\xc0" + bytes((len(fields) + 1, 6)) + fields


def disposition(*, as_receiver: bool, delivery_id: int, state: bytes) -> bytes:
    """A settled disposition for one delivery."""
    fields = (codec.TRUE if as_receiver else codec.FALSE, codec.uint(delivery_id), codec.NULL, codec.TRUE, state)
    return b"\x00\x53\x15" + codec.encoded_list(fields)


def outcome(code: int, *fields: Value) -> bytes:
    """An outcome (part 3.4)."""
    return codec.section(code, codec.encoded_list([codec.encode(field) for field in fields]))


def error(problem: AmqpError) -> Encoded:
    """An error (part 2.8.14). All three fields are there because the Azure SDK for Python reads each of them."""
    fields = (codec.encode(Symbol(problem.condition)), codec.encode(problem.description[:1024]), codec.NULL)
    return Encoded(codec.section(ERROR, codec.encoded_list(fields)))


ACCEPTED_STATE: Final = outcome(ACCEPTED)
