"""Proxies between AOS and its neighbours that count what passes, by reading the protocols rather than the SDKs.

HTTP/1.1: requests are not pipelined by any SDK here, so a request begins a chunk and its time runs to the first byte
of the answer. AMQP 1.0 (part 2.3): frames are counted by performative, `transfer` (0x14) and `disposition` (0x15).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

REQUEST = re.compile(rb"(GET|PUT|POST|PATCH|MERGE|DELETE|HEAD) (/\S*) HTTP/1\.1\r\n")
INNER = re.compile(rb"(?:GET|PUT|POST|PATCH|MERGE|DELETE) http\S+ HTTP/1\.1\r\n")
ID = re.compile(r"\(.*\)|/(conv|thread|run|resp|msg|item)_\w+|\?.*")
TRANSFER, DISPOSITION = 0x14, 0x15


@dataclass(slots=True)
class Tally:
    """What has passed one tap."""

    requests: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    entities: int = 0
    sent: int = 0
    received: int = 0
    settled: int = 0
    bytes: int = 0

    def clear(self) -> None:
        self.requests.clear()
        self.seconds = Counter()
        self.entities = self.sent = self.received = self.settled = self.bytes = 0

    @property
    def total(self) -> int:
        """Requests in all."""
        return sum(self.requests.values())


class HttpWatch:
    """Reads one connection of HTTP/1.1."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._under_way: tuple[str, float] | None = None

    def up(self, data: bytes) -> None:
        self._tally.bytes += len(data)
        # Entities of a transaction are requests within its body; the body may come in a chunk of its own.
        self._tally.entities += len(INNER.findall(data))
        match = REQUEST.match(data)
        if match is not None:
            path = ID.sub("", match[2].decode("latin-1").replace("/devstoreaccount1", ""))
            self._under_way = (f"{match[1].decode()} {path}", time.perf_counter())

    def down(self, data: bytes) -> None:
        self._tally.bytes += len(data)
        if self._under_way is not None:
            name, began = self._under_way
            self._under_way = None
            self._tally.requests[name] += 1
            self._tally.seconds[name] += time.perf_counter() - began  # type: ignore[assignment]  # a Counter of floats


class AmqpWatch:
    """Reads one connection of AMQP 1.0."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._buffers = {True: bytearray(), False: bytearray()}

    def up(self, data: bytes) -> None:
        self._feed(data, upwards=True)

    def down(self, data: bytes) -> None:
        self._feed(data, upwards=False)

    def _feed(self, data: bytes, *, upwards: bool) -> None:
        self._tally.bytes += len(data)
        buffer = self._buffers[upwards]
        buffer += data
        while len(buffer) >= 8:
            size = 8 if buffer[:4] == b"AMQP" else int.from_bytes(buffer[:4], "big")
            if len(buffer) < size:
                return
            body = buffer[4] * 4 if size > 8 else size
            # A described type with a small unsigned long as its descriptor: 0x00 0x53 code.
            if size >= body + 3 and buffer[5] == 0 and buffer[body : body + 2] == b"\x00\x53":
                self._count(buffer[body + 2], upwards)
            del buffer[:size]

    def _count(self, performative: int, upwards: bool) -> None:
        if performative == TRANSFER:
            if upwards:
                self._tally.sent += 1
            else:
                self._tally.received += 1
        elif performative == DISPOSITION and upwards:
            self._tally.settled += 1


Watch = HttpWatch | AmqpWatch


@asynccontextmanager
async def tap(port: int, watch: Callable[[Tally], Watch]) -> AsyncIterator[tuple[int, Tally]]:
    """A free port that leads to another one of this machine, and the tally of what passes."""
    tally = Tally()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, see: Callable[[bytes], None]) -> None:
        try:
            while data := await source.read(65536):
                see(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            # One side went away; so does the other.
            return
        finally:
            sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        seen = watch(tally)
        for coroutine in (pump(reader, back, seen.up), pump(there, writer, seen.down)):
            task = asyncio.create_task(coroutine)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], tally
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
