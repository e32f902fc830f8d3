"""Storage for applications: Tables, blobs and queues of one account behind one object.

`UnifiedStorageManager` knows nothing of any application: tables, containers and queues are made when they are first
used, under the names that the application gives. What AOS keeps for itself lies in tables and containers whose names
begin with `aos`; this class refuses those.

    async with UnifiedStorageManager() as storage:
        await storage.create_conversation("board-7", data={"topic": "Q3"})
        await storage.add_message("board-7", "user", "How was the third quarter?")
        page = await storage.query_messages("board-7")
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict

from aos.config import STORAGE, Settings, load_settings
from aos.errors import Conflict, SettingError, StorageUnavailable
from aos.identity import identity
from aos.storage.account import StorageAccount
from aos.storage.blobs import LARGEST_BLOB, BlobInfo, Blobs
from aos.storage.entities import ETAG, TRIES, Entities, Entity
from aos.storage.names import Kind, StorageNameInvalid
from aos.storage.paging import Page
from aos.storage.payloads import Payloads
from aos.storage.queues import MOST, QueueMessage, Queues
from aos.storage.rows import table_key

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

VALUES_CONTAINER = "app-values"
"""Long values of applications' entities and messages."""


@dataclass(frozen=True, slots=True)
class StorageNames:
    """What an application calls its tables and queues."""

    conversations: str = "conversations"
    events: str = "agent-events"
    requests: str = "agent-requests"


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """A conversation of an application. Times are seconds since the epoch; `etag` names its state."""

    conversation_id: str
    domain: str
    data: Mapping[str, Any]
    created_at: float
    updated_at: float
    etag: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message of a conversation; `at` in seconds since the epoch."""

    message_id: str
    role: str
    content: str
    data: Mapping[str, Any]
    at: float


class Configuration(TypedDict):
    """What `validate_configuration` found: whether all is well, what is not, and which services answer."""

    valid: bool
    issues: list[str]
    storage_configured: bool
    services: dict[str, bool]


class UnifiedStorageManager:
    """Tables, blobs and queues; safe for any number of tasks.

    Nothing is read or connected before the first call. Lists come in pages (`Page.items`, `Page.next`).

    Args:
        settings: Which account, with a connection string or an identity; from the environment without it.
        names: Of the tables and queues that have methods of their own.
        credential: Signs in instead of the app's identity; its owner closes it.

    Raises:
        SettingError: A setting is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        names: StorageNames | None = None,
        credential: AsyncTokenCredential | None = None,
    ) -> None:
        self._settings = settings or load_settings()
        self._names = names or StorageNames()
        self._own: AsyncTokenCredential | None = None
        if credential is None and self._settings.storage_configured and not self._settings.storage:
            self._own = credential = identity(self._settings)
        self._account = StorageAccount(self._settings, credential)
        payloads = Payloads(self._account, VALUES_CONTAINER)
        self._entities = Entities(self._account, payloads)
        self._blobs = Blobs(self._account)
        self._queues = Queues(self._account, payloads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections; the next call opens new ones."""
        await self._account.close()
        if self._own is not None:
            await self._own.close()

    async def validate_configuration(self) -> Configuration:
        """Asks every service of the account whether it answers this app; raises nothing."""
        issues: dict[str, str] = {}
        if not self._settings.storage_configured:
            issues["storage"] = f"{STORAGE} is not set: give a connection string, or {STORAGE}__accountName."
        else:
            try:
                issues = await self._account.check()
            except SettingError as error:
                issues["storage"] = error.detail
        answers = {name: "storage" not in issues and name not in issues for name in ("tables", "blobs", "queues")}
        return Configuration(
            valid=not issues,
            issues=list(issues.values()),
            storage_configured=self._settings.storage_configured,
            services=answers,
        )

    # --- conversations and messages

    async def create_conversation(
        self, conversation_id: str | None = None, *, domain: str = "", data: Mapping[str, Any] | None = None
    ) -> ConversationRecord:
        """Makes a conversation.

        Args:
            conversation_id: A new one is made up without it.
            data: Whatever the application keeps with it; JSON.

        Raises:
            Conflict: There is one with this id.
        """
        now = time.time()
        record = ConversationRecord(conversation_id or uuid.uuid4().hex, domain, dict(data or {}), now, now, "")
        etag = await self._entities.insert(self._names.conversations, _conversation_row(record))
        return _with_etag(record, etag)

    async def get_conversation(self, conversation_id: str) -> ConversationRecord | None:
        row = await self._entities.get(self._names.conversations, table_key(conversation_id), _CONVERSATION)
        return None if row is None else _conversation(row)

    async def upsert_conversation(
        self,
        conversation_id: str,
        *,
        domain: str | None = None,
        data: Mapping[str, Any] | None = None,
        etag: str | None = None,
    ) -> ConversationRecord:
        """Writes a conversation, new or known; what is not given stays as it is.

        Args:
            etag: Write only over this state of it.

        Raises:
            Conflict: It has another state than `etag`.
            StorageUnavailable: Others write it all the time.
        """
        for _ in range(TRIES):
            known = await self.get_conversation(conversation_id)
            now = time.time()
            record = ConversationRecord(
                conversation_id,
                domain if domain is not None else (known.domain if known else ""),
                dict(data) if data is not None else (known.data if known else {}),
                known.created_at if known else now,
                now,
                "",
            )
            row = _conversation_row(record)
            try:
                if known is None and etag is None:
                    written = await self._entities.insert(self._names.conversations, row)
                else:
                    state = etag if etag is not None or known is None else known.etag
                    written = await self._entities.upsert(self._names.conversations, row, etag=state)
            except Conflict:
                if etag is not None:
                    raise
                continue  # written by somebody else meanwhile: whose parts that are not given stay
            return _with_etag(record, written)
        raise StorageUnavailable(
            f"Others write conversation {conversation_id!r} all the time; try again.", retry_after=1.0
        )

    async def add_message(
        self,
        conversation_id: str,
        role: str,
        content: str,
        *,
        message_id: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> MessageRecord:
        """Adds a message at the end of a conversation, which need not have been made before.

        Args:
            message_id: The same id again adds nothing and returns the message that is there.
        """
        table, partition = self._names.conversations, table_key(conversation_id)
        message_id = message_id or uuid.uuid4().hex
        at = time.time()
        place = f"{_MESSAGE}{int(at * 1e6):017d}.{table_key(message_id)[:16]}"
        row = {"PartitionKey": partition, "RowKey": f"{_INDEX}{table_key(message_id)}", "place": place}
        try:
            await self._entities.insert(table, row)
        except Conflict:
            known = await self._entities.get(table, partition, row["RowKey"])
            place = str(known["place"]) if known is not None else place
        message = MessageRecord(message_id, role, content, dict(data or {}), int(place[2:19]) / 1e6)
        with suppress(Conflict):
            await self._entities.insert(
                table,
                {
                    "PartitionKey": partition,
                    "RowKey": place,
                    "message_id": message_id,
                    "role": role,
                    "content": content,
                    "data": message.data,
                },
            )
            return message
        there = await self._entities.get(table, partition, place)
        return message if there is None else _message(there)

    async def query_messages(
        self, conversation_id: str, *, since: float | None = None, limit: int = 100, next: str | None = None
    ) -> Page[MessageRecord]:
        """Messages of a conversation, oldest first.

        Args:
            since: Only those added at or after this time, in seconds since the epoch.
        """
        page = await self._entities.query(
            self._names.conversations,
            partition=table_key(conversation_id),
            filter="RowKey ge @first and RowKey lt @end",
            parameters={"first": f"{_MESSAGE}{int((since or 0) * 1e6):017d}", "end": "m;"},
            limit=limit,
            next=next,
        )
        return Page([_message(row) for row in page.items], page.next)

    # --- tables

    async def upsert_entity(self, table: str, entity: Mapping[str, Any], *, etag: str | None = None) -> str:
        """Writes an entity (`PartitionKey`, `RowKey`, and properties of any size); see `Entities.upsert`."""
        return await self._entities.upsert(_theirs("table", table), entity, etag=etag)

    async def upsert_entities(self, table: str, entities: Iterable[Mapping[str, Any]]) -> int:
        """Writes many entities in few requests; see `Entities.upsert_all`."""
        return await self._entities.upsert_all(_theirs("table", table), entities)

    async def get_entity(self, table: str, partition: str, row: str) -> Entity | None:
        """An entity, its state under `etag`; None if it is not there."""
        return await self._entities.get(_theirs("table", table), partition, row)

    async def query_entities(
        self,
        table: str,
        *,
        partition: str | None = None,
        filter: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        select: Sequence[str] | None = None,
        limit: int = 1000,
        next: str | None = None,
    ) -> Page[Entity]:
        """Entities in the order of their keys; see `Entities.query`."""
        return await self._entities.query(
            _theirs("table", table),
            partition=partition,
            filter=filter,
            parameters=parameters,
            select=select,
            limit=limit,
            next=next,
        )

    async def delete_entity(self, table: str, partition: str, row: str, *, etag: str | None = None) -> bool:
        """Deletes an entity. False: it was not there."""
        return await self._entities.delete(_theirs("table", table), partition, row, etag=etag)

    # --- blobs

    async def upload_blob(
        self,
        container: str,
        name: str,
        data: bytes | str,
        *,
        content_type: str | None = None,
        etag: str | None = None,
        overwrite: bool = True,
    ) -> BlobInfo:
        """Writes a whole blob; see `Blobs.upload`."""
        return await self._blobs.upload(
            _theirs("container", container), name, data, content_type=content_type, etag=etag, overwrite=overwrite
        )

    async def download_blob(self, container: str, name: str, *, limit: int = LARGEST_BLOB) -> bytes:
        """Reads a whole blob; see `Blobs.download`."""
        return await self._blobs.download(_theirs("container", container), name, limit=limit)

    async def load_json_from_blob(self, container: str, name: str) -> Any:
        """The JSON document in a blob; see `Blobs.load_json`."""
        return await self._blobs.load_json(_theirs("container", container), name)

    async def list_blobs(
        self, container: str, *, prefix: str = "", limit: int = 1000, next: str | None = None
    ) -> Page[BlobInfo]:
        """Blobs in the order of their names."""
        return await self._blobs.list(_theirs("container", container), prefix=prefix, limit=limit, next=next)

    async def delete_blob(self, container: str, name: str, *, etag: str | None = None) -> bool:
        """Deletes a blob. False: it was not there."""
        return await self._blobs.delete(_theirs("container", container), name, etag=etag)

    # --- queues

    async def enqueue_event(self, body: Any) -> str:
        """Puts a message into the queue of events; see `Queues.send`."""
        return await self._queues.send(self._names.events, body)

    async def enqueue_request(self, body: Any) -> str:
        """Puts a message into the queue of requests; see `Queues.send`."""
        return await self._queues.send(self._names.requests, body)

    async def send_message(self, queue: str, body: Any, *, delay: float = 0, time_to_live: float | None = None) -> str:
        """Puts a message at the end of a queue; see `Queues.send`."""
        return await self._queues.send(_theirs("queue", queue), body, delay=delay, time_to_live=time_to_live)

    async def receive_messages(
        self, queue: str, *, limit: int = MOST, visibility_timeout: float = 30
    ) -> Sequence[QueueMessage]:
        """Takes messages, which nobody else gets for `visibility_timeout` seconds; see `Queues.receive`."""
        return await self._queues.receive(_theirs("queue", queue), limit=limit, visibility_timeout=visibility_timeout)

    async def delete_message(self, queue: str, message: QueueMessage) -> None:
        """Removes a message that was dealt with; see `Queues.delete`."""
        await self._queues.delete(_theirs("queue", queue), message)


_CONVERSATION = "conversation"
_MESSAGE = "m:"
_INDEX = "i:"


def _theirs(kind: Kind, name: str) -> str:
    if name.lower().startswith("aos"):
        raise StorageNameInvalid(f"{name!r}: names that begin with `aos` are those of AOS itself; take another one.")
    return name


def _conversation_row(record: ConversationRecord) -> Entity:
    return {
        "PartitionKey": table_key(record.conversation_id),
        "RowKey": _CONVERSATION,
        "conversation_id": record.conversation_id,
        "domain": record.domain,
        "data": record.data,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _conversation(row: Entity) -> ConversationRecord:
    return ConversationRecord(
        row["conversation_id"], row["domain"], row["data"], row["created_at"], row["updated_at"], row[ETAG]
    )


def _with_etag(record: ConversationRecord, etag: str) -> ConversationRecord:
    return ConversationRecord(
        record.conversation_id, record.domain, record.data, record.created_at, record.updated_at, etag
    )


def _message(row: Entity) -> MessageRecord:
    return MessageRecord(
        row["message_id"], row["role"], row["content"], row["data"], int(str(row["RowKey"])[2:19]) / 1e6
    )
