"""What the emulator remembers of agents, deployments, conversations and responses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from emulators.foundry.database import OBJECT, Database, Page, PageQuery, dump
from emulators.foundry.model import JsonObject

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS agents (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, last_version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS agent_versions (
  agent TEXT NOT NULL REFERENCES agents(name) ON DELETE CASCADE, version INTEGER NOT NULL, draft INTEGER NOT NULL,
  body TEXT NOT NULL, PRIMARY KEY (agent, version));
CREATE TABLE IF NOT EXISTS conversations (id TEXT PRIMARY KEY, created_at INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL,
  conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE, body TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS items_by_conversation ON items (conversation, seq);
CREATE UNIQUE INDEX IF NOT EXISTS items_by_id ON items (conversation, id);
CREATE TABLE IF NOT EXISTS responses (
  id TEXT PRIMARY KEY, conversation TEXT, running INTEGER NOT NULL, input TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS running_responses ON responses (running) WHERE running = 1;
"""

_AGENTS_PAGE = """
SELECT seq, name FROM agents WHERE seq * :sign > :low AND seq * :sign < :high ORDER BY seq * :sign LIMIT :n"""
_VERSIONS_PAGE = """
SELECT version, body FROM agent_versions WHERE agent = :owner AND (draft = 0 OR :drafts)
AND version * :sign > :low AND version * :sign < :high ORDER BY version * :sign LIMIT :n"""
_ITEMS_PAGE = """
SELECT seq, body FROM items WHERE conversation = :owner
AND seq * :sign > :low AND seq * :sign < :high ORDER BY seq * :sign LIMIT :n"""

_EXPIRED = """
DELETE FROM responses WHERE rowid IN (
  SELECT rowid FROM (SELECT rowid, body FROM responses WHERE running = 0 ORDER BY rowid LIMIT 2)
  WHERE json_extract(body, '$.created_at') < ?)"""

RESPONSE_KEPT = 30 * 24 * 3600
"""Seconds for which a response can be got or continued, as the service keeps them; a conversation keeps its items."""

_OBJECTS = TypeAdapter(list[JsonObject])


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response object as last written, its conversation if any, and its input items."""

    body: JsonObject
    conversation: str | None
    input: list[JsonObject]


class State:
    """Agents and their versions, deployments, conversations and their items, responses.

    Objects are kept in their wire form; this class gives them order, identity and atomic change.
    """

    def __init__(self, path: str | None = None) -> None:
        self.database = Database(path, _SCHEMA)
        self._db = self.database.connection

    def close(self) -> None:
        """Close the file; what was written stays."""
        self.database.close()

    # Deployments

    def replace_deployments(self, deployments: Iterable[JsonObject]) -> None:
        """Make these the deployments of the project; each has a ``name``."""
        with self.database.transaction():
            self._db.execute("DELETE FROM deployments")
            self._db.executemany("INSERT INTO deployments VALUES (?, ?)", [(d["name"], dump(d)) for d in deployments])

    def deployments(self) -> list[JsonObject]:
        """All deployments, by name."""
        return [OBJECT.validate_json(b) for (b,) in self._db.execute("SELECT body FROM deployments ORDER BY name")]

    def deployment(self, name: str) -> JsonObject | None:
        """One deployment, or None."""
        return self.database.fetch("SELECT body FROM deployments WHERE name = ?", (name,))

    # Agents

    def create_version(self, name: str, fields: JsonObject, *, draft: bool = False) -> JsonObject:
        """Add a version of agent ``name``, creating the agent with its first; numbers are never used twice."""
        with self.database.transaction():
            (number,) = self._db.execute(
                "INSERT INTO agents (name, last_version) VALUES (?, 1) "
                "ON CONFLICT (name) DO UPDATE SET last_version = last_version + 1 RETURNING last_version",
                (name,),
            ).fetchone()
            body: JsonObject = {
                "object": "agent.version",
                "id": f"{name}:{number}",
                "name": name,
                "version": str(number),
                "created_at": int(time.time()),
                "status": "active",
                "draft": draft,
                **fields,
            }
            self._db.execute("INSERT INTO agent_versions VALUES (?, ?, ?, ?)", (name, number, draft, dump(body)))
        return body

    def version_count(self, name: str) -> int:
        """How many versions of agent ``name`` exist."""
        (count,) = self._db.execute("SELECT count(*) FROM agent_versions WHERE agent = ?", (name,)).fetchone()
        return int(count)

    def version(self, name: str, version: str | None = None) -> JsonObject | None:
        """A version of an agent; without a number the latest that is no draft, else the latest."""
        if version is None:
            return self.database.fetch(
                "SELECT body FROM agent_versions WHERE agent = ? ORDER BY draft, version DESC LIMIT 1", (name,)
            )
        return self.database.fetch("SELECT body FROM agent_versions WHERE agent = ? AND version = ?", (name, version))

    def agents(self, query: PageQuery) -> Page[str]:
        """Names of agents, in order of creation."""
        rows, more = self.database.page(_AGENTS_PAGE, {}, query, "SELECT seq FROM agents WHERE name = :cursor")
        return Page(rows, more)

    def versions(self, name: str, query: PageQuery, *, drafts: bool = False) -> Page[JsonObject]:
        """Versions of an agent, in order of creation; cursors are version ids (``name:3``)."""
        rows, more = self.database.page(
            _VERSIONS_PAGE,
            {"owner": name, "drafts": drafts},
            query,
            "SELECT version FROM agent_versions WHERE agent = :owner AND agent || ':' || version = :cursor",
        )
        return Page([OBJECT.validate_json(row) for row in rows], more)

    def delete_agent(self, name: str) -> bool:
        """Delete an agent with its versions; False if there was none."""
        return self._db.execute("DELETE FROM agents WHERE name = ?", (name,)).rowcount == 1

    def delete_version(self, name: str, version: str) -> bool:
        """Delete one version, and the agent with its last one; False if there was none."""
        with self.database.transaction():
            deleted = self._db.execute(
                "DELETE FROM agent_versions WHERE agent = ? AND version = ?", (name, version)
            ).rowcount
            if self.version_count(name) == 0:
                self._db.execute("DELETE FROM agents WHERE name = ?", (name,))
        return deleted == 1

    # Conversations

    def create_conversation(
        self, conversation_id: str, metadata: dict[str, str], items: Sequence[JsonObject]
    ) -> JsonObject:
        """Open a conversation that begins with ``items``."""
        with self.database.transaction():
            self._db.execute(
                "INSERT INTO conversations VALUES (?, ?, ?)",
                (conversation_id, int(time.time()), json.dumps(metadata)),
            )
            self._append(conversation_id, items)
        return self._conversation_object(conversation_id, int(time.time()), metadata)

    def conversation(self, conversation_id: str) -> JsonObject | None:
        """The conversation object, or None."""
        row = self._db.execute(
            "SELECT created_at, metadata FROM conversations WHERE id = ?", (conversation_id,)
        ).fetchone()
        if row is None:
            return None
        return self._conversation_object(conversation_id, row[0], json.loads(row[1]))

    @staticmethod
    def _conversation_object(conversation_id: str, created_at: int, metadata: dict[str, str]) -> JsonObject:
        return {"id": conversation_id, "object": "conversation", "created_at": created_at, "metadata": {**metadata}}

    def update_conversation(self, conversation_id: str, metadata: dict[str, str]) -> None:
        """Replace the metadata."""
        self._db.execute("UPDATE conversations SET metadata = ? WHERE id = ?", (json.dumps(metadata), conversation_id))

    def delete_conversation(self, conversation_id: str) -> bool:
        """Delete a conversation with its items; False if there was none."""
        return self._db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,)).rowcount == 1

    def append_items(self, conversation_id: str, items: Sequence[JsonObject]) -> None:
        """Add items at the end, all or none."""
        with self.database.transaction():
            self._append(conversation_id, items)

    def _append(self, conversation_id: str, items: Sequence[JsonObject]) -> None:
        self._db.executemany(
            "INSERT INTO items (id, conversation, body) VALUES (?, ?, ?)",
            [(item["id"], conversation_id, dump(item)) for item in items],
        )

    def history(self, conversation_id: str) -> list[JsonObject]:
        """All items of a conversation, oldest first."""
        rows = self._db.execute("SELECT body FROM items WHERE conversation = ? ORDER BY seq", (conversation_id,))
        return [OBJECT.validate_json(body) for (body,) in rows]

    def items(self, conversation_id: str, query: PageQuery) -> Page[JsonObject]:
        """A page of the items of a conversation."""
        rows, more = self.database.page(
            _ITEMS_PAGE,
            {"owner": conversation_id},
            query,
            "SELECT seq FROM items WHERE conversation = :owner AND id = :cursor",
        )
        return Page([OBJECT.validate_json(row) for row in rows], more)

    def item(self, conversation_id: str, item_id: str) -> JsonObject | None:
        """One item, or None."""
        return self.database.fetch(
            "SELECT body FROM items WHERE conversation = ? AND id = ?", (conversation_id, item_id)
        )

    def delete_item(self, conversation_id: str, item_id: str) -> bool:
        """Delete one item; False if there was none."""
        cursor = self._db.execute("DELETE FROM items WHERE conversation = ? AND id = ?", (conversation_id, item_id))
        return cursor.rowcount == 1

    # Responses

    def begin_response(self, body: JsonObject, conversation: str | None, items: Sequence[JsonObject]) -> None:
        """Record a response that starts; its input joins the conversation in the same transaction.

        For each that comes up to two go that are older than `RESPONSE_KEPT`: so the file stops growing.
        """
        with self.database.transaction():
            self._db.execute(_EXPIRED, (int(time.time()) - RESPONSE_KEPT,))
            self._db.execute(
                "INSERT INTO responses VALUES (?, ?, 1, ?, ?)",
                (body["id"], conversation, json.dumps(items), dump(body)),
            )
            if conversation is not None:
                self._append(conversation, items)

    def finish_response(self, body: JsonObject, conversation: str | None, items: Sequence[JsonObject]) -> None:
        """Record how a response ended; its output joins the conversation in the same transaction."""
        with self.database.transaction():
            self._db.execute("UPDATE responses SET running = 0, body = ? WHERE id = ?", (dump(body), body["id"]))
            if conversation is not None:
                self._append(conversation, items)

    def response(self, response_id: str) -> StoredResponse | None:
        """A response as last recorded, or None."""
        row = self._db.execute(
            "SELECT body, conversation, input FROM responses WHERE id = ?", (response_id,)
        ).fetchone()
        if row is None:
            return None
        return StoredResponse(OBJECT.validate_json(row[0]), row[1], _OBJECTS.validate_json(row[2]))

    def delete_response(self, response_id: str) -> bool:
        """Forget a response; the items of its conversation stay. False if there was none."""
        return self._db.execute("DELETE FROM responses WHERE id = ?", (response_id,)).rowcount == 1

    def interrupted(self) -> list[JsonObject]:
        """Responses that were running when the process that ran them died."""
        rows = self._db.execute("SELECT body FROM responses WHERE running = 1")
        return [OBJECT.validate_json(body) for (body,) in rows]
