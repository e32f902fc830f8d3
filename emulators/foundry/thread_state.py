"""What the emulator remembers of the threads protocol: assistants, threads, messages, runs and run steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from emulators.foundry.database import OBJECT, Database, Page, PageQuery, dump
from emulators.foundry.model import JsonObject

Kind = Literal["assistant", "thread", "message", "run", "step"]
RUNNING = ("queued", "in_progress", "cancelling")
"""States of a run that somebody works on; ``requires_action`` waits for the client."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS thread_objects (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  owner TEXT REFERENCES thread_objects(id) ON DELETE CASCADE, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS thread_objects_by_owner ON thread_objects (owner, kind, seq);
CREATE INDEX IF NOT EXISTS runs_by_status ON thread_objects (json_extract(body, '$.status')) WHERE kind = 'run';
"""
_PAGE = """
SELECT seq, body FROM thread_objects WHERE owner IS :owner AND kind = :kind
AND (:run = '' OR json_extract(body, '$.run_id') = :run)
AND seq * :sign > :low AND seq * :sign < :high ORDER BY seq * :sign LIMIT :n"""
_FIND = "SELECT seq FROM thread_objects WHERE owner IS :owner AND kind = :kind AND id = :cursor"


class ThreadState:
    """Objects in their wire form, each with its owner: messages and runs belong to a thread, steps to a run.

    What belongs to an object goes with it.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._db = database.connection
        self._db.executescript(_SCHEMA)

    def add(self, kind: Kind, owner: str | None, *bodies: JsonObject) -> None:
        """Add objects at the end of their list, in this order, all or none."""
        with self.database.transaction():
            self._add(kind, owner, bodies)

    def _add(self, kind: Kind, owner: str | None, bodies: Iterable[JsonObject]) -> None:
        self._db.executemany(
            "INSERT INTO thread_objects (id, kind, owner, body) VALUES (?, ?, ?, ?)",
            [(body["id"], kind, owner, dump(body)) for body in bodies],
        )

    def create_thread(self, thread: JsonObject, messages: Iterable[JsonObject]) -> None:
        """Open a thread that begins with ``messages``."""
        with self.database.transaction():
            self._add("thread", None, [thread])
            self._add("message", str(thread["id"]), messages)

    def create_run(self, run: JsonObject, messages: Iterable[JsonObject]) -> None:
        """Record a run that starts; ``messages`` join its thread in the same transaction."""
        thread = str(run["thread_id"])
        with self.database.transaction():
            self._add("message", thread, messages)
            self._add("run", thread, [run])

    def put(self, *bodies: JsonObject) -> None:
        """Write objects anew, all or none; those deleted meanwhile stay deleted."""
        with self.database.transaction():
            self._db.executemany(
                "UPDATE thread_objects SET body = ? WHERE id = ?", [(dump(body), body["id"]) for body in bodies]
            )

    def get(self, kind: Kind, owner: str | None, object_id: str) -> JsonObject | None:
        """One object, or None if there is none of that kind and owner."""
        return self.database.fetch(
            "SELECT body FROM thread_objects WHERE id = ? AND kind = ? AND owner IS ?", (object_id, kind, owner)
        )

    def page(self, kind: Kind, owner: str | None, query: PageQuery, *, run: str = "") -> Page[JsonObject]:
        """Part of a list, in order of creation; ``run`` narrows it to what that run made.

        Raises:
            UnknownCursor: ``after`` or ``before`` is not in the list.
        """
        rows, more = self.database.page(_PAGE, {"owner": owner, "kind": kind, "run": run}, query, _FIND)
        return Page([OBJECT.validate_json(row) for row in rows], more)

    def all(self, kind: Kind, owner: str) -> list[JsonObject]:
        """A whole list, oldest first."""
        rows = self._db.execute(
            "SELECT body FROM thread_objects WHERE owner = ? AND kind = ? ORDER BY seq", (owner, kind)
        )
        return [OBJECT.validate_json(body) for (body,) in rows]

    def newest(self, kind: Kind, owner: str) -> Iterator[JsonObject]:
        """A whole list, newest first, read as far as it is asked for."""
        rows = self._db.execute(
            "SELECT body FROM thread_objects WHERE owner = ? AND kind = ? ORDER BY seq DESC", (owner, kind)
        )
        return (OBJECT.validate_json(body) for (body,) in rows)

    def count(self, kind: Kind, owner: str) -> int:
        """How many objects of that kind an owner has."""
        (found,) = self._db.execute(
            "SELECT count(*) FROM thread_objects WHERE owner = ? AND kind = ?", (owner, kind)
        ).fetchone()
        return int(found)

    def delete(self, object_id: str) -> None:
        """Delete an object and what belongs to it."""
        self._db.execute("DELETE FROM thread_objects WHERE id = ?", (object_id,))

    def last_run(self, thread: str) -> JsonObject | None:
        """The newest run of a thread: the only one that may be active, as none begins before the last has ended."""
        return self.database.fetch(
            "SELECT body FROM thread_objects WHERE owner = ? AND kind = 'run' ORDER BY seq DESC LIMIT 1", (thread,)
        )

    def interrupted(self) -> list[JsonObject]:
        """Runs that somebody worked on when the process died."""
        rows = self._db.execute(
            "SELECT body FROM thread_objects WHERE kind = 'run' AND json_extract(body, '$.status') IN (?, ?, ?)",
            RUNNING,
        )
        return [OBJECT.validate_json(body) for (body,) in rows]
