"""Agents that left the registry leave Foundry too: those that this app made, once it is sure that they are not needed.

An agent that is switched off stays, and so does one whose entry, or whose registry, cannot be read. One that is not in
the registry any more is written down in table `aosdepartures`. When a later look finds it still absent, and no turn of
it is in work, it is deleted. So a registry that was wrong for a moment costs nothing, and an agent that comes back is
made again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from aos.agents.directory import AgentDirectory
from aos.errors import AosError
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import ConversationStore
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.rows import table_key

log = logging.getLogger("aos.agents")

TABLE = "aosdepartures"
APART = 60.0
"""Seconds at least between the two looks that have to find an agent absent."""
AHEAD = 10 * 86400.0
"""Seconds from now up to which due entries are looked for: all of them, also of turns that wait for a person."""
MOST_DUE = 10_000
"""Operations in work beyond which nothing is deleted: it cannot be told whose they are."""
TRANSACTION = 100
"""Rows that Table storage writes at once."""


class Departures:
    """Removes agents that left the registry.

    Args:
        scope: Whose agents these are, see `aos.foundry.provisioning.scope_of`.
        store: Tells which operations are in work.
    """

    def __init__(
        self,
        account: StorageAccount,
        scope: str,
        directory: AgentDirectory,
        store: ConversationStore,
        clock: Clock | None = None,
    ) -> None:
        self._account = account
        self._scope = scope
        self._directory = directory
        self._store = store
        self._clock = clock or SystemClock()

    async def look(self, made: Collection[str]) -> list[str]:
        """Compares the agents that this app made with the newest registry.

        Returns:
            Ids of those that were removed from Foundry now.

        Raises:
            TransientError: Storage or the registry cannot be read.
        """
        absent = await self._directory.absent(made)
        if absent is None:
            return []
        noticed = await self._read()
        await self._write([("delete", row) for agent_id, row in noticed.items() if agent_id not in absent])
        new = sorted(absent - noticed.keys())
        if new:
            log.info("not in the registry any more, to be removed from Foundry: %s", ", ".join(new[:50]))
            await self._write([("upsert", self._row(agent_id)) for agent_id in new])
        due = [agent_id for agent_id in sorted(absent & noticed.keys()) if self._long_absent(noticed[agent_id])]
        if not due:
            return []
        entries = await self._store.due(self._clock.now() + AHEAD, MOST_DUE)
        if len(entries) >= MOST_DUE:
            log.info("%d agents stay in Foundry for now: too many operations are in work", len(due))
            return []
        busy = {entry.key.agent_id for entry in entries}
        return [agent_id for agent_id in due if await self._remove(agent_id, noticed[agent_id], agent_id in busy)]

    async def waiting(self) -> list[str]:
        """Ids of the agents that are still in Foundry though they left the registry."""
        return sorted(await self._read())

    async def _remove(self, agent_id: str, row: dict[str, Any], busy: bool) -> bool:
        if busy:
            log.info("agent %s left the registry; it stays in Foundry while its turns are in work", agent_id)
            return False
        # Many removals take their time, in which the registry may have changed.
        if not await self._directory.absent([agent_id]):
            return False
        try:
            deleted = await self._directory.remove(agent_id)
        except AosError as error:
            log.warning("agent %s left the registry and cannot be removed from Foundry yet: %s", agent_id, error.detail)
            return False
        await self._write([("delete", row)])
        log.info(
            "agent %s left the registry: %s", agent_id, "removed from Foundry" if deleted else "it was gone already"
        )
        return True

    def _long_absent(self, row: dict[str, Any]) -> bool:
        return float(row["since"]) + APART <= self._clock.now()

    def _row(self, agent_id: str) -> dict[str, Any]:
        return {
            "PartitionKey": self._scope,
            "RowKey": table_key(agent_id),
            "agent_id": agent_id,
            "since": self._clock.now(),
            "generation": self._directory.generation,
        }

    async def _read(self) -> dict[str, dict[str, Any]]:
        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            rows = table.query_entities("PartitionKey eq @p", parameters={"p": self._scope})
            return {row["agent_id"]: dict(row) async for row in rows}

    async def _write(self, operations: list[tuple[str, dict[str, Any]]]) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        for start in range(0, len(operations), TRANSACTION):
            with storage_errors(TABLE):
                try:
                    await table.submit_transaction(operations[start : start + TRANSACTION])
                except ResourceNotFoundError:
                    # Another process deleted some of these rows; the next look sees what is left.
                    log.info("departures are being looked at by another process too")
