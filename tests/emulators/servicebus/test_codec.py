"""The AMQP type system: what is written is read back, and no bytes do more than raise the typed error."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulators.servicebus import codec
from emulators.servicebus.codec import Described, Symbol, Value
from emulators.servicebus.errors import DecodeError

primitives: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.text(st.characters(max_codepoint=127)).map(Symbol),
    st.binary(max_size=300),
    st.uuids(),
)
keys = st.one_of(st.text(max_size=10), st.uuids(), st.text(st.characters(max_codepoint=127), max_size=10).map(Symbol))
values: st.SearchStrategy[Value] = st.recursive(
    primitives,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(keys, inner, max_size=5),
        st.builds(Described, st.integers(0, (1 << 64) - 1), inner),
    ),
    max_leaves=20,
)


@given(values)
def test_what_is_encoded_decodes_to_the_same(value: Value) -> None:
    data = codec.encode(value)
    assert codec.decode(data, 0, len(data)) == (value, len(data))


@given(values, st.binary(min_size=1, max_size=4))
def test_decoding_stops_where_the_value_ends(value: Value, more: bytes) -> None:
    data = codec.encode(value)
    assert codec.decode(data + more, 0, len(data) + len(more)) == (value, len(data))


@given(values, st.data())
def test_a_truncated_value_is_refused(value: Value, data: st.DataObject) -> None:
    whole = codec.encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DecodeError):
        codec.decode(whole, 0, cut)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_random_bytes_decode_or_raise_the_typed_error(data: bytes) -> None:
    try:
        _, stop = codec.decode(data, 0, len(data))
    except DecodeError:
        return
    assert 0 < stop <= len(data)


@settings(max_examples=500)
@given(values, st.data())
def test_damaged_values_decode_or_raise_the_typed_error(value: Value, data: st.DataObject) -> None:
    whole = bytearray(codec.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, stop = codec.decode(bytes(whole), 0, len(whole))
    except DecodeError:
        return
    assert 0 < stop <= len(whole)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (codec.uint(0), 0),
        (codec.uint(255), 255),
        (codec.uint(70_000), 70_000),
        (codec.ulong(1 << 40), 1 << 40),
        (codec.long(-5), -5),
        (codec.int32(-5), -5),
        (codec.ubyte(200), 200),
        (codec.ushort(60_000), 60_000),
        (codec.timestamp(1_700_000_000_000), 1_700_000_000_000),
        (codec.long_array([1, -2]), [1, -2]),
        (codec.symbol_array(["a", "bc"]), ["a", "bc"]),
        (b"\x56\x01", True),
        (b"\x54\xff", -1),
        (b"\x61\xff\xfe", -2),
        (b"\x72" + struct.pack(">f", 0.5), 0.5),
        (b"\x73\x00\x01\xf6\x00", "\U0001f600"),
        (b"\x74abcd", b"abcd"),
        (b"\x94" + bytes(16), bytes(16)),
        (b"\xe0\x09\x02\x00\x53\x05\xa1\x01a\x01b", [Described(5, "a"), Described(5, "b")]),
        (b"\xe0\x02\x03\x40", [None, None, None]),
        (b"\xe0\x01\x00", []),
    ],
)
def test_wire_types(data: bytes, expected: Value) -> None:
    assert codec.decode(data, 0, len(data)) == (expected, len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x3f",
        b"\x56\x02",
        b"\x73\x00\x00\xd8\x00",
        b"\x73\x7f\x00\x00\x00",
        b"\xa1\x02\xff\xfe",
        b"\xa3\x01\x80",
        b"\xb0\xff\xff\xff\xffx",
        b"\xc0\x05\xff\x40\x40\x40\x40",
        b"\xc0\x00",
        b"\xc0\x03\x01\x40\x40",
        b"\xd0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xc1\x02\x01\x40",
        b"\xc1\x03\x02\x45\x40",
        b"\xc1\x08\x02\xc0\x03\x01\xa1\x00\x40\x40",
        b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40",
        b"\xe0\x02\x01\x00",
        b"\xe0\x05\x01\x00\x53\x01\x00",
        b"\x00" * 200,
        b"\xc0\xfe\x01" * 100,
    ],
    ids=lambda data: data[:8].hex(),
)
def test_malformed_values_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data, 0, len(data))


def test_nesting_is_bounded() -> None:
    value: Value = None
    for _ in range(codec.MAX_DEPTH):
        value = [value]
    data = codec.encode(value)
    assert codec.decode(data, 0, len(data))[0] == value
    deeper = codec.encode([value])
    with pytest.raises(DecodeError, match="nested"):
        codec.decode(deeper, 0, len(deeper))


def test_map_entries_keep_the_types_of_values() -> None:
    pairs = b"".join((codec.encode("n"), codec.int32(7), codec.encode(Symbol("id")), codec.encode(uuid.UUID(int=1))))
    data = codec.encoded_map(pairs, 2)
    entries, stop = codec.map_entries(data, 0, len(data))
    assert entries == [("n", codec.int32(7)), ("id", codec.encode(uuid.UUID(int=1)))]
    assert stop == len(data)


@pytest.mark.parametrize("value", [["a"], {1: "a"}, None])
def test_map_entries_want_a_map_with_text_keys(value: Value) -> None:
    data = codec.encode(value)
    with pytest.raises(DecodeError):
        codec.map_entries(data, 0, len(data))
