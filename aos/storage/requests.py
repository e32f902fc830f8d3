"""Requests of queue `aos-requests` that have effects: each is recorded, so that it is answered once and for all.

Table `aosrequests`: partition = request, row `request`; partition `due` holds those whose answer comes from elsewhere,
by the time when they are given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from aos.errors import StorageUnavailable
from aos.kernel.types import ReplyAddress
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.payloads import Payloads
from aos.storage.values import RowValues

TABLE = "aosrequests"
ROW = "request"
DUE = "due"

ADDRESS = TypeAdapter(ReplyAddress)


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that was taken up.

    Attributes:
        key: See `aos.messaging.requests.request_key`.
        fingerprint: Hash of what it says.
        message_type: What it asks for.
        address: Who is answered.
        gives_up: When nobody waits for an answer from elsewhere any more; None: the answer is made here.
        answer: The body that was sent, or is to be.
    """

    key: str
    fingerprint: str
    message_type: str
    address: ReplyAddress
    gives_up: float | None = None
    answer: bytes | None = None
    answer_type: str = ""
    etag: str = ""


class RequestRecords:
    """The records, shared by any number of processes."""

    def __init__(self, account: StorageAccount, payloads: Payloads) -> None:
        self._account = account
        self._values = RowValues(payloads)

    async def look(self, key: str) -> RequestRecord | None:
        """The record of a request."""
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                entity = await table.get_entity(key, ROW)
            except ResourceNotFoundError:
                return None
        return await self._record(entity, str(entity.metadata["etag"]))

    async def open(self, record: RequestRecord) -> RequestRecord:
        """Records a request, or returns what is there."""
        from azure.core.exceptions import ResourceExistsError

        table = await self._account.table(TABLE)
        row = {
            "PartitionKey": record.key,
            "RowKey": ROW,
            "fingerprint": record.fingerprint,
            "message_type": record.message_type,
            "address": ADDRESS.dump_json(record.address).decode(),
            "gives_up": record.gives_up or 0.0,
        }
        with storage_errors(TABLE):
            if record.gives_up is not None:
                # First: what has a record but is not due would be forgotten if nobody answers.
                await table.upsert_entity({"PartitionKey": DUE, "RowKey": _due(record)})
            try:
                await table.create_entity(row)
            except ResourceExistsError:
                known = await self.look(record.key)
                if known is None:
                    raise StorageUnavailable(f"The record of {record.key} was removed just now.") from None
                return known
        return await self.look(record.key) or record

    async def close(self, record: RequestRecord, answer: bytes, answer_type: str) -> RequestRecord:
        """Records the answer; the first one counts, and is returned."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        columns = await self._values.columns(answer, f"requests/{record.key}")
        row = {"PartitionKey": record.key, "RowKey": ROW, "answer_type": answer_type, **columns}
        with storage_errors(TABLE), suppress(ResourceModifiedError, ResourceNotFoundError):
            await table.update_entity(
                row, mode=UpdateMode.MERGE, etag=record.etag, match_condition=MatchConditions.IfNotModified
            )
        known = await self.look(record.key)
        if known is None or known.answer is None:
            raise StorageUnavailable(f"The record of {record.key} was changed by somebody else.")
        return known

    async def done(self, record: RequestRecord) -> None:
        """The answer is out: nobody has to look after the request any more."""
        if record.gives_up is not None:
            await self.forget_due(_due(record))

    async def due(self, now: float, limit: int, after: str = "") -> list[str]:
        """The rows that say what is to be given up, oldest first; `after` is the last one that was looked at."""
        table = await self._account.table(TABLE)
        rows: list[str] = []
        query = "PartitionKey eq @p and RowKey gt @after and RowKey le @now"
        parameters = {"p": DUE, "after": after, "now": f"{int(now * 1000):015d}.~"}
        with storage_errors(TABLE):
            async for row in table.query_entities(query, parameters=parameters, results_per_page=limit):
                rows.append(row["RowKey"])
                if len(rows) >= limit:
                    break
        return rows

    async def of_due(self, row: str) -> RequestRecord | None:
        """The record that a row of `due` is for; None if it was never written, or another row is its own."""
        record = await self.look(row.partition(".")[2])
        # One that was taken up twice at the same time has two rows; its own counts.
        return record if record is not None and _due(record) == row else None

    async def forget_due(self, row: str) -> None:
        """Removes a row of `due`."""
        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            # Deleting what is not there is no error in this SDK.
            await table.delete_entity(DUE, row)

    async def _record(self, row: Mapping[str, Any], etag: str) -> RequestRecord:
        answered = "data" in row or "blob" in row
        return RequestRecord(
            key=row["PartitionKey"],
            fingerprint=row["fingerprint"],
            message_type=row["message_type"],
            address=ADDRESS.validate_json(row["address"]),
            gives_up=row["gives_up"] or None,
            answer=await self._values.read(row) if answered else None,
            answer_type=row.get("answer_type", ""),
            etag=etag,
        )


def _due(record: RequestRecord) -> str:
    return f"{int((record.gives_up or 0.0) * 1000):015d}.{record.key}"
