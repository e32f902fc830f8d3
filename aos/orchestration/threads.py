"""Which thread belongs to a conversation: in this process, or in a table that all processes share."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from aos.orchestration.model_types import ModelType, Said, Thread
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.rows import table_key

REMEMBERED = 10_000
LONGEST_HISTORY = 400_000
"""Characters of JSON, in ASCII, kept per conversation; the oldest messages go first. A table row holds 1 MiB at most,
at two bytes per character."""
FRAME = 40
"""Characters of JSON around a message."""
COLUMN = 30_000
"""Characters per column; a string property holds at most 32 Ki."""
TABLE = "aosmodelthreads"
_HISTORY = TypeAdapter(tuple[Said, ...])


def bounded(history: tuple[Said, ...]) -> tuple[Said, ...]:
    """The newest part of a history that may be kept; it begins with a question."""
    left, start = LONGEST_HISTORY, len(history)
    while start:
        left -= len(json.dumps(history[start - 1].text)) + FRAME
        if left < 0:
            break
        start -= 1
    while start < len(history) and history[start].role != "user":
        start += 1
    return history[start:]


class RememberedThreads:
    """A `ThreadStore` for this process alone; it forgets the conversations that were longest silent."""

    def __init__(self) -> None:
        self._threads: OrderedDict[tuple[ModelType, str], Thread] = OrderedDict()

    async def load(self, backend: ModelType, conversation_id: str) -> Thread | None:
        return self._threads.get((backend, conversation_id))

    async def claim(self, backend: ModelType, conversation_id: str, thread: Thread) -> Thread:
        known = self._threads.get((backend, conversation_id))
        if known is None:
            await self.save(backend, conversation_id, thread)
        return known or thread

    async def save(self, backend: ModelType, conversation_id: str, thread: Thread) -> None:
        key = backend, conversation_id
        self._threads[key] = Thread(thread.thread_id, bounded(thread.history))
        self._threads.move_to_end(key)
        while len(self._threads) > REMEMBERED:
            self._threads.popitem(last=False)


class StoredThreads:
    """A `ThreadStore` in the table `aosmodelthreads`; the last one to save wins."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def load(self, backend: ModelType, conversation_id: str) -> Thread | None:
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                return _thread(await table.get_entity(table_key(conversation_id), backend.value))
            except ResourceNotFoundError:
                return None

    async def claim(self, backend: ModelType, conversation_id: str, thread: Thread) -> Thread:
        from azure.core.exceptions import ResourceExistsError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                await table.create_entity(_row(backend, conversation_id, thread))
            except ResourceExistsError:
                return _thread(await table.get_entity(table_key(conversation_id), backend.value))
        return thread

    async def save(self, backend: ModelType, conversation_id: str, thread: Thread) -> None:
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            await table.upsert_entity(_row(backend, conversation_id, thread), mode=UpdateMode.REPLACE)


def _row(backend: ModelType, conversation_id: str, thread: Thread) -> dict[str, Any]:
    text = json.dumps([{"role": s.role, "text": s.text} for s in bounded(thread.history)])
    return {
        "PartitionKey": table_key(conversation_id),
        "RowKey": backend.value,
        "thread_id": thread.thread_id,
        **{f"history{n}": text[at : at + COLUMN] for n, at in enumerate(range(0, len(text), COLUMN))},
    }


def _thread(row: Mapping[str, Any]) -> Thread:
    parts: list[str] = []
    while (part := row.get(f"history{len(parts)}")) is not None:
        parts.append(str(part))
    return Thread(str(row["thread_id"]), _HISTORY.validate_json("".join(parts) or "[]"))
