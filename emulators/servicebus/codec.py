"""The AMQP 1.0 type system (part 1), total: any input either decodes or raises `DecodeError`.

Decoding never reads past the end that it is given, never recurses deeper than `MAX_DEPTH` and never builds more items
than there are bytes to back them. Types that Python does not tell apart (the integer widths, timestamps, characters)
decode to plain Python values; a writer picks the wire type with `uint`, `timestamp` and the like, whose results
`encode` passes through untouched.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from emulators.servicebus.errors import DecodeError

MAX_DEPTH: Final = 32
# Items of an array may take no bytes at all (an array of nulls), so the size of the input does not bound their number.
MAX_WIDTHLESS_ITEMS: Final = 16


class Symbol(str):
    """A symbolic value: ASCII, from a closed vocabulary."""

    __slots__ = ()


class Encoded(bytes):
    """A value that is already in its wire form, constructor included."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor that gives it a meaning beyond its primitive type."""

    descriptor: Value
    value: Value


Value: TypeAlias = (
    "bool | int | float | str | bytes | uuid.UUID | Described | Sequence[Value] | Mapping[Value, Value]"
    " | Mapping[str, Value] | None"
)
Reader: TypeAlias = Callable[[bytes, int, int, int], "tuple[Value, int]"]


def decode(data: bytes, position: int, end: int, depth: int = 0) -> tuple[Value, int]:
    """Decode the value at `position`; `end` is the first byte that is not part of it.

    Returns the value and the position after it.
    """
    if position >= end:
        raise DecodeError("A value is expected where the data ends.")
    reader = _READERS[data[position]]
    if reader is None:
        raise DecodeError(f"0x{data[position]:02x} is not a constructor of AMQP 1.0.")
    return reader(data, position + 1, end, depth)


def decode_list(data: bytes, position: int, end: int) -> tuple[list[Value], int]:
    """Decode a value that has to be a list."""
    value, position = decode(data, position, end)
    if not isinstance(value, list):
        raise DecodeError(f"A list is expected, not {type(value).__name__}.")
    return value, position


def descriptor_at(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Read the numeric descriptor of a described value; returns it and the position of the value itself."""
    if end - position >= 3 and data[position] == 0:
        constructor = data[position + 1]
        if constructor == 0x53:
            return data[position + 2], position + 3
        if constructor == 0x80 and end - position >= 10:
            return int.from_bytes(data[position + 2 : position + 10], "big"), position + 10
    raise DecodeError("A described value with a numeric descriptor is expected.")


def map_entries(data: bytes, position: int, end: int) -> tuple[list[tuple[str, bytes]], int]:
    """Split a map with text keys into its keys and the wire form of its values, so that their types survive."""
    count, position, stop = _map_span(data, position, end)
    entries: list[tuple[str, bytes]] = []
    for _ in range(count // 2):
        key, start = decode(data, position, stop, 1)
        if not isinstance(key, str):
            raise DecodeError("The keys of this map have to be strings or symbols.")
        _, position = decode(data, start, stop, 1)
        entries.append((key, data[start:position]))
    if position != stop:
        raise DecodeError("A map holds more bytes than its items take.")
    return entries, stop


def binary_span(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Where the content of the binary value at `position` starts and stops; nothing is copied."""
    if position < end and data[position] == 0xA0:
        return _counted(data, position + 1, end, 1)
    if position < end and data[position] == 0xB0:
        return _counted(data, position + 1, end, 4)
    raise DecodeError("A binary value is expected.")


# ---- readers: (data, position after the constructor, end, depth) -> (value, position after the value)


def _constant(value: bool | int | None) -> Reader:
    return lambda data, position, end, depth: (value, position)


def _empty_list(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
    return [], position


def _octet(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
    if position >= end:
        raise DecodeError("The data ends inside a number.")
    return data[position], position + 1


def _number(layout: str) -> Reader:
    codec = struct.Struct(">" + layout)
    unpack_from, width = codec.unpack_from, codec.size

    def read(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
        stop = position + width
        if stop > end:
            raise DecodeError("The data ends inside a number.")
        value: int | float = unpack_from(data, position)[0]
        return value, stop

    return read


def _opaque(width: int) -> Reader:
    """Decimals: nothing here computes with them, so their bytes do."""

    def read(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
        stop = position + width
        if stop > end:
            raise DecodeError("The data ends inside a decimal.")
        return data[position:stop], stop

    return read


def _boolean(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
    if position >= end or data[position] > 1:
        raise DecodeError("A boolean octet has to be 0 or 1.")
    return data[position] == 1, position + 1


def _character(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
    stop = position + 4
    if stop > end:
        raise DecodeError("The data ends inside a character.")
    point = int.from_bytes(data[position:stop], "big")
    if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        raise DecodeError(f"0x{point:x} is not a Unicode scalar value.")
    return chr(point), stop


def _uuid(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
    stop = position + 16
    if stop > end:
        raise DecodeError("The data ends inside a uuid.")
    return uuid.UUID(bytes=data[position:stop]), stop


def _counted(data: bytes, position: int, end: int, width: int) -> tuple[int, int]:
    start = position + width
    if start > end:
        raise DecodeError("The data ends inside a length.")
    stop = start + (data[position] if width == 1 else int.from_bytes(data[position:start], "big"))
    if stop > end:
        raise DecodeError("A length points past the end of the data.")
    return start, stop


def _binary(width: int) -> Reader:
    def read(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
        start, stop = _counted(data, position, end, width)
        return data[start:stop], stop

    return read


def _string(width: int) -> Reader:
    def read(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
        start, stop = _counted(data, position, end, width)
        try:
            return data[start:stop].decode(), stop
        except UnicodeDecodeError as error:
            raise DecodeError("A string is not valid UTF-8.") from error

    return read


def _symbol(width: int) -> Reader:
    def read(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
        start, stop = _counted(data, position, end, width)
        try:
            return Symbol(data[start:stop].decode("ascii")), stop
        except UnicodeDecodeError as error:
            raise DecodeError("A symbol is not ASCII.") from error

    return read


def _compound_span(data: bytes, position: int, end: int, width: int) -> tuple[int, int, int]:
    """Size and count of a list, map or array; returns count, position of the first item, end."""
    start, stop = _counted(data, position, end, width)
    first = start + width
    if first > stop:
        raise DecodeError("A compound value is too short for its count.")
    count = data[start] if width == 1 else int.from_bytes(data[start:first], "big")
    return count, first, stop


def _items(data: bytes, position: int, stop: int, count: int, depth: int) -> list[Value]:
    if count > stop - position:
        raise DecodeError("A compound value counts more items than it has bytes.")
    if depth >= MAX_DEPTH:
        raise DecodeError(f"Values are nested more than {MAX_DEPTH} deep.")
    items: list[Value] = []
    depth += 1
    for _ in range(count):
        # `decode`, written out: this loop reads every field of every frame.
        if position >= stop:
            raise DecodeError("A compound value counts more items than it has bytes.")
        reader = _READERS[data[position]]
        if reader is None:
            raise DecodeError(f"0x{data[position]:02x} is not a constructor of AMQP 1.0.")
        item, position = reader(data, position + 1, stop, depth)
        items.append(item)
    if position != stop:
        raise DecodeError("A compound value holds more bytes than its items take.")
    return items


def _list(width: int) -> Reader:
    def read(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
        count, first, stop = _compound_span(data, position, end, width)
        return _items(data, first, stop, count, depth), stop

    return read


def _map_span(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    constructor = data[position] if position < end else None
    if constructor not in (0xC1, 0xD1):
        raise DecodeError("A map is expected.")
    count, first, stop = _compound_span(data, position + 1, end, 1 if constructor == 0xC1 else 4)
    if count % 2 or count > stop - first:
        raise DecodeError("The count of a map has to be even and backed by its bytes.")
    return count, first, stop


def _map(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
    count, first, stop = _map_span(data, position - 1, end)
    items = _items(data, first, stop, count, depth)
    try:
        return dict(zip(items[::2], items[1::2], strict=True)), stop
    except TypeError as error:
        raise DecodeError("The keys of a map have to be primitive values.") from error


def _array(width: int) -> Reader:
    def read(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
        count, position, stop = _compound_span(data, position, end, width)
        if depth >= MAX_DEPTH:
            raise DecodeError(f"Values are nested more than {MAX_DEPTH} deep.")
        if position == stop and count == 0:
            return [], stop
        described = position < stop and data[position] == 0
        descriptor: Value = None
        if described:
            descriptor, position = decode(data, position + 1, stop, depth + 1)
        reader = _READERS[data[position]] if position < stop else None
        if reader is None or (described and data[position] == 0):
            raise DecodeError("An array does not say what its items are.")
        position += 1
        if count > max(stop - position, MAX_WIDTHLESS_ITEMS):
            raise DecodeError("An array counts more items than it has bytes.")
        items: list[Value] = []
        for _ in range(count):
            item, position = reader(data, position, stop, depth + 1)
            items.append(Described(descriptor, item) if described else item)
        if position != stop:
            raise DecodeError("An array holds more bytes than its items take.")
        return items, stop

    return read


def _described(data: bytes, position: int, end: int, depth: int) -> tuple[Value, int]:
    if depth >= MAX_DEPTH:
        raise DecodeError(f"Values are nested more than {MAX_DEPTH} deep.")
    descriptor, position = decode(data, position, end, depth + 1)
    value, position = decode(data, position, end, depth + 1)
    return Described(descriptor, value), position


def _reader_table() -> list[Reader | None]:
    readers: dict[int, Reader] = {
        0x00: _described, 0x40: _constant(None), 0x41: _constant(True), 0x42: _constant(False),
        0x43: _constant(0), 0x44: _constant(0), 0x45: _empty_list,
        0x50: _octet, 0x51: _number("b"), 0x52: _octet, 0x53: _octet, 0x54: _number("b"), 0x55: _number("b"),
        0x56: _boolean, 0x60: _number("H"), 0x61: _number("h"),
        0x70: _number("I"), 0x71: _number("i"), 0x72: _number("f"), 0x73: _character, 0x74: _opaque(4),
        0x80: _number("Q"), 0x81: _number("q"), 0x82: _number("d"), 0x83: _number("q"), 0x84: _opaque(8),
        0x94: _opaque(16), 0x98: _uuid,
        0xA0: _binary(1), 0xA1: _string(1), 0xA3: _symbol(1), 0xB0: _binary(4), 0xB1: _string(4), 0xB3: _symbol(4),
        0xC0: _list(1), 0xC1: _map, 0xD0: _list(4), 0xD1: _map, 0xE0: _array(1), 0xF0: _array(4),
    }  # fmt: skip
    return [readers.get(constructor) for constructor in range(256)]


_READERS: Final = _reader_table()


# ---- writers

NULL: Final = Encoded(b"\x40")
TRUE: Final = Encoded(b"\x41")
FALSE: Final = Encoded(b"\x42")
_pack_uint = struct.Struct(">BI").pack
_pack_long = struct.Struct(">Bq").pack
_pack_ulong = struct.Struct(">BQ").pack
_pack_double = struct.Struct(">Bd").pack
_pack_long_compound = struct.Struct(">BII").pack


def uint(value: int) -> Encoded:
    """A 32-bit unsigned integer."""
    if value == 0:
        return Encoded(b"\x43")
    return Encoded(bytes((0x52, value)) if value < 256 else _pack_uint(0x70, value))


def ulong(value: int) -> Encoded:
    """A 64-bit unsigned integer."""
    return Encoded(bytes((0x53, value)) if value < 256 else _pack_ulong(0x80, value))


def long(value: int) -> Encoded:
    """A 64-bit signed integer."""
    return Encoded(_pack_long(0x81, value))


def int32(value: int) -> Encoded:
    """A 32-bit signed integer."""
    return Encoded(struct.pack(">Bi", 0x71, value))


def ubyte(value: int) -> Encoded:
    """An 8-bit unsigned integer."""
    return Encoded(bytes((0x50, value)))


def ushort(value: int) -> Encoded:
    """A 16-bit unsigned integer."""
    return Encoded(struct.pack(">BH", 0x60, value))


def timestamp(milliseconds: int) -> Encoded:
    """A point in time, in milliseconds since the Unix epoch."""
    return Encoded(_pack_long(0x83, milliseconds))


def long_array(values: Iterable[int]) -> Encoded:
    """An array of 64-bit signed integers."""
    return _array_of(0x81, [struct.pack(">q", value) for value in values])


def timestamp_array(values: Iterable[int]) -> Encoded:
    """An array of points in time, in milliseconds since the Unix epoch."""
    return _array_of(0x83, [struct.pack(">q", value) for value in values])


def symbol_array(values: Iterable[str]) -> Encoded:
    """An array of symbols of at most 255 characters."""
    return _array_of(0xA3, [bytes((len(value),)) + value.encode("ascii") for value in values])


def encode(value: Value) -> bytes:
    """The wire form of a Python value: an `int` becomes a long, a `float` a double, `Encoded` stays as it is."""
    if isinstance(value, bytes):
        return value if isinstance(value, Encoded) else _variable(0xA0, value)
    if isinstance(value, str):
        return _variable(0xA3, value.encode("ascii")) if isinstance(value, Symbol) else _variable(0xA1, value.encode())
    if value is None:
        return NULL
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, int):
        if -128 <= value < 128:
            return bytes((0x55, value & 0xFF))
        return _pack_long(0x81, value) if value < 1 << 63 else _pack_ulong(0x80, value)
    if isinstance(value, float):
        return _pack_double(0x82, value)
    if isinstance(value, uuid.UUID):
        return b"\x98" + value.bytes
    if isinstance(value, Described):
        descriptor = ulong(value.descriptor) if type(value.descriptor) is int else encode(value.descriptor)
        return b"\x00" + descriptor + encode(value.value)
    if isinstance(value, Mapping):
        return encoded_map(b"".join([encode(key) + encode(item) for key, item in value.items()]), len(value))
    return encoded_list([encode(item) for item in value])


def encoded_list(items: Sequence[bytes]) -> bytes:
    """A list of values that are already encoded."""
    return _compound(0xC0, b"".join(items), len(items)) if items else b"\x45"


def encoded_map(pairs: bytes, count: int) -> bytes:
    """A map of `count` pairs whose keys and values are already encoded, one after the other."""
    return _compound(0xC1, pairs, 2 * count)


def section(code: int, value: bytes) -> bytes:
    """A described value with a one-octet descriptor: a performative, a section of a message, an outcome."""
    return bytes((0, 0x53, code)) + value


def composite(code: int, fields: Sequence[Value]) -> bytes:
    """A described list whose trailing nulls are left out (AMQP 1.0 part 1.4)."""
    count = len(fields)
    while count and fields[count - 1] is None:
        count -= 1
    return section(code, encoded_list([encode(field) for field in fields[:count]]))


def _variable(short: int, content: bytes) -> bytes:
    size = len(content)
    return (bytes((short, size)) if size < 256 else _pack_uint(short + 0x10, size)) + content


def _compound(short: int, content: bytes, count: int) -> bytes:
    size = len(content)
    if size < 255 and count < 256:
        return bytes((short, size + 1, count)) + content
    return _pack_long_compound(short + 0x10, size + 4, count) + content


def _array_of(constructor: int, items: list[bytes]) -> Encoded:
    return Encoded(_compound(0xE0, bytes((constructor,)) + b"".join(items), len(items)))
