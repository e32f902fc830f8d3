"""Workflows on their way, in table `aosworkflows`: partition = workflow, row `workflow`.

Partition `due` holds, by time, those that the sweep has to look at.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from aos.errors import Conflict, StorageUnavailable
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.payloads import Payloads
from aos.storage.rows import table_key
from aos.storage.values import RowValues

TABLE = "aosworkflows"
ROW = "workflow"
DUE = "due"


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """A stored workflow.

    Attributes:
        fingerprint: Hash of what was asked for.
        data: How far it is, as JSON.
    """

    workflow_id: str
    fingerprint: str
    data: bytes
    etag: str = ""


class WorkflowRecords:
    """The records, shared by any number of processes: whoever writes over what somebody else wrote fails."""

    def __init__(self, account: StorageAccount, payloads: Payloads) -> None:
        self._account = account
        self._values = RowValues(payloads)

    async def look(self, workflow_id: str) -> WorkflowRecord | None:
        """The record of a workflow."""
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                row = await table.get_entity(table_key(workflow_id), ROW)
            except ResourceNotFoundError:
                return None
        etag = str(row.metadata["etag"])
        return WorkflowRecord(workflow_id, row["fingerprint"], await self._values.read(row), etag)

    async def open(self, record: WorkflowRecord, look_at: float) -> WorkflowRecord:
        """Writes a new record, or returns what is there.

        Args:
            look_at: When the sweep looks at it for the first time.
        """
        from azure.core.exceptions import ResourceExistsError

        table = await self._account.table(TABLE)
        # First: a workflow that is not due would be forgotten with the process that began it.
        await self.put_due(record.workflow_id, look_at)
        row = await self._row(record)
        with storage_errors(TABLE), suppress(ResourceExistsError):
            await table.create_entity(row)
        known = await self.look(record.workflow_id)
        if known is None:
            raise StorageUnavailable(f"The record of workflow {record.workflow_id} was removed just now.")
        return known

    async def save(self, record: WorkflowRecord) -> None:
        """Writes over the state that `etag` names.

        Raises:
            Conflict: Somebody else wrote.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        row = await self._row(record)
        with storage_errors(TABLE):
            try:
                await table.update_entity(
                    row, mode=UpdateMode.REPLACE, etag=record.etag, match_condition=MatchConditions.IfNotModified
                )
            except (ResourceModifiedError, ResourceNotFoundError):
                raise Conflict(f"Workflow {record.workflow_id} was changed by somebody else.") from None

    async def due(self, now: float, limit: int, after: str = "") -> list[tuple[str, str, float]]:
        """What is to be looked at, oldest first: row, workflow, and since when; `after` is a row that was looked at."""
        table = await self._account.table(TABLE)
        found: list[tuple[str, str, float]] = []
        query = "PartitionKey eq @p and RowKey gt @after and RowKey le @now"
        parameters = {"p": DUE, "after": after, "now": f"{int(now * 1000):015d}.~"}
        with storage_errors(TABLE):
            async for row in table.query_entities(query, parameters=parameters, results_per_page=limit):
                at, _, workflow_id = row["RowKey"].partition(".")
                found.append((row["RowKey"], workflow_id, int(at) / 1000))
                if len(found) >= limit:
                    break
        return found

    async def put_due(self, workflow_id: str, at: float) -> None:
        """Has the sweep look at a workflow."""
        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            await table.upsert_entity({"PartitionKey": DUE, "RowKey": f"{int(at * 1000):015d}.{workflow_id}"})

    async def forget_due(self, row: str) -> None:
        """Removes a row of `due`."""
        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            # Deleting what is not there is no error in this SDK.
            await table.delete_entity(DUE, row)

    async def _row(self, record: WorkflowRecord) -> dict[str, str]:
        key = table_key(record.workflow_id)
        columns = await self._values.columns(record.data, f"workflows/{key}")
        identity = {"PartitionKey": key, "RowKey": ROW, "workflow_id": record.workflow_id}
        return {**identity, "fingerprint": record.fingerprint, **columns}
