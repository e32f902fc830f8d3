"""What AOS forgets: operations, tool calls, requests and approvals 7 days after they were last touched, and values in
blobs that nothing names any more.

Each run looks at a bounded number of rows and blobs of each place and remembers where it stopped, in table
`aosretention`; the next run, of whichever process, goes on from there. A run that is repeated, or dies, or runs twice
at once, removes nothing that is still needed: a row goes only if nobody wrote it since it was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
from pydantic import TypeAdapter

from aos.kernel.clock import Clock, SystemClock
from aos.kernel.types import Operation
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.paging import pack, unpack
from aos.storage.payloads import CONTAINER, STATE_CONTAINER, BlobRef, PayloadGone, Payloads
from aos.storage.rows import table_key
from aos.storage.values import RowValues

log = logging.getLogger("aos.storage")

KEPT = timedelta(days=7)
"""After their last change: ended operations and their messages, tool calls, requests, approvals, values in transit."""
GRACE = timedelta(days=1)
"""Age of a blob before it can count as named by nothing: it is written before the row that names it."""
LIMIT = 1000
"""Rows, or blobs, of each place that one run looks at, at most; the services return no more in one piece."""
AT_ONCE = 16
"""Removals under way at the same time."""

CURSORS = "aosretention"
OPERATION = TypeAdapter(Operation)
Row = Mapping[str, Any]


class Retention:
    """Removes what is not kept any longer.

    Args:
        limit: Rows, or blobs, of each place that one run looks at.
    """

    def __init__(self, account: StorageAccount, clock: Clock | None = None, *, limit: int = LIMIT) -> None:
        self._account = account
        self._values = RowValues(Payloads(account, STATE_CONTAINER))
        self._clock = clock or SystemClock()
        self._limit = limit

    async def run(self) -> dict[str, int]:
        """Looks at the next piece of every place.

        Returns:
            How much was removed, by place.

        Raises:
            StorageUnavailable: The next run goes on.
        """
        removed = {
            "aosconversations": await self._rows("aosconversations", self._history),
            "aosoperations": await self._rows("aosoperations", self._index),
            "aosledger": await self._rows("aosledger", self._call),
            "aosrequests": await self._rows("aosrequests", self._aged),
            "aosapprovals": await self._rows("aosapprovals", self._aged),
            "aosworkflows": await self._rows("aosworkflows", self._aged),
            STATE_CONTAINER: await self._blobs(STATE_CONTAINER, self._unnamed),
            CONTAINER: await self._blobs(CONTAINER, self._travelled),
        }
        if any(removed.values()):
            log.info("removed: %s", ", ".join(f"{count} of {place}" for place, count in removed.items() if count))
        return removed

    # --- rows

    async def _history(self, row: Row, at: datetime) -> bool:
        """Ended operations, and messages of the history."""
        kind, _, operation_id = row["RowKey"].partition(":")
        if not self._old(at) or kind not in ("OP", "HI"):
            return False
        if kind == "OP":
            try:
                if not OPERATION.validate_json(await self._values.read(row)).final:
                    return False
            except PayloadGone as error:
                log.warning("operation %s cannot be read any more: %s", operation_id, error.detail)
        return True

    async def _index(self, row: Row, at: datetime) -> bool:
        """Operations whose row is gone, or was never written."""
        if not self._old(at):
            return False
        table = await self._account.table("aosconversations")
        partition = table_key(row["agent_id"], row["conversation_id"])
        try:
            await table.get_entity(partition, f"OP:{row['PartitionKey']}", select=["RowKey"])
        except ResourceNotFoundError:
            return True
        return False

    async def _call(self, row: Row, at: datetime) -> bool:
        return float(row["expires_at"]) < self._clock.now()

    async def _aged(self, row: Row, at: datetime) -> bool:
        return self._old(at)

    def _old(self, at: datetime) -> bool:
        return self._age(at) > KEPT

    def _age(self, at: datetime) -> timedelta:
        return datetime.fromtimestamp(self._clock.now(), UTC) - at

    async def _rows(self, name: str, forget: Callable[[Row, datetime], Awaitable[bool]]) -> int:
        """Removes what may be forgotten of the next rows of a table."""
        table, place = await self._account.table(name), await self._stopped_at(name)
        pages = table.list_entities(results_per_page=self._limit).by_page(continuation_token=place)
        gate = asyncio.Semaphore(AT_ONCE)

        async def look(row: Any) -> int:
            async with gate:
                try:
                    if not await forget(row, row.metadata["timestamp"]):
                        return 0
                except (ValueError, KeyError) as error:
                    # It stays: the version that wrote it may need it. The others must not have to wait for it.
                    log.warning(
                        "row %r of partition %r in table %s cannot be read (%s): mend or remove it",
                        row["RowKey"],
                        row["PartitionKey"],
                        name,
                        type(error).__name__,
                    )
                    return 0
                with suppress(ResourceModifiedError, ResourceNotFoundError):
                    await table.delete_entity(
                        row["PartitionKey"],
                        row["RowKey"],
                        etag=row.metadata["etag"],
                        match_condition=MatchConditions.IfNotModified,
                    )
                    return 1
                return 0

        with storage_errors(name):
            rows = [row async for row in await anext(pages)]
            removed = sum(await asyncio.gather(*map(look, rows)))
        await self._stop_at(name, getattr(pages, "continuation_token", None))
        return removed

    # --- blobs

    async def _unnamed(self, page: list[tuple[str, datetime]]) -> list[str]:
        """Values of rows that have other values by now, or are gone."""
        names: list[str] = []
        known: dict[tuple[str, str | None], set[str] | None] = {}
        for name, at in page:
            kind, _, rest = name.partition("/")
            if self._age(at) <= GRACE:
                continue
            if kind in ("rows", "tools"):
                where = ("aosconversations", rest.partition("/")[0]) if kind == "rows" else ("aostools", None)
                if where not in known:
                    known[where] = await self._named(*where)
                named = known[where]
                if named is not None and name not in named:
                    names.append(name)
            elif kind in ("ledger", "requests", "approvals", "workflows") and self._age(at) > KEPT + GRACE:
                # Their rows were written with them, and are gone.
                names.append(name)
        return names

    async def _travelled(self, page: list[tuple[str, datetime]]) -> list[str]:
        """Values that travelled over the bus."""
        return [name for name, at in page if self._old(at)]

    async def _named(self, name: str, partition: str | None) -> set[str] | None:
        """The blobs that rows of a table name; None if one of them cannot be read: it may name any."""
        table = await self._account.table(name)
        if partition is None:
            rows = table.list_entities(select=["blob"])
        else:
            rows = table.query_entities("PartitionKey eq @p", parameters={"p": partition}, select=["blob"])
        named: set[str] = set()
        async for row in rows:
            if row.get("blob"):
                try:
                    named.add(BlobRef.model_validate_json(row["blob"]).name)
                except ValueError:
                    log.warning("a row of table %s (partition %s) names a value that is none", name, partition)
                    return None
        return named

    async def _blobs(self, name: str, forget: Callable[[list[tuple[str, datetime]]], Awaitable[list[str]]]) -> int:
        """Removes what may be forgotten of the next blobs of a container."""
        container, place = await self._account.container(name), await self._stopped_at(name)
        pages = container.list_blobs(results_per_page=self._limit).by_page(continuation_token=place)
        gate = asyncio.Semaphore(AT_ONCE)

        async def remove(blob: str) -> None:
            async with gate:
                with suppress(ResourceNotFoundError):
                    await container.delete_blob(blob)

        with storage_errors(name):
            page = [(blob.name, blob.last_modified) async for blob in await anext(pages)]
            gone = await forget(page)
            await asyncio.gather(*map(remove, gone))
        await self._stop_at(name, getattr(pages, "continuation_token", None))
        return len(gone)

    # --- where the last run stopped

    async def _stopped_at(self, place: str) -> Any:
        table = await self._account.table(CURSORS)
        with storage_errors(CURSORS):
            try:
                row = await table.get_entity("cursor", place)
            except ResourceNotFoundError:
                return None
        return unpack(row["next"] or None)

    async def _stop_at(self, place: str, token: Any) -> None:
        table = await self._account.table(CURSORS)
        with storage_errors(CURSORS):
            await table.upsert_entity({"PartitionKey": "cursor", "RowKey": place, "next": pack(token) or ""})
