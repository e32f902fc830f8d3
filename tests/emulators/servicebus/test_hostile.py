"""Peers that break the protocol: they lose their connection, and nobody else notices."""

from __future__ import annotations

import asyncio
import random

import pytest
from azure.servicebus import ServiceBusMessage

from emulators.servicebus import ServiceBusEmulator, codec, connection, errors, frames, load_entities, session
from emulators.servicebus.codec import Described, Value
from emulators.servicebus.message_queue import Outcome
from tests.emulators.servicebus.conftest import Links
from tests.emulators.servicebus.wire import Peer, condition_of, encoded, layout

OPEN = frames.frame(0, codec.composite(frames.OPEN, ["peer"]))
BEGIN = frames.frame(0, codec.composite(frames.BEGIN, [None, codec.uint(0), codec.uint(9), codec.uint(9)]))
PRELUDE = frames.AMQP_HEADER + OPEN


@pytest.fixture(autouse=True)
async def others_go_on(bus: ServiceBusEmulator, links: Links) -> None:
    """Another client's link, opened before, still works whatever the tests before did."""
    await links.send("hostile", ServiceBusMessage("still here"))
    message = await links.receive("hostile")
    await links.receiver("hostile").complete_message(message)


def deep(levels: int) -> bytes:
    """Lists in lists, well-formed."""
    value = b"\x45"
    for _ in range(levels):
        value = codec.encoded_list([value])
    return value


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PRELUDE + b"\x00\x00\x00\x07\x02\x00\x00\x00", errors.FRAMING_ERROR),
        (PRELUDE + b"\xff\xff\xff\xff\x02\x00\x00\x00", errors.FRAMING_ERROR),
        (PRELUDE + b"\x00\x00\x00\x10\x01\x00\x00\x00" + bytes(8), errors.FRAMING_ERROR),
        (PRELUDE + b"\x00\x00\x00\x10\xff\x00\x00\x00" + bytes(8), errors.FRAMING_ERROR),
        (PRELUDE + b"\x00\x00\x00\x10\x02\x07\x00\x00" + bytes(8), errors.FRAMING_ERROR),
        (PRELUDE + frames.frame(0, b"\xff" * 40), errors.DECODE_ERROR),
        (PRELUDE + frames.frame(0, b"\x00\x53\x99\x45"), errors.ILLEGAL_STATE),
        (PRELUDE + frames.frame(0, codec.section(frames.BEGIN, deep(100))), errors.DECODE_ERROR),
        (PRELUDE + frames.frame(0, codec.section(frames.BEGIN, b"\xa1\x01x")), errors.DECODE_ERROR),
        (PRELUDE + frames.frame(0, codec.composite(frames.BEGIN, ["x", "y", "z"])), errors.DECODE_ERROR),
        (PRELUDE + frames.frame(9999, BEGIN[8:]), errors.INVALID_FIELD),
        (PRELUDE + BEGIN + BEGIN, errors.ILLEGAL_STATE),
        (PRELUDE + OPEN, errors.ILLEGAL_STATE),
        (PRELUDE + BEGIN + frames.frame(0, b"\x00\x53\x99\x45"), errors.NOT_IMPLEMENTED),
        (PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.END, [None]) + b"more"), errors.FRAMING_ERROR),
        (frames.AMQP_HEADER + BEGIN, errors.ILLEGAL_STATE),
        (frames.AMQP_HEADER + frames.frame(0, codec.composite(frames.OPEN, [])), errors.DECODE_ERROR),
        (
            frames.AMQP_HEADER + frames.frame(0, codec.composite(frames.OPEN, ["p", None, codec.uint(511)])),
            errors.INVALID_FIELD,
        ),
        (
            PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.FLOW, [None, 1, 0, 1, 77, 0, 5])),
            errors.UNATTACHED_HANDLE,
        ),
        (
            PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.TRANSFER, [codec.uint(3)])),
            errors.UNATTACHED_HANDLE,
        ),
        (PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.DETACH, [codec.uint(3)])), errors.UNATTACHED_HANDLE),
        (PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.DETACH, [-1])), errors.DECODE_ERROR),
        (
            PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.DISPOSITION, [True, 0, 0, True, 5])),
            errors.DECODE_ERROR,
        ),
        (
            PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.ATTACH, ["l", codec.uint(999), True])),
            errors.INVALID_FIELD,
        ),
        (PRELUDE + BEGIN + frames.frame(0, codec.composite(frames.ATTACH, ["l", codec.uint(1)])), errors.DECODE_ERROR),
        (
            PRELUDE
            + BEGIN
            + frames.frame(0, codec.composite(frames.ATTACH, ["l", codec.uint(1), True, None, None, "src"])),
            errors.DECODE_ERROR,
        ),
    ],
)
async def test_a_broken_frame_closes_its_connection_with_an_error(
    bus: ServiceBusEmulator, data: bytes, expected: str
) -> None:
    peer = await Peer.connect(bus.port)
    await peer.write(data)
    assert await peer.reader.readexactly(8) == frames.AMQP_HEADER
    assert await peer.closing_condition() == expected
    await peer.close()


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x00\x09\x01", b"AMQP\x02\x01\x00\x00", bytes(64)]
)
async def test_other_protocols_are_answered_with_ours_and_closed(bus: ServiceBusEmulator, data: bytes) -> None:
    peer = await Peer.connect(bus.port)
    await peer.write(data)
    assert await peer.reader.read() == frames.AMQP_HEADER
    await peer.close()


async def test_a_damaged_sasl_exchange_is_closed(bus: ServiceBusEmulator) -> None:
    peer = await Peer.connect(bus.port)
    await peer.write(frames.SASL_HEADER + frames.frame(0, codec.composite(frames.OPEN, ["x"]), frames.SASL_FRAME))
    assert await peer.reader.readexactly(8) == frames.SASL_HEADER
    assert await peer.closing_condition() is None
    await peer.close()


async def test_random_bytes_after_the_opening(bus: ServiceBusEmulator) -> None:
    chaos = random.Random(7)
    for _ in range(100):
        peer = await Peer.connect(bus.port)
        body = chaos.randbytes(chaos.randint(0, 60))
        code = chaos.choice([frames.BEGIN, frames.ATTACH, frames.FLOW, frames.TRANSFER, frames.DISPOSITION])
        await peer.write(PRELUDE + BEGIN + frames.frame(0, bytes((0, 0x53, code)) + body))
        peer.writer.write_eof()
        async with asyncio.timeout(30):
            assert (await peer.reader.read()).startswith(frames.AMQP_HEADER)
        await peer.close()


async def test_truncated_frames_of_a_peer_that_leaves(bus: ServiceBusEmulator) -> None:
    whole = PRELUDE + BEGIN
    for cut in range(1, len(whole)):
        peer = await Peer.connect(bus.port)
        await peer.write(whole[:cut])
        await peer.close()


async def test_one_byte_at_a_time(bus: ServiceBusEmulator) -> None:
    peer = await Peer.connect(bus.port)
    for byte in PRELUDE + BEGIN:
        await peer.write(bytes((byte,)))
        await asyncio.sleep(0)
    assert await peer.reader.readexactly(8) == frames.AMQP_HEADER
    assert (await peer.frame())[0] == frames.OPEN
    assert (await peer.frame())[0] == frames.BEGIN
    await peer.close()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", errors.DECODE_ERROR),
        (b"not a message", errors.DECODE_ERROR),
        (codec.section(0x75, b"\xb0\x7f\xff\xff\xffx"), errors.DECODE_ERROR),
        (codec.section(0x77, deep(100)), errors.DECODE_ERROR),
        (codec.section(0x73, b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40"), errors.DECODE_ERROR),
        (encoded(message_id="x" * 200), errors.INVALID_FIELD),
        (encoded(due_ms=1 << 63), errors.DECODE_ERROR),
        (encoded(bytes(300_000)), errors.MESSAGE_SIZE_EXCEEDED),
    ],
)
async def test_a_bad_message_is_rejected_and_the_link_goes_on(
    bus: ServiceBusEmulator, payload: bytes, expected: str
) -> None:
    peer = await Peer.opened(bus.port)
    await peer.attach(0, "hostile", receiver=False)
    for start in range(0, max(len(payload), 1), 60_000):
        await peer.transfer(0, 0, payload[start : start + 60_000], more=start + 60_000 < len(payload))
    code, fields, _ = await peer.frame()
    assert code == frames.DISPOSITION
    state = fields[4]
    assert isinstance(state, Described)
    assert state.descriptor == frames.REJECTED
    assert isinstance(state.value, list)
    assert condition_of(state.value[0]) == expected
    await peer.transfer(0, 1, encoded(b"bye", ttl_ms=1))
    code, fields, _ = await peer.frame()
    assert fields[4] == Described(frames.ACCEPTED, [])
    await peer.close()


async def test_deliveries_that_never_end_are_bounded(bus: ServiceBusEmulator) -> None:
    peer = await Peer.opened(bus.port)
    for handle in range(100):
        await peer.attach(handle, "hostile", receiver=False)
    closing = asyncio.create_task(peer.closing_condition())

    async def never_end() -> None:
        for turn in range(1000):
            await peer.transfer(turn % 100, turn % 100, bytes(60_000), more=True)

    with pytest.raises(ConnectionError):
        await never_end()
    # A reset can overtake the close frame.
    assert await closing in (errors.RESOURCE_LIMIT_EXCEEDED, None)
    await peer.close()


async def test_an_aborted_delivery_is_forgotten(bus: ServiceBusEmulator) -> None:
    peer = await Peer.opened(bus.port)
    await peer.attach(0, "hostile", receiver=False)
    await peer.transfer(0, 0, encoded(b"half")[:5], more=True)
    fields: list[Value] = [codec.uint(0), None, None, None, None, False, None, None, None, True]
    await peer.perform(frames.TRANSFER, fields)
    await peer.transfer(0, 1, encoded(b"whole", ttl_ms=1))
    _, answer, _ = await peer.frame()
    assert answer[1] == 1
    await peer.close()


async def test_a_claim_to_settle_everything_costs_nothing(bus: ServiceBusEmulator) -> None:
    peer = await Peer.opened(bus.port)
    accepted = Described(frames.ACCEPTED, [])
    await peer.perform(frames.DISPOSITION, [True, codec.uint(0), codec.uint(frames.UINT_MAX), False, accepted])
    await peer.perform(frames.DISPOSITION, [True, codec.uint(5), None, False, accepted])
    code, fields, _ = await peer.frame()
    assert (code, fields[1]) == (frames.DISPOSITION, 5)
    state = fields[4]
    assert isinstance(state, Described)
    assert isinstance(state.value, list)
    assert condition_of(state.value[0]) == errors.MESSAGE_LOCK_LOST
    await peer.close()


async def test_a_receiver_gets_no_more_than_its_credit_and_window() -> None:
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        sender, receiver = await Peer.opened(bus.port), await Peer.opened(bus.port, max_frame_size=512)
        await sender.attach(0, "q", receiver=False)
        for number in range(4):
            await sender.transfer(0, number, encoded(bytes(1000)))
            await sender.frame()
        await receiver.attach(0, "amqps://127.0.0.1/q", receiver=True, settled=True)
        await receiver.flow(0, 2, window=3)
        parts = [await receiver.frame() for _ in range(3)]
        assert [fields[5] for _, fields, _ in parts] == [True, True, False]
        assert sum(len(payload) for _, _, payload in parts) > 1000
        await receiver.flow(0, 2, window=100, next_incoming=3)  # the credit counts from the first delivery
        parts = [await receiver.frame() for _ in range(3)]
        assert [fields[1] for _, fields, _ in parts] == [1, 1, 1]
        drain: list[Value] = [codec.uint(number) for number in (6, 100, 0, 100, 0, 2, 5)]
        await receiver.perform(frames.FLOW, [*drain, None, True])
        rest = [await receiver.frame() for _ in range(7)]
        assert [code for code, _, _ in rest] == [frames.TRANSFER] * 6 + [frames.FLOW]
        assert rest[-1][1][5:7] == [7, 0]
        await sender.close()
        await receiver.close()


async def test_what_waits_is_counted_until_it_is_sent_or_its_link_is_gone() -> None:
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        peer = await Peer.opened(bus.port, max_frame_size=512)
        await peer.attach(0, "q", receiver=False)
        for number in range(2):
            await peer.transfer(0, number, encoded(bytes(1000)))
            await peer.frame()
        (served,) = bus._connections
        await peer.attach(1, "q", receiver=True, settled=True)
        await peer.flow(1, 1, window=1)
        await peer.frame()
        assert served.held_back > 1000 - 512
        await peer.flow(1, 1, window=100, next_incoming=1)
        while (await peer.frame())[1][5]:
            assert served.held_back == 0
        await peer.flow(1, 2, window=1, next_incoming=3)
        await peer.frame()
        assert served.held_back > 1000 - 512
        await peer.perform(frames.DETACH, [codec.uint(1), True])
        assert (await peer.frame())[0] == frames.DETACH
        assert served.held_back == 0
        await peer.close()


async def test_a_slow_reader_does_not_pile_up_messages() -> None:
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        destination = bus.broker.destination("q")
        sender, receiver = await Peer.opened(bus.port), await Peer.opened(bus.port)
        await sender.attach(0, "q", receiver=False)
        for number in range(150):
            for start in range(0, 200_000, 50_000):
                payload = encoded(bytes(200_000))
                end = start + 50_000
                await sender.transfer(
                    0, number, payload[start:] if end == 200_000 else payload[start:end], more=end < 200_000
                )
        await receiver.attach(0, "q", receiver=True)
        await receiver.flow(0, 150, window=10_000)
        got = 0
        async with asyncio.timeout(90):
            while got < 150:
                code, fields, _ = await receiver.frame()
                got += code == frames.TRANSFER and fields[5] is not True
                if got == 1:  # the rest has not all been put in line behind the first
                    locked = sum(entry.lock_token is not None for entry in destination.peek(0))
                    assert locked < 100
        await sender.close()
        await receiver.close()


@pytest.mark.parametrize(("credit", "window"), [(1000, 1000), (0, 1000), (1000, 0)])
async def test_requests_with_huge_answers_are_bounded(
    monkeypatch: pytest.MonkeyPatch, credit: int, window: int
) -> None:
    monkeypatch.setattr(connection, "MAX_UNREAD_BYTES", 1 << 20)
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        peer = await Peer.opened(bus.port)
        await peer.attach(0, "q", receiver=False)
        for number in range(10):
            await peer.transfer(0, number, encoded(bytes(60_000)))
        for _ in range(10):
            assert (await peer.frame())[0] == frames.DISPOSITION
        await peer.attach(1, "q/$management", receiver=False)
        await peer.attach(2, "q/$management", receiver=True)
        await peer.flow(2, credit, window=window)
        body: dict[str, Value] = {"from-sequence-number": 0, "message-count": 10}
        request = b"".join(
            (
                codec.composite(0x73, ["id"]),
                codec.section(0x74, codec.encode({"operation": "com.microsoft:peek-message"})),
                codec.section(0x77, codec.encode(body)),
            )
        )
        fields: list[Value] = [codec.uint(1), codec.uint(1), b"t", codec.uint(0), True]
        many = frames.frame(0, codec.composite(frames.TRANSFER, fields) + request) * 50
        await peer.write(many)
        assert await peer.closing_condition() in (errors.RESOURCE_LIMIT_EXCEEDED, None)
        await peer.close()


async def test_silence_is_broken_by_empty_frames(bus: ServiceBusEmulator) -> None:
    peer = await Peer.opened(bus.port, idle_ms=200)
    async with asyncio.timeout(30):
        for _ in range(2):
            assert await peer.reader.readexactly(8) == frames.EMPTY_FRAME
    await peer.close()


async def test_silence_of_a_peer_ends_its_connection() -> None:
    async with ServiceBusEmulator(load_entities(layout({"q": {}})), idle_seconds=0.4) as bus:
        peer = await Peer.opened(bus.port)
        assert await peer.closing_condition() == errors.CONNECTION_FORCED
        await peer.close()


async def test_a_connection_that_is_never_opened_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.1)
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        peer = await Peer.connect(bus.port)
        async with asyncio.timeout(30):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await peer.reader.readexactly(1)
        await peer.close()


async def test_a_session_that_is_closed_while_it_waits() -> None:
    """Attach for the next session, then detach, end or leave: nothing is left that could take a session."""
    async with ServiceBusEmulator(load_entities(layout({"s": {"RequiresSession": True}}))) as bus:
        no_filter: dict[Value, Value] = {codec.Symbol("com.microsoft:session-filter"): None}
        source = Described(frames.SOURCE, ["s", None, None, None, None, None, None, no_filter])
        attach: list[Value] = ["waits", codec.uint(0), True, None, None, source, Described(frames.TARGET, ["x"])]
        for leave in (frames.DETACH, frames.END, frames.CLOSE):
            peer = await Peer.opened(bus.port)
            await peer.perform(frames.ATTACH, attach)
            await peer.perform(leave, [codec.uint(0)] if leave == frames.DETACH else [])
            assert (await peer.frame())[0] == leave
            await peer.close()
        taker = await Peer.opened(bus.port)
        await taker.perform(frames.ATTACH, attach)
        sender = await Peer.opened(bus.port)
        await sender.attach(0, "s", receiver=False)
        await sender.transfer(0, 0, encoded(session_id="one"))
        code, fields, _ = await taker.frame()
        assert (code, fields[0]) == (frames.ATTACH, "waits")
        await taker.close()
        await sender.close()


async def test_a_lock_outlives_its_link() -> None:
    """Messages of a receiver that left stay locked, as in Service Bus, and can be settled by their token."""
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        peer = await Peer.opened(bus.port)
        await peer.attach(0, "q", receiver=False)
        await peer.transfer(0, 0, encoded())
        await peer.frame()
        await peer.attach(1, "q", receiver=True)
        await peer.flow(1, 1)
        code, fields, _ = await peer.frame()
        assert code == frames.TRANSFER
        token = fields[2]
        assert isinstance(token, bytes)
        await peer.close()
        queue = bus.broker.source("q")
        assert queue.holds(token)
        queue.settle(token, Outcome.COMPLETE)
        assert list(queue.peek(0)) == []


async def test_unsettled_deliveries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_UNSETTLED", 3)
    async with ServiceBusEmulator(load_entities(layout({"q": {}}))) as bus:
        peer = await Peer.opened(bus.port)
        await peer.attach(0, "q", receiver=False)
        for number in range(5):
            await peer.transfer(0, number, encoded())
            await peer.frame()
        await peer.attach(1, "q", receiver=True)
        await peer.flow(1, 10)
        assert [(await peer.frame())[1][1] for _ in range(3)] == [0, 1, 2]
        await peer.perform(
            frames.DISPOSITION, [True, codec.uint(0), codec.uint(1), True, Described(frames.ACCEPTED, [])]
        )
        assert [(await peer.frame())[1][1] for _ in range(2)] == [3, 4]
        await peer.close()
