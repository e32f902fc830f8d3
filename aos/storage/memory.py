"""Conversations in memory: the same promises as `aos.storage.conversations`, for agents without a
storage account, tests and benchmarks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from aos.errors import BacklogFull, Conflict, OperationConflict
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import Acceptance, Change, Due, HistoryEntry, Lease, Snapshot
from aos.kernel.records import replace
from aos.kernel.types import Arrival, Conversation, ConversationKey, Message, Operation
from aos.storage.rows import FIRST_LOOK, erased, queued, replayable, settled


@dataclass(slots=True)
class _Partition:
    state: Conversation
    lease: Lease = field(default_factory=Lease)
    etag: str | None = None
    inbox: dict[int, Message] = field(default_factory=dict)
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    history: dict[int, Message] = field(default_factory=dict)
    last_seq: int = 0


class MemoryConversations:
    """A `ConversationStore` for one process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._partitions: dict[ConversationKey, _Partition] = {}
        self._index: dict[str, str] = {}
        self._operations: dict[str, Operation] = {}
        self._due: dict[str, Due] = {}
        self._etags = itertools.count(1)

    async def accept(self, acceptance: Acceptance) -> tuple[Operation, bool]:
        message, key = acceptance.message, acceptance.key
        operation_id = message.operation_id
        if self._index.setdefault(operation_id, acceptance.fingerprint) != acceptance.fingerprint:
            raise OperationConflict(f"Operation {operation_id} was accepted before with a different request.")
        known = self._operations.get(operation_id)
        if known is not None and not replayable(known, message):
            return known, False
        partition = self._partition(key)
        if len(partition.inbox) >= acceptance.backlog:
            raise BacklogFull(f"{len(partition.inbox)} messages wait in conversation {key.conversation_id}.")
        seq = max(int(self._clock.now() * 1e6), partition.last_seq + 1)
        partition.last_seq = seq
        message = replace(message, seq=seq)
        partition.inbox[seq] = partition.history[seq] = message
        operation = self._operations[operation_id] = queued(key, message)
        self._due[operation_id] = Due(key, operation_id, message.accepted_at + FIRST_LOOK, operation_id)
        return operation, True

    async def known(self, operation_id: str, fingerprint: str) -> Operation | None:
        if self._index.get(operation_id, fingerprint) != fingerprint:
            raise OperationConflict(f"Operation {operation_id} was accepted before with a different request.")
        return self._operations.get(operation_id)

    async def add_arrival(self, key: ConversationKey, arrival: Arrival) -> bool:
        arrivals = self._partition(key).arrivals
        if arrival.request_id in arrivals:
            return False
        arrivals[arrival.request_id] = arrival
        return True

    async def read(self, key: ConversationKey) -> Snapshot:
        partition = self._partitions.get(key)
        if partition is None:
            return Snapshot(Conversation(key), Lease(), None)
        return Snapshot(
            partition.state,
            partition.lease,
            partition.etag,
            tuple(partition.inbox[seq] for seq in sorted(partition.inbox)),
            tuple(partition.arrivals.values()),
        )

    async def commit(self, key: ConversationKey, etag: str | None, change: Change) -> str:
        partition = self._partition(key)
        if partition.etag != etag:
            raise Conflict(f"Conversation {key.conversation_id} was changed by somebody else.")
        known = all(message.seq in partition.inbox for message in change.messages)
        if not known or any(arrival.request_id not in partition.arrivals for arrival in change.arrivals):
            raise Conflict(f"Arrivals of conversation {key.conversation_id} were taken up by somebody else.")
        partition.state, partition.lease = change.state, change.lease
        for message in change.messages:
            del partition.inbox[message.seq]
        for arrival in change.arrivals:
            del partition.arrivals[arrival.request_id]
        for operation in change.operations:
            self._operations[operation.operation_id] = operation
        for operation in settled(change):
            if self._operations[operation.operation_id].final:
                self._due.pop(operation.operation_id, None)
        partition.etag = str(next(self._etags))
        return partition.etag

    async def renew(self, key: ConversationKey, etag: str, lease: Lease) -> str:
        partition = self._partition(key)
        if partition.etag != etag:
            raise Conflict(f"Conversation {key.conversation_id} was changed by somebody else.")
        partition.lease = lease
        partition.etag = str(next(self._etags))
        return partition.etag

    async def operation(self, operation_id: str) -> Operation | None:
        return self._operations.get(operation_id)

    async def end(self, operation: Operation) -> None:
        partition = self._partition(ConversationKey(operation.agent_id, operation.conversation_id))
        self._operations[operation.operation_id] = operation
        for message in list(partition.inbox.values()):
            if message.operation_id == operation.operation_id:
                del partition.inbox[message.seq]

    async def locate(self, operation_id: str) -> ConversationKey | None:
        operation = self._operations.get(operation_id)
        return None if operation is None else ConversationKey(operation.agent_id, operation.conversation_id)

    async def history(self, key: ConversationKey, after: int, limit: int) -> list[HistoryEntry]:
        partition = self._partitions.get(key)
        places = sorted(seq for seq in partition.history if seq > after)[:limit] if partition is not None else []
        messages = [partition.history[seq] for seq in places] if partition is not None else []
        return [HistoryEntry(message, self._operations.get(message.operation_id)) for message in messages]

    async def erase(self, key: ConversationKey, etag: str) -> None:
        partition = self._partition(key)
        if partition.etag != etag:
            raise Conflict(f"Conversation {key.conversation_id} was changed by somebody else.")
        for message in partition.history.values():
            known = self._operations.get(message.operation_id)
            if known is not None and known.final:
                self._operations[message.operation_id] = erased(known)
        self._partitions[key] = _Partition(
            Conversation(key),
            inbox=partition.inbox,
            arrivals=partition.arrivals,
            history=dict(partition.inbox),
            last_seq=partition.last_seq,
        )

    async def unfinished(self) -> Mapping[str, int]:
        return Counter(entry.key.agent_id for entry in self._due.values())

    async def due(self, before: float, limit: int) -> list[Due]:
        entries = sorted((entry for entry in self._due.values() if entry.at <= before), key=lambda entry: entry.at)
        return entries[:limit]

    async def move_due(self, entry: Due, at: float | None) -> None:
        if at is None:
            self._due.pop(entry.row, None)
        elif entry.row in self._due:
            self._due[entry.row] = replace(entry, at=at)

    def _partition(self, key: ConversationKey) -> _Partition:
        partition = self._partitions.get(key)
        if partition is None:
            partition = self._partitions[key] = _Partition(Conversation(key))
        return partition
