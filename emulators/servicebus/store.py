"""The journal in SQLite: what was committed survives the end of the process."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

from emulators.servicebus.broker import Broker
from emulators.servicebus.errors import AmqpError
from emulators.servicebus.journal import QueuedMessage
from emulators.servicebus.message import Message, State

_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entity (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, reserved INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY, -- entity << 40 | sequence number
    enqueued_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, delivery_count INTEGER NOT NULL, state INTEGER NOT NULL,
    content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS session (
    entity INTEGER NOT NULL, session_id TEXT NOT NULL, updated_ms INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (entity, session_id)
);
CREATE TABLE IF NOT EXISTS duplicate (
    entity INTEGER NOT NULL, message_id TEXT NOT NULL, seen_ms INTEGER NOT NULL, sequence_number INTEGER NOT NULL,
    PRIMARY KEY (entity, message_id)
) WITHOUT ROWID;
"""
_SEQUENCE_BITS: Final = 40
_SEQUENCE_MASK: Final = (1 << _SEQUENCE_BITS) - 1

_PUT: Final = "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)"
_UPDATE: Final = "UPDATE message SET delivery_count = ?, state = ? WHERE id = ?"
_REMOVE: Final = "DELETE FROM message WHERE id = ?"
_RESERVE: Final = "UPDATE entity SET reserved = ? WHERE id = ?"
_SET_STATE: Final = "INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?)"
_CLEAR_STATE: Final = "DELETE FROM session WHERE entity = ? AND session_id = ?"
_REMEMBER: Final = "INSERT OR REPLACE INTO duplicate VALUES (?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM duplicate WHERE entity = ? AND message_id = ?"

_log = logging.getLogger("emulators.servicebus")
_Row = tuple[int | str | bytes, ...]


class StoreError(Exception):
    """A database file that cannot be used."""


class Store:
    """A `Journal` that gathers changes and writes them in one transaction per `commit`."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the file. Raises `StoreError`."""
        self._path = path
        self._changes: list[tuple[str, list[_Row]]] = []
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=1, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise StoreError(f"{path}: cannot be used as a database: {error}") from error

    def _prepare(self) -> None:
        # Two brokers on one file would each acknowledge what the other does not know.
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _FORMAT):
            raise StoreError(f"{self._path}: format {version} is not known; remove the file to start afresh.")
        self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_FORMAT}; COMMIT;")
        self._ids: dict[str, int] = dict(self._connection.execute("SELECT path, id FROM entity"))

    def commit(self) -> None:
        """Write everything since the last commit. Raises `sqlite3.Error`; the changes are not lost then."""
        if not self._changes:
            return
        execute, many = self._connection.execute, self._connection.executemany
        execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in self._changes:
                if len(rows) == 1:
                    execute(statement, rows[0])
                else:
                    many(statement, rows)
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        self._changes = []

    def close(self) -> None:
        """Close the file; changes that were not committed are dropped."""
        self._connection.close()

    def restore(self, broker: Broker) -> None:
        """Put everything that was committed back into a new broker. Raises `StoreError` if the file is damaged."""
        try:
            self._restore(broker)
            self.commit()
        except (sqlite3.Error, AmqpError, ValueError) as error:
            raise StoreError(f"{self._path}: is damaged: {error}") from error

    def _restore(self, broker: Broker) -> None:
        read = self._connection.execute
        for path, entity, reserved in read("SELECT path, id, reserved FROM entity").fetchall():
            try:
                queue = broker.entity(path)
            except AmqpError:
                _log.warning("'%s' is in the database but not in the configuration; it is left alone.", path)
                continue
            queue.restore_sequence(reserved)
            for session_id, updated_ms, state in read(
                "SELECT session_id, updated_ms, state FROM session WHERE entity = ?", (entity,)
            ):
                queue.restore_session_state(session_id, state, updated_ms)
            for message_id, seen_ms, number in read(
                "SELECT message_id, seen_ms, sequence_number FROM duplicate WHERE entity = ? ORDER BY seen_ms",
                (entity,),
            ):
                queue.restore_duplicate(message_id, seen_ms, number)
            first = entity << _SEQUENCE_BITS
            for number, enqueued_ms, due_ms, delivery_count, state, content in read(
                "SELECT id, enqueued_ms, due_ms, delivery_count, state, content FROM message"
                " WHERE id BETWEEN ? AND ? ORDER BY id",
                (first, first + _SEQUENCE_MASK),
            ).fetchall():
                entry = QueuedMessage(Message.parse(content), number & _SEQUENCE_MASK, enqueued_ms)
                entry.due_ms, entry.delivery_count, entry.state = due_ms, delivery_count, State(state)
                queue.restore(entry)

    # ---- Journal

    def put(self, path: str, entry: QueuedMessage) -> None:
        row = (
            self._key(path, entry.sequence_number),
            entry.enqueued_ms,
            entry.due_ms,
            entry.delivery_count,
            int(entry.state),
            entry.message.encode(),
        )
        self._change(_PUT, row)

    def update(self, path: str, entry: QueuedMessage) -> None:
        self._change(_UPDATE, (entry.delivery_count, int(entry.state), self._key(path, entry.sequence_number)))

    def remove(self, path: str, sequence_number: int) -> None:
        self._change(_REMOVE, (self._key(path, sequence_number),))

    def reserve(self, path: str, sequence_number: int) -> None:
        self._change(_RESERVE, (sequence_number, self._entity(path)))

    def session_state(self, path: str, session_id: str, state: bytes | None, updated_ms: int) -> None:
        if state is None:
            self._change(_CLEAR_STATE, (self._entity(path), session_id))
        else:
            self._change(_SET_STATE, (self._entity(path), session_id, updated_ms, state))

    def remember(self, path: str, message_id: str, seen_ms: int, sequence_number: int) -> None:
        self._change(_REMEMBER, (self._entity(path), message_id, seen_ms, sequence_number))

    def forget(self, path: str, message_id: str) -> None:
        self._change(_FORGET, (self._entity(path), message_id))

    def _key(self, path: str, sequence_number: int) -> int:
        return self._entity(path) << _SEQUENCE_BITS | sequence_number

    def _entity(self, path: str) -> int:
        path = path.lower()
        entity = self._ids.get(path)
        if entity is None:
            entity = self._ids[path] = max(self._ids.values(), default=0) + 1
            self._change("INSERT INTO entity VALUES (?, ?, 0)", (entity, path))
        return entity

    def _change(self, statement: str, row: _Row) -> None:
        if self._changes and self._changes[-1][0] is statement:
            self._changes[-1][1].append(row)
        else:
            self._changes.append((statement, [row]))
