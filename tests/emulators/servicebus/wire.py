"""What the tests share: encoded messages, a clock that is set by hand, a receiver without a link, a raw AMQP peer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from emulators.servicebus import codec, frames
from emulators.servicebus.broker import Broker
from emulators.servicebus.codec import Described, Symbol, Value
from emulators.servicebus.config import load_entities
from emulators.servicebus.entities import MAX_QUEUE_BYTES
from emulators.servicebus.journal import Journal, QueuedMessage
from emulators.servicebus.message import (
    APPLICATION_PROPERTIES,
    DATA,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    Message,
)
from emulators.servicebus.sessions import SessionLock

Json = dict[str, object]


def encoded(
    body: bytes = b"body",
    *,
    message_id: Value = None,
    subject: str | None = None,
    session_id: str | None = None,
    ttl_ms: int | None = None,
    due_ms: int | None = None,
    application: dict[str, Value] | None = None,
) -> bytes:
    """A message as a sender writes it."""
    parts = []
    if ttl_ms is not None:
        parts.append(codec.composite(HEADER, [None, None, codec.uint(ttl_ms)]))
    if due_ms is not None:
        annotations: dict[Value, Value] = {
            Symbol("x-opt-scheduled-enqueue-time"): codec.timestamp(due_ms) if due_ms < 1 << 63 else due_ms
        }
        parts.append(codec.section(MESSAGE_ANNOTATIONS, codec.encode(annotations)))
    fields: list[Value] = [message_id, None, None, subject, None, None, None, None, None, None, session_id]
    parts.append(codec.composite(PROPERTIES, fields))
    if application is not None:
        parts.append(codec.section(APPLICATION_PROPERTIES, codec.encode(application)))
    parts.append(codec.section(DATA, codec.encode(body)))
    return b"".join(parts)


def message(body: bytes = b"body", **options: object) -> Message:
    """`encoded`, parsed."""
    return Message.parse(encoded(body, **options))  # type: ignore[arg-type]  # the options of `encoded`, passed on


def body_of(entry: QueuedMessage) -> bytes:
    """The single data section of a message."""
    content = entry.message.encode()
    start = content.rindex(b"\x00\x53\x75")
    value, _ = codec.decode(content, start + 3, len(content))
    assert isinstance(value, bytes)
    return value


@dataclass
class Clock:
    """Milliseconds since the Unix epoch, as the test says."""

    now: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@dataclass(eq=False)
class Taker:
    """A receiver that takes as many messages as it is told to."""

    room: int = 1000
    removes: bool = False
    session: SessionLock | None = None
    taken: list[tuple[QueuedMessage, bytes, int | None]] = field(default_factory=list)
    sessions_lost: int = 0

    def ready(self) -> bool:
        return self.room > 0

    def deliver(self, entry: QueuedMessage, token: bytes, locked_until_ms: int | None) -> None:
        self.room -= 1
        self.taken.append((entry, token, locked_until_ms))

    def session_lost(self) -> None:
        self.sessions_lost += 1

    def bodies(self) -> list[bytes]:
        return [body_of(entry) for entry, _, _ in self.taken]

    def pop(self) -> tuple[QueuedMessage, bytes]:
        entry, token, _ = self.taken.pop(0)
        return entry, token


def layout(queues: Json | None = None, topics: Json | None = None) -> Json:
    """A configuration document: queue properties by name, subscriptions (properties and rules) by name by topic."""
    return {
        "UserConfig": {
            "Namespaces": [
                {
                    "Queues": [{"Name": name, "Properties": item} for name, item in (queues or {}).items()],
                    "Topics": [
                        {"Name": name, **item} for name, item in (topics or {}).items() if isinstance(item, dict)
                    ],
                }
            ]
        }
    }


def broker(
    clock: Clock,
    queues: Json | None = None,
    topics: Json | None = None,
    *,
    journal: Journal | None = None,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
) -> Broker:
    """A broker for these entities."""
    entities = load_entities(layout(queues, topics))
    return Broker(entities, clock=clock, journal=journal, max_queue_bytes=max_queue_bytes)


class Peer:
    """A raw AMQP peer: it says what it is told to, and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def opened(cls, port: int, *, idle_ms: int | None = None, max_frame_size: int = 65_536) -> Peer:
        """A connection that is open, with a session on channel 0."""
        peer = await cls.connect(port)
        try:
            await peer.open(idle_ms, max_frame_size)
        except BaseException:
            await peer.close()
            raise
        return peer

    async def open(self, idle_ms: int | None, max_frame_size: int) -> None:
        await self.write(frames.AMQP_HEADER)
        assert await self.reader.readexactly(8) == frames.AMQP_HEADER
        idle = None if idle_ms is None else codec.uint(idle_ms)
        await self.perform(frames.OPEN, ["peer", None, codec.uint(max_frame_size), None, idle])
        await self.perform(frames.BEGIN, [None, codec.uint(0), codec.uint(1000), codec.uint(1000)])
        assert (await self.frame())[0] == frames.OPEN
        assert (await self.frame())[0] == frames.BEGIN

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def perform(self, code: int, fields: list[Value], payload: bytes = b"", channel: int = 0) -> None:
        await self.write(frames.frame(channel, codec.composite(code, fields) + payload))

    async def attach(self, handle: int, address: str, *, receiver: bool, settled: bool = False) -> None:
        """Attach a link and read the answer (attach, and for a sender its first flow)."""
        end = Described(frames.SOURCE if receiver else frames.TARGET, [address])
        other = Described(frames.TARGET if receiver else frames.SOURCE, ["peer"])
        source, target = (end, other) if receiver else (other, end)
        mode = codec.ubyte(1 if settled else 0)
        fields: list[Value] = [f"link-{handle}", codec.uint(handle), receiver, mode, None, source, target]
        await self.perform(frames.ATTACH, [*fields, None, None, None if receiver else codec.uint(0)])
        assert (await self.frame())[0] == frames.ATTACH
        if not receiver:
            assert (await self.frame())[0] == frames.FLOW

    async def flow(self, handle: int, credit: int, *, window: int = 1000, next_incoming: int = 0) -> None:
        numbers = [next_incoming, window, 0, 1000, handle, 0, credit]
        await self.perform(frames.FLOW, [codec.uint(number) for number in numbers])

    async def transfer(self, handle: int, number: int, payload: bytes, *, more: bool = False) -> None:
        fields: list[Value] = [codec.uint(handle), codec.uint(number), b"tag", codec.uint(0), False, more]
        await self.perform(frames.TRANSFER, fields, payload)

    async def frame(self) -> tuple[int, list[Value], bytes]:
        """The next frame that is not empty: code, fields, payload."""
        async with asyncio.timeout(30):
            while True:
                size = int.from_bytes(await self.reader.readexactly(4), "big")
                data = await self.reader.readexactly(size - 4)
                if size > 8:
                    break
        code, position = codec.descriptor_at(data, 4, len(data))
        fields, position = codec.decode_list(data, position, len(data))
        return code, fields, data[position:]

    async def closing_condition(self) -> str | None:
        """The condition of the close frame that ends the connection; None if it ends without one."""
        condition: str | None = None
        try:
            while True:
                code, fields, _ = await self.frame()
                if code == frames.CLOSE and fields:
                    condition = condition_of(fields[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return condition

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return  # the other side was first


def condition_of(error: Value) -> str | None:
    """The condition of an error."""
    assert isinstance(error, Described)
    assert isinstance(error.value, list)
    condition = error.value[0]
    assert condition is None or isinstance(condition, str)
    return condition
