"""Which agent a conversation belongs to that began without naming one: table `aosroutes`, a row per conversation."""

from __future__ import annotations

from contextlib import suppress

from aos.errors import StorageUnavailable
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.rows import table_key

TABLE = "aosroutes"
ROW = "route"


class TableRoutes:
    """The rows, shared by any number of processes: of two that choose at once, the first one counts."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def agent(self, conversation_id: str) -> str | None:
        """The agent of a conversation, if one was chosen."""
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                row = await table.get_entity(table_key(conversation_id), ROW)
            except ResourceNotFoundError:
                return None
        return str(row["agent_id"])

    async def choose(self, conversation_id: str, agent_id: str, instead_of: str | None = None) -> str:
        """Remembers who was chosen, and returns who counts.

        Args:
            instead_of: Who was chosen before and cannot take messages any more.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

        table = await self._account.table(TABLE)
        key = table_key(conversation_id)
        row = {"PartitionKey": key, "RowKey": ROW, "conversation_id": conversation_id, "agent_id": agent_id}
        with storage_errors(TABLE):
            if instead_of is None:
                with suppress(ResourceExistsError):
                    await table.create_entity(row)
            else:
                with suppress(ResourceModifiedError, ResourceNotFoundError):
                    known = await table.get_entity(key, ROW)
                    if known["agent_id"] == instead_of:
                        etag = known.metadata["etag"]
                        unchanged = MatchConditions.IfNotModified
                        await table.update_entity(row, etag=etag, match_condition=unchanged)
        counts = await self.agent(conversation_id)
        if counts is None:
            raise StorageUnavailable(f"The route of conversation {conversation_id!r} was removed just now.")
        return counts
