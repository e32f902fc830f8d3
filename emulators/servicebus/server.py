"""The emulator: a listening socket in front of a broker, and the turns in which both work."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from emulators.servicebus.broker import Broker
from emulators.servicebus.config import load_entities
from emulators.servicebus.connection import Connection
from emulators.servicebus.entities import MAX_QUEUE_BYTES, Entities
from emulators.servicebus.management import Management
from emulators.servicebus.store import Store

DEFAULT_MAX_MESSAGE_BYTES: Final = 262_144
"""The limit of the Standard tier."""
MIN_MAX_MESSAGE_BYTES: Final = 1024
MAX_CONNECTIONS: Final = 1000
_TICK_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 240.0

_log = logging.getLogger("emulators.servicebus")


class ServiceBusEmulator:
    """A Service Bus namespace on a local port, for the unmodified Azure SDKs.

    Use it as an asynchronous context manager; it belongs to the event loop that enters it. Without `db` everything is
    in memory; with it, what was acknowledged survives the process (not the operating system: SQLite in WAL mode with
    ``synchronous=NORMAL``).
    """

    def __init__(
        self,
        entities: Entities | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        db: str | Path | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        """Prepare a namespace; nothing is opened yet.

        `entities` defaults to those of `load_entities`. `port` 0 takes a free one. `max_message_bytes` bounds a
        message and a batch, `max_queue_bytes` what one queue or subscription holds. A peer from which nothing comes
        for one and a half times `idle_seconds` is dropped.
        """
        if max_message_bytes < MIN_MAX_MESSAGE_BYTES:
            raise ValueError(f"max_message_bytes has to be at least {MIN_MAX_MESSAGE_BYTES}.")
        self.max_message_bytes = max_message_bytes
        self.idle_seconds = idle_seconds
        self.pending: set[Connection] = set()
        """Connections with something to write at the end of the turn."""
        self.failure: Exception | None = None
        """Why the emulator stopped by itself: what it could not write to its database."""
        self._host = host
        self._port = port
        self._entities = entities
        self._db = db
        self._max_queue_bytes = max_queue_bytes
        self._store: Store | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._failed = asyncio.Event()
        self._turn_scheduled = False
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return self._port

    @property
    def connection_string(self) -> str:
        """What a client needs; the key is not checked."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        endpoint = f"Endpoint=sb://{host}:{self._port}"
        key = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE"
        return f"{endpoint};{key};UseDevelopmentEmulator=true;"

    async def start(self) -> None:
        """Open the database and listen. Raises `OSError` if the port is taken, `StoreError` if the file is no use."""
        self._loop = asyncio.get_running_loop()
        entities = load_entities() if self._entities is None else self._entities
        self._store = Store(self._db) if self._db is not None else None
        try:
            self.broker = Broker(entities, clock=self.clock, journal=self._store, max_queue_bytes=self._max_queue_bytes)
            self.management = Management(self.broker, self.clock, self.max_message_bytes)
            if self._store is not None:
                self._store.restore(self.broker)
            self._server = await self._loop.create_server(lambda: Connection(self), self._host, self._port)
        except BaseException:
            if self._store is not None:
                self._store.close()
            raise
        self._port = self._server.sockets[0].getsockname()[1]
        self._tick()

    async def stop(self) -> None:
        """Close every connection, commit and close the database."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
        self._turn()
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            await self._empty.wait()
        if self._server is not None:
            await self._server.wait_closed()
        if self._store is not None:
            self._turn()
            self._store.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def wait_failed(self) -> None:
        """Return once the emulator has stopped by itself; `failure` says why."""
        await self._failed.wait()

    @staticmethod
    def clock() -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    # ---- turns: everything that arrives together is applied, committed once, and only then acknowledged

    def schedule_turn(self) -> None:
        """Finish what is under way before the event loop waits again."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        self.broker.pump()
        if self._store is not None and self.failure is None:
            try:
                self._store.commit()
            except Exception as error:
                self._stop_for(error)
        pending, self.pending = self.pending, set()
        for connection in pending:
            connection.flush()

    def _stop_for(self, error: Exception) -> None:
        """The database refused a commit: nothing may be acknowledged any more."""
        _log.critical("The emulator stops: its database cannot be written.", exc_info=error)
        self.failure = error
        self._failed.set()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        self.broker.tick()
        self.schedule_turn()

    # ---- connections

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in; False if there are too many."""
        self._connections.add(connection)
        self._empty.clear()
        return len(self._connections) <= MAX_CONNECTIONS and self.failure is None

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self.pending.discard(connection)
        if not self._connections:
            self._empty.set()
        self.schedule_turn()
