"""The database under the emulator: one SQLite connection, transactions, paged lists.

`:memory:` or a file in WAL mode. A statement that returned survives ``kill -9``: committed pages are with the
operating system; only a crash of the machine may lose the last ones (``synchronous=NORMAL``). The file is held
exclusively, so a second emulator on it fails at once. Calls take microseconds and run on the event loop: a hop to a
thread would cost more and would let two requests interleave inside one check-then-write.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import TypeAdapter

from emulators.foundry.model import JsonObject

Order = Literal["asc", "desc"]
T = TypeVar("T")

OBJECT = TypeAdapter(JsonObject)
_FAR = 1 << 62


class UnknownCursor(Exception):
    """The id given as ``after`` or ``before`` is not in the list."""


class StateUnavailable(Exception):
    """The database file cannot be opened, is none, or is held by another process."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, in listing order; ``has_more`` tells whether it goes on."""

    data: list[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which part of a list: ``after`` and ``before`` are ids of elements."""

    limit: int = 20
    order: Order = "desc"
    after: str | None = None
    before: str | None = None


class Database:
    """The connection, opened and held.

    Raises:
        StateUnavailable: ``path`` cannot be used, or another process holds it.
    """

    def __init__(self, path: str | None, schema: str) -> None:
        try:
            self.connection = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=0.2)
        except sqlite3.Error as error:
            raise StateUnavailable(f"{path}: {error}") from error
        try:
            self.connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute("PRAGMA foreign_keys=ON")
            self.connection.executescript(schema)
        except sqlite3.Error as error:
            self.connection.close()
            hint = " (does another emulator use this file?)" if "locked" in str(error) else ""
            raise StateUnavailable(f"{path}: {error}{hint}") from error

    def close(self) -> None:
        """Close the file; what was written stays."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def fetch(self, sql: str, values: tuple[str | None, ...]) -> JsonObject | None:
        """The JSON object in the first column of the first row, or None."""
        row = self.connection.execute(sql, values).fetchone()
        return None if row is None else OBJECT.validate_json(row[0])

    def page(
        self, sql: str, values: dict[str, str | bool | None], query: PageQuery, find: str
    ) -> tuple[list[str], bool]:
        """Second columns of a page, and whether the list goes on.

        ``sql`` selects the position and the value between ``:low`` and ``:high``, in the direction ``:sign``, at most
        ``:n``; ``find`` gives the position of the element ``:cursor``.

        Raises:
            UnknownCursor: ``after`` or ``before`` is not in the list.
        """
        sign = 1 if query.order == "asc" else -1
        low, high = -_FAR, _FAR
        if query.after is not None:
            low = sign * self._position(find, values, query.after)
        if query.before is not None:
            high = sign * self._position(find, values, query.before)
        backwards = query.before is not None and query.after is None
        if backwards:  # the page that ends just before the cursor: read towards the front, then turn it round
            sign, low, high = -sign, -high, -low
        bounds = {"sign": sign, "low": low, "high": high, "n": query.limit + 1}
        rows = [str(row[1]) for row in self.connection.execute(sql, {**values, **bounds})]
        page = rows[: query.limit]
        return (page[::-1] if backwards else page), len(rows) > query.limit

    def _position(self, find: str, values: dict[str, str | bool | None], cursor: str) -> int:
        row = self.connection.execute(find, {**values, "cursor": cursor}).fetchone()
        if row is None:
            raise UnknownCursor(cursor)
        return int(row[0])


def dump(value: JsonObject) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
