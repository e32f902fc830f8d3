"""The tool catalogue: what each MCP server offers, written by the MCP side and read by both.

Table `aostools` holds one row per server. The agents side builds its tool definitions from it, so it goes on knowing
the tools of a server that is down, and of servers that run in another app.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from aos.kernel.clock import Clock, SystemClock
from aos.mcp.tools import ServerTools, ToolInfo
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.payloads import PayloadGone, Payloads
from aos.storage.rows import table_key
from aos.storage.values import RowValues

log = logging.getLogger("aos.mcp")

TABLE = "aostools"
PARTITION = "server"

FRESH = 3600.0
"""Seconds after which an unchanged listing is written again."""
KEEP = 15.0
"""Seconds for which a process trusts what it read."""
KEEP_MISS = 1.0
"""Seconds for which a process believes that a server is not listed: it may be about to be."""
CACHED = 1024


class ToolCatalogue:
    """The catalogue of the storage account.

    Args:
        account: Holds the table.
        payloads: Holds listings that are too long for a row.
    """

    def __init__(self, account: StorageAccount, payloads: Payloads, clock: Clock | None = None) -> None:
        self._account = account
        self._values = RowValues(payloads)
        self._clock = clock or SystemClock()
        self._cache: dict[str, tuple[float, ServerTools | None]] = {}

    async def put(self, listed: ServerTools, *, approved: bool = False) -> ServerTools:
        """Records what a server listed; writes only what changed, or what is older than an hour.

        The annotations of a tool are pinned at first sight: one that was seen as writing does not become repeatable
        because the server says so later (it does when its name leaves the listing and returns, or when the row is
        deleted). The other direction is believed at once.

        Args:
            approved: The annotations were compared with approved ones (`aos.mcp.pins`), and hold as they are.

        Returns:
            The listing with the annotations that hold.

        Raises:
            StorageUnavailable: Nothing was recorded.
        """
        known = await self._read(listed.server_id)
        tools = listed if known is None or approved else _pinned(known, listed)
        if known is None or known.hash != tools.hash or tools.listed_at - known.listed_at >= FRESH:
            await self._write(tools)
        self._remember(listed.server_id, tools)
        return tools

    async def get(self, server_id: str) -> ServerTools | None:
        """The tools of a server as last listed, at most 15 seconds old; None if it never listed any.

        Raises:
            StorageUnavailable: They could not be read.
        """
        cached = self._cache.get(server_id)
        if cached is not None and self._clock.now() < cached[0]:
            return cached[1]
        tools = await self._read(server_id)
        self._remember(server_id, tools)
        return tools

    async def all(self) -> list[ServerTools]:
        """The tools of every server, by server id; always read from the table."""
        table = await self._account.table(TABLE)
        listings: list[ServerTools] = []
        with storage_errors(TABLE):
            async for row in table.query_entities("PartitionKey eq @p", parameters={"p": PARTITION}):
                tools = await self._value(row)
                if tools is not None:
                    listings.append(tools)
        return sorted(listings, key=lambda tools: tools.server_id)

    async def _read(self, server_id: str) -> ServerTools | None:
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                row = await table.get_entity(PARTITION, table_key(server_id))
            except ResourceNotFoundError:
                return None
        return await self._value(row)

    async def _write(self, tools: ServerTools) -> None:
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        row = {"PartitionKey": PARTITION, "RowKey": table_key(tools.server_id), "server_id": tools.server_id}
        row |= await self._values.columns(tools.model_dump_json().encode(), "tools")
        with storage_errors(TABLE):
            await table.upsert_entity(row, mode=UpdateMode.REPLACE)

    async def _value(self, row: Mapping[str, Any]) -> ServerTools | None:
        try:
            return ServerTools.model_validate_json(await self._values.read(row))
        except PayloadGone as error:
            log.warning("the listing of MCP server %s is gone until it lists again: %s", row["server_id"], error.detail)
            return None

    def _remember(self, server_id: str, tools: ServerTools | None) -> None:
        if len(self._cache) >= CACHED:
            self._cache.clear()
        self._cache[server_id] = (self._clock.now() + (KEEP_MISS if tools is None else KEEP), tools)


def _pinned(known: ServerTools, listed: ServerTools) -> ServerTools:
    before = {tool.name: tool for tool in known.tools}
    return listed.model_copy(
        update={"tools": tuple(_pin(known.server_id, before.get(tool.name), tool) for tool in listed.tools)}
    )


def _pin(server_id: str, before: ToolInfo | None, now: ToolInfo) -> ToolInfo:
    if before is None:
        return now
    read_only, idempotent = before.read_only and now.read_only, before.idempotent and now.idempotent
    if (read_only, idempotent) == (now.read_only, now.idempotent):
        return now
    log.warning(
        "tool %s of MCP server %s now calls itself repeatable; it was first seen as writing, and that holds",
        now.name,
        server_id,
    )
    return now.model_copy(update={"read_only": read_only, "idempotent": idempotent})
