"""What each agent did, counted in table `aoscounters` so that it survives restarts.

An operation is counted when it has ended and before its due entry is forgotten: after a crash in between the sweep has
it counted. Each row remembers the operations that it counted last, so that once is once. An agent's counts lie in
several rows, because many of its turns may end at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections import OrderedDict
from dataclasses import dataclass

from aos.errors import StorageUnavailable
from aos.kernel.types import Operation
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.rows import ETAG, table_key

log = logging.getLogger("aos.turns")

TABLE = "aoscounters"
SHARDS = 8
REMEMBERED = 200
"""Operations that a row remembers: many more than end in it between a crash and the sweep after it."""
TRIES = 10
KEPT_ROWS = 128
"""Rows that a process keeps as it wrote them; one has up to 10 KB."""
NAMES = ("turns", "failed_turns", "tool_calls", "input_tokens", "output_tokens", "total_tokens")
COLUMNS = ("PartitionKey", "RowKey", "agent_id", *NAMES, "recent")


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one agent since it was first asked. `turns` holds the failed and cancelled ones, too."""

    turns: int = 0
    failed_turns: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in NAMES))


class Counters:
    """The rows of `aoscounters`: partition = agent, one row per shard."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account
        self._locks = [asyncio.Lock() for _ in range(SHARDS)]
        self._kept: OrderedDict[tuple[str, str], tuple[dict[str, object], str]] = OrderedDict()

    async def count(self, operation: Operation) -> bool:
        """Counts an attempt of an operation that ended. False: it was counted before.

        Raises:
            StorageUnavailable: It was not counted.
        """
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

        table = await self._account.rows(TABLE)
        mark = f"{operation.operation_id}.{operation.attempt}"
        shard = hashlib.sha256(operation.operation_id.encode()).digest()[0] % SHARDS
        partition, row_key = table_key(operation.agent_id), f"{shard:02d}"
        for _ in range(TRIES):
            async with self._locks[shard]:
                with storage_errors(TABLE):
                    row: dict[str, object] = {"PartitionKey": partition, "RowKey": row_key}
                    row["agent_id"], etag = operation.agent_id, None
                    # Taken out: it is as it was written only if the next write says so.
                    if (kept := self._kept.pop((partition, row_key), None)) is not None:
                        row, etag = dict(kept[0]), kept[1]
                    else:
                        with contextlib.suppress(ResourceNotFoundError):
                            row = await table.get(partition, row_key)
                            etag = str(row[ETAG])
                    recent: list[str] = json.loads(str(row.get("recent", "[]")))
                    if mark in recent:
                        return False
                    sums = _counts(row) + _of(operation)
                    # As text: a number of the SDK has 32 bits unless it is told otherwise.
                    row |= {name: str(getattr(sums, name)) for name in NAMES}
                    row["recent"] = json.dumps([*recent, mark][-REMEMBERED:])
                    try:
                        row = {name: row[name] for name in COLUMNS}
                        written = await (table.insert(row) if etag is None else table.put(row, etag))
                        self._keep(partition, row_key, row, written)
                        _report(operation)
                        return True
                    except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                        continue
        raise StorageUnavailable(f"The counters of agent {operation.agent_id} change too fast.")

    def _keep(self, partition: str, row_key: str, row: dict[str, object], etag: str) -> None:
        self._kept[partition, row_key] = row, etag
        while len(self._kept) > KEPT_ROWS:
            self._kept.popitem(last=False)

    async def of(self, agent_id: str) -> Counts:
        """The counts of an agent."""
        table = await self._account.rows(TABLE)
        found = Counts()
        with storage_errors(TABLE):
            async for row in table.query("PartitionKey eq @p", {"p": table_key(agent_id)}):
                found += _counts(row)
        return found


def _report(operation: Operation) -> None:
    """Here, because each turn is counted once: the alert on failed turns looks for this line."""
    if operation.status == "failed":
        code = operation.error.code if operation.error is not None else "failed"
        log.warning("turn failed: agent %s operation %s code %s", operation.agent_id, operation.operation_id, code)


def _counts(row: dict[str, object]) -> Counts:
    return Counts(*(int(str(row.get(name, 0))) for name in NAMES))


def _of(operation: Operation) -> Counts:
    usage = operation.usage
    return Counts(
        turns=1,
        failed_turns=int(operation.status == "failed"),
        tool_calls=len(operation.tool_calls),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
    )
