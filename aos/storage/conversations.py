"""Conversations in Table storage.

One partition of `aosconversations` holds a conversation: `state` (with the lease), `in:{seq}` (accepted messages),
`res:{request_id}` (tool results, cancellations), `OP:{operation_id}`, `HI:{seq}` (what was accepted, for the history).
The capitals sort operations and history before the working rows, so that one range query reads what a step needs,
however long the history is. `aosoperations` finds the conversation of an operation, `aosdue` what the sweep has to look
at.

Arrivals are inserted, never updated; only the holder of the lease writes `state`, together with the rows that it
consumed, in one entity-group transaction. A value over 24 KiB lies in a blob.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from pydantic import Field, TypeAdapter, ValidationError

from aos.errors import BacklogFull, Conflict, ConversationUnreadable, OperationConflict, StorageUnavailable
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import Acceptance, Change, Due, HistoryEntry, Lease, Snapshot
from aos.kernel.records import replace
from aos.kernel.types import Arrival, Conversation, ConversationKey, Message, Operation
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.counters import Counters
from aos.storage.foresight import Foresight
from aos.storage.paging import LARGEST_PAGE
from aos.storage.payloads import PayloadGone, Payloads
from aos.storage.rows import ETAG, FIRST_LOOK, SHARDS, due_row, erased, queued, replayable, settled, shard_of, table_key
from aos.storage.rowtable import RowTable, Write
from aos.storage.values import RowValues

log = logging.getLogger("aos.storage")

T = TypeVar("T")
Row = dict[str, Any]

CONVERSATION = TypeAdapter(Conversation)
MESSAGE = TypeAdapter(Message)
ARRIVAL: TypeAdapter[Arrival] = TypeAdapter(Annotated[Arrival, Field(discriminator="kind")])
OPERATION = TypeAdapter(Operation)

INSERT_TRIES = 20
TRANSACTION = 100
"""Rows that one transaction takes."""
MOST_COUNTED = 200_000
"""Unfinished operations after which counting them ends: more than any bound."""
MOST_ENDED = 1000
"""Conversations whose ended operations wait to be counted; those beyond are left to the sweep."""
KEPT_KEYS, KEPT_SECONDS = 4096, 600.0
"""Operations of which a process remembers to which conversation they belong, and for how long."""
CHANGED = (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError)
"""How a write is refused whose row is not as it was read."""


@dataclass(slots=True)
class _Queue:
    """What waits in a conversation.

    Attributes:
        waiting: Messages.
        highest: The highest place that was given.
        rows: Messages and other arrivals.
        etag: Of the state; None when there is none.
    """

    waiting: int = 0
    highest: int = 0
    rows: int = 0
    etag: str | None = None


class TableConversations:
    """A `ConversationStore` that any number of processes share.

    Args:
        counters: Count what has ended, if given.
        first_look: Seconds after its acceptance when the sweep looks at a message for the first time.
    """

    def __init__(
        self,
        account: StorageAccount,
        payloads: Payloads,
        clock: Clock | None = None,
        *,
        counters: Counters | None = None,
        first_look: float = FIRST_LOOK,
    ) -> None:
        self._account = account
        self._values = RowValues(payloads)
        self._clock = clock or SystemClock()
        self._counters = counters
        self._first_look = first_look
        self._keys: OrderedDict[str, tuple[ConversationKey, float]] = OrderedDict()
        self._foresight = Foresight(self._clock)
        self._ended: OrderedDict[ConversationKey, tuple[Operation, ...]] = OrderedDict()

    # --- arrivals

    async def accept(self, acceptance: Acceptance) -> tuple[Operation, bool]:
        key, message = acceptance.key, acceptance.message
        operation_id = message.operation_id
        index = await self._account.rows("aosoperations")
        new_row = {
            "PartitionKey": operation_id,
            "RowKey": "index",
            "agent_id": key.agent_id,
            "conversation_id": key.conversation_id,
            "fingerprint": acceptance.fingerprint,
        }

        async def claim() -> bool:
            with storage_errors("aosoperations"):
                try:
                    await index.insert(new_row)
                except ResourceExistsError:
                    return False
            return True

        due = Due(key, operation_id, message.accepted_at + self._first_look, "")
        ahead = [self._insert_due(due)] if acceptance.unique else []
        # A due entry of what turns out to be known would count as unfinished: it waits unless the id is unique.
        first, queue, *_ = await _together(claim(), self._queue(acceptance), *ahead)
        if not first:
            known = await self.known(operation_id, acceptance.fingerprint)
            if known is not None and not replayable(known, message):
                return known, False
            # An acceptance that did not finish, or an attempt after one that failed: go on from there.
        if queue.waiting >= acceptance.backlog:
            if ahead:
                # Left there, what was refused would count as unfinished, and take the sweep's time from what was not.
                await self._forget_due(queued(key, message))
            raise BacklogFull(
                f"{queue.waiting} messages wait in conversation {key.conversation_id}; "
                f"at most {acceptance.backlog} may.",
                retry_after=5.0,
            )
        if not ahead:
            await self._insert_due(due)
        return await self._append(acceptance, queue, first)

    async def known(self, operation_id: str, fingerprint: str) -> Operation | None:
        index = await self._account.rows("aosoperations")
        with storage_errors("aosoperations"):
            try:
                row = await index.get(operation_id, "index")
            except ResourceNotFoundError:
                return None
        if row["fingerprint"] != fingerprint:
            raise OperationConflict(
                f"Operation {operation_id} was accepted before with a different request; use a new key."
            )
        return await self._operation(ConversationKey(row["agent_id"], row["conversation_id"]), operation_id)

    async def _append(self, acceptance: Acceptance, queue: _Queue, first: bool) -> tuple[Operation, bool]:
        key, message = acceptance.key, acceptance.message
        table, partition = await self._table(), table_key(*key)
        operation = queued(key, message)
        operation_row = await self._row(partition, f"OP:{message.operation_id}", OPERATION, operation)
        write_operation = Write("insert", operation_row)
        if message.attempt > 1 and (failed := await self._failed(key, message)) is not None:
            write_operation = Write("replace", operation_row, failed)
        seq = max(int(self._clock.now() * 1e6), queue.highest + 1)
        for _ in range(INSERT_TRIES):
            placed = replace(message, seq=seq)
            row = await self._row(partition, f"in:{seq:020d}", MESSAGE, placed)
            # A long text lies in one blob that both rows name.
            kept = {**row, "RowKey": f"HI:{seq:020d}"}
            try:
                with storage_errors("aosconversations"):
                    await table.transact([Write("insert", row), Write("insert", kept), write_operation])
                self._remember(message.operation_id, key)
                self._foresight.accepted(key, placed, queue.etag, alone=first and queue.rows == 0)
                return operation, True
            except (ResourceExistsError, ResourceModifiedError):
                known = await self._operation(key, message.operation_id)
                if known is not None and not replayable(known, message):
                    return known, False
                seq += 1
        raise StorageUnavailable(f"No free place in conversation {key.conversation_id} after {INSERT_TRIES} tries.")

    async def _queue(self, acceptance: Acceptance) -> _Queue:
        """What waits in the conversation; reads no message."""
        queue = _Queue()
        if acceptance.fresh:
            return queue
        query, parameters = "PartitionKey eq @p and RowKey ge 'in:'", {"p": table_key(*acceptance.key)}
        async for row in _query(await self._table(), query, parameters, select=["RowKey", "last_seq"]):
            kind, _, seq = row["RowKey"].partition(":")
            if kind == "state":
                queue.etag = row[ETAG]
                queue.highest = max(queue.highest, int(row.get("last_seq") or 0))
                continue
            queue.rows += 1
            if kind == "in":
                queue.waiting += 1
                queue.highest = max(queue.highest, int(seq))
        return queue

    async def _failed(self, key: ConversationKey, message: Message) -> str | None:
        """The ETag of an operation that the message starts anew."""
        table = await self._table()
        with storage_errors("aosconversations"):
            try:
                row = await table.get(table_key(*key), f"OP:{message.operation_id}")
            except ResourceNotFoundError:
                return None
        known = await self._value(row, OPERATION)
        return str(row[ETAG]) if replayable(known, message) else None

    async def add_arrival(self, key: ConversationKey, arrival: Arrival) -> bool:
        table = await self._table()
        row = await self._row(table_key(*key), f"res:{table_key(arrival.request_id)}", ARRIVAL, arrival)
        try:
            with storage_errors("aosconversations"):
                await table.insert(row)
        except ResourceExistsError:
            self._foresight.forget(key)
            return False
        self._foresight.arrived(key, arrival)
        return True

    # --- state

    async def read(self, key: ConversationKey) -> Snapshot:
        ended = self._ended.pop(key, ())
        if not ended and (foreseen := self._foresight.take(key)) is not None:
            return foreseen
        snapshot: Snapshot = (await _together(self._read(key), *map(self._settle, ended)))[0]
        return snapshot

    async def _read(self, key: ConversationKey) -> Snapshot:
        table, partition = await self._table(), table_key(*key)
        state, lease, etag, short = Conversation(key), Lease(), None, False
        inbox: list[Message] = []
        arrivals: list[Arrival] = []
        async for row in _query(table, "PartitionKey eq @p and RowKey ge 'in:'", {"p": partition}):
            row_key = row["RowKey"]
            with _readable(row):
                if row_key.startswith("in:"):
                    inbox.append(await self._value(row, MESSAGE))
                elif row_key.startswith("res:"):
                    arrivals.append(await self._value(row, ARRIVAL))
                else:
                    state = await self._value(row, CONVERSATION)
                    lease = Lease(row["owner"], float(row["lease_until"]), int(row["fence"]))
                    etag, short = row[ETAG], "data" in row
        snapshot = Snapshot(state, lease, etag, tuple(inbox), tuple(arrivals))
        if short and not (lease.owner or inbox or arrivals):
            self._foresight.rests(key, snapshot)
        return snapshot

    async def keys(self) -> AsyncIterator[ConversationKey]:
        """Every conversation that has a state. Reads the whole table: for maintenance.

        Raises:
            ConversationUnreadable: As `read`.
        """
        async for row in _query(await self._table(), "RowKey eq @r", {"r": "state"}):
            with _readable(row):
                key = (await self._value(row, CONVERSATION)).key
            yield key

    async def commit(self, key: ConversationKey, etag: str | None, change: Change) -> str:
        self._foresight.forget(key)
        table, partition = await self._table(), table_key(*key)
        state = await self._row(partition, "state", CONVERSATION, change.state)
        state |= {**_lease_columns(change.lease), "last_seq": str(change.state.last_seq)}
        work = [Write("insert", state) if etag is None else Write("replace", state, etag)]
        gone = [f"in:{message.seq:020d}" for message in change.messages]
        gone += [f"res:{table_key(arrival.request_id)}" for arrival in change.arrivals]
        work += [Write("delete", {"PartitionKey": partition, "RowKey": row_key}) for row_key in gone]
        for operation in change.operations:
            row = await self._row(partition, f"OP:{operation.operation_id}", OPERATION, operation)
            work.append(Write("replace", row))
        with storage_errors("aosconversations"):
            try:
                written = await table.transact(work)
            except CHANGED as error:
                raise Conflict(f"Conversation {key.conversation_id} was changed by somebody else.") from error
        ended = settled(change)
        if change.lease.owner:
            await _together(*map(self._settle, ended))
        elif ended:
            # Whoever gives the lease back looks at the arrivals once more; nobody waits for what goes with that.
            self._ended[key] = (*self._ended.pop(key, ()), *ended)
            if len(self._ended) > MOST_ENDED:
                self._ended.popitem(last=False)
        return written[0]

    async def renew(self, key: ConversationKey, etag: str, lease: Lease) -> str:
        table = await self._table()
        row = {"PartitionKey": table_key(*key), "RowKey": "state", **_lease_columns(lease)}
        with storage_errors("aosconversations"):
            try:
                return await table.merge(row, etag)
            except (ResourceModifiedError, ResourceNotFoundError) as error:
                raise Conflict(f"Conversation {key.conversation_id} was changed by somebody else.") from error

    # --- operations and what is due

    async def operation(self, operation_id: str) -> Operation | None:
        key = await self.locate(operation_id)
        return None if key is None else await self._operation(key, operation_id)

    async def end(self, operation: Operation) -> None:
        key = ConversationKey(operation.agent_id, operation.conversation_id)
        table, partition = await self._table(), table_key(*key)
        row = await self._row(partition, f"OP:{operation.operation_id}", OPERATION, operation)
        with storage_errors("aosconversations"):
            known = await table.get(partition, row["RowKey"], select=["RowKey"])
        work = [Write("replace", row, known[ETAG])]
        query = "PartitionKey eq @p and RowKey ge 'in:' and RowKey lt 'in;'"
        async for waiting in _query(table, query, {"p": partition}):
            with suppress(ConversationUnreadable), _readable(waiting):
                if (await self._value(waiting, MESSAGE)).operation_id == operation.operation_id:
                    work.append(Write("delete", {"PartitionKey": partition, "RowKey": waiting["RowKey"]}))
        with storage_errors("aosconversations"):
            try:
                await table.transact(work)
            except (ResourceModifiedError, ResourceNotFoundError) as error:
                raise Conflict(f"Operation {operation.operation_id} was changed by somebody else.") from error

    async def locate(self, operation_id: str) -> ConversationKey | None:
        if (known := self._keys.get(operation_id)) is not None and known[1] > self._clock.now():
            return known[0]
        index = await self._account.rows("aosoperations")
        with storage_errors("aosoperations"):
            try:
                row = await index.get(operation_id, "index")
            except ResourceNotFoundError:
                return None
        return ConversationKey(row["agent_id"], row["conversation_id"])

    def _remember(self, operation_id: str, key: ConversationKey) -> None:
        """The row that says where an operation belongs is never written again, and stays for days after it ended."""
        now = self._clock.now()
        self._keys.pop(operation_id, None)
        self._keys[operation_id] = key, now + KEPT_SECONDS
        while len(self._keys) > KEPT_KEYS or next(iter(self._keys.values()))[1] <= now:
            self._keys.popitem(last=False)

    async def history(self, key: ConversationKey, after: int, limit: int) -> list[HistoryEntry]:
        query = "PartitionKey eq @p and RowKey gt @after and RowKey lt 'HJ'"
        parameters = {"p": table_key(*key), "after": f"HI:{after:020d}"}
        rows = [row async for row in _query(await self._table(), query, parameters, limit)]
        messages = [await self._value(row, MESSAGE) for row in rows]
        operations = await asyncio.gather(*(self._operation(key, message.operation_id) for message in messages))
        return [HistoryEntry(message, known) for message, known in zip(messages, operations, strict=True)]

    async def erase(self, key: ConversationKey, etag: str) -> None:
        table, partition = await self._table(), table_key(*key)
        taken: list[str] = []
        work: list[Write] = []
        async for row in _query(table, "PartitionKey eq @p and RowKey lt 'in:'", {"p": partition}):
            if row["RowKey"].startswith("HI:"):
                taken.append(row["RowKey"])
            elif (known := await self._value(row, OPERATION)).final:
                ended = await self._row(partition, row["RowKey"], OPERATION, erased(known))
                work.append(Write("replace", ended))
        # Read after the history: what is not in the inbox now was taken up.
        self._foresight.forget(key)
        snapshot = await self._read(key)
        if snapshot.etag != etag:
            raise Conflict(f"Conversation {key.conversation_id} was changed by somebody else.")
        waiting = {f"HI:{message.seq:020d}" for message in snapshot.inbox}
        work += [
            Write("delete", {"PartitionKey": partition, "RowKey": place}) for place in taken if place not in waiting
        ]
        # The state goes last: until then, erasing can be begun again.
        work.append(Write("delete", {"PartitionKey": partition, "RowKey": "state"}, etag))
        for start in range(0, len(work), TRANSACTION):
            with storage_errors("aosconversations"):
                try:
                    await table.transact(work[start : start + TRANSACTION])
                except (ResourceModifiedError, ResourceNotFoundError) as error:
                    raise Conflict(f"Conversation {key.conversation_id} is being changed.") from error

    async def _settle_all(self) -> None:
        while self._ended:
            _, ended = self._ended.popitem(last=False)
            await _together(*map(self._settle, ended))

    async def unfinished(self) -> Mapping[str, int]:
        await self._settle_all()
        table = await self._account.rows("aosdue")
        counts: Counter[str] = Counter()
        with storage_errors("aosdue"):
            async for row in table.query("PartitionKey ge @p", {"p": ""}, select=["agent_id"], page=1000):
                counts[str(row["agent_id"])] += 1
                if counts.total() >= MOST_COUNTED:
                    break
        return counts

    async def due(self, before: float, limit: int) -> list[Due]:
        await self._settle_all()
        table = await self._account.rows("aosdue")
        entries: list[Due] = []

        async def look(shard: int) -> None:
            parameters = {"p": f"{shard:02d}", "before": due_row("~", before)}
            async for row in _query(table, "PartitionKey eq @p and RowKey le @before", parameters, limit):
                key = ConversationKey(row["agent_id"], row["conversation_id"])
                at, _, operation_id = row["RowKey"].partition(".")
                entries.append(Due(key, operation_id, int(at) / 1000, row["RowKey"]))

        await asyncio.gather(*map(look, range(SHARDS)))
        return sorted(entries, key=lambda entry: entry.at)[:limit]

    async def move_due(self, entry: Due, at: float | None) -> None:
        if at is None and self._counters is not None:
            operation = await self._operation(entry.key, entry.operation_id)
            if operation is not None and operation.final:
                await self._counters.count(operation)
        if at is not None:
            await self._insert_due(replace(entry, at=at))
            if due_row(entry.operation_id, at) == entry.row:
                return
        await self._delete_due(entry.operation_id, entry.row)

    async def _insert_due(self, entry: Due) -> None:
        table = await self._account.rows("aosdue")
        row = {
            "PartitionKey": shard_of(entry.operation_id),
            "RowKey": due_row(entry.operation_id, entry.at),
            "agent_id": entry.key.agent_id,
            "conversation_id": entry.key.conversation_id,
        }
        with storage_errors("aosdue"):
            await table.put(row)

    async def _delete_due(self, operation_id: str, row_key: str) -> None:
        table = await self._account.rows("aosdue")
        with storage_errors("aosdue"):
            await table.delete(shard_of(operation_id), row_key)

    async def _settle(self, operation: Operation) -> None:
        try:
            if self._counters is not None:
                await self._counters.count(operation)
        except StorageUnavailable as error:
            log.warning("%s stays for the sweep to be counted: %s", operation.operation_id, error.detail)
            return
        await self._forget_due(operation)

    async def _forget_due(self, operation: Operation) -> None:
        try:
            await self._delete_due(
                operation.operation_id, due_row(operation.operation_id, operation.created_at + self._first_look)
            )
        except StorageUnavailable as error:
            log.warning("due entry of %s stays for the sweep: %s", operation.operation_id, error.detail)

    # --- rows

    async def _table(self) -> RowTable:
        return await self._account.rows("aosconversations")

    async def _operation(self, key: ConversationKey, operation_id: str) -> Operation | None:
        table = await self._table()
        with storage_errors("aosconversations"):
            try:
                row = await table.get(table_key(*key), f"OP:{operation_id}")
            except ResourceNotFoundError:
                return None
        with _readable(row):
            return await self._value(row, OPERATION)

    async def _row(self, partition: str, row_key: str, adapter: TypeAdapter[T], value: T) -> Row:
        row: Row = {"PartitionKey": partition, "RowKey": row_key}
        return row | await self._values.columns(adapter.dump_json(value), f"rows/{partition}")

    async def _value(self, row: Mapping[str, Any], adapter: TypeAdapter[T]) -> T:
        return adapter.validate_json(await self._values.read(row))


async def _together(*work: Awaitable[Any]) -> list[Any]:
    """Waits for all of it, also when one fails; then the first failure is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@contextmanager
def _readable(row: Mapping[str, Any]) -> Iterator[None]:
    """What is wrong with a row is said by its name, so that an operator can mend or remove it."""
    try:
        yield
    except (ValidationError, ValueError, KeyError, PayloadGone) as error:
        raise ConversationUnreadable(
            f"Row {row['RowKey']!r} of partition {row['PartitionKey']!r} in table aosconversations cannot be read "
            f"({type(error).__name__}): mend or remove it, or run the version of AOS that wrote it.",
            retry_after=5.0,
        ) from error


def _lease_columns(lease: Lease) -> Row:
    return {"owner": lease.owner, "lease_until": lease.until, "fence": str(lease.fence)}


async def _query(
    table: RowTable,
    query: str,
    parameters: Mapping[str, str],
    limit: int | None = None,
    select: list[str] | None = None,
) -> AsyncIterator[Row]:
    """Rows of a query with their ETags, at most `limit`; only the columns `select`, if given."""
    count = 0
    with storage_errors(table.name):
        # Asked for more at once, Table storage answers 400; Azurite does not mind.
        page = None if limit is None else min(limit, LARGEST_PAGE)
        async for row in table.query(query, parameters, page=page, select=select):
            yield row
            count += 1
            if limit is not None and count >= limit:
                return
