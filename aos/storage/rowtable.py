"""Rows of one table as plain mappings with their ETags, and transactions whose refusal says what it was refused for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.data.tables import TableTransactionError, UpdateMode
from azure.data.tables.aio import TableClient

from aos.storage.rows import ETAG

Row: TypeAlias = Mapping[str, Any]

_REFUSALS: dict[int | None, type[HttpResponseError]] = {
    404: ResourceNotFoundError,
    409: ResourceExistsError,
    412: ResourceModifiedError,
}


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a transaction.

    Attributes:
        kind: `insert` a new row; `replace` one (with an ETag only in that state, else whatever is there); `delete` one.
        etag: State of the row that is written over; None: any.
    """

    kind: Literal["insert", "replace", "delete"]
    row: Row
    etag: str | None = None


class RowTable:
    """The rows of a table: mappings of names to text, numbers and truth values, with `PartitionKey` and `RowKey`.

    Every method raises `ResourceNotFoundError` (404), `ResourceExistsError` (409), `ResourceModifiedError` (412) or
    another `HttpResponseError` of azure-core when the service refuses. A row as read has its ETag under `ETAG`.
    """

    def __init__(self, client: TableClient) -> None:
        self.name = client.table_name
        self._client = client

    async def insert(self, row: Row) -> str:
        """Writes a new row and returns its ETag."""
        return _etag(await self._client.create_entity(row))

    async def put(self, row: Row, etag: str | None = None) -> str:
        """Writes a row whole, over whatever is there or only over the state `etag`; returns its ETag."""
        if etag is None:
            return _etag(await self._client.upsert_entity(row, mode=UpdateMode.REPLACE))
        return _etag(await self._client.update_entity(row, mode=UpdateMode.REPLACE, **_only(etag)))

    async def merge(self, row: Row, etag: str) -> str:
        """Writes some columns of a row that is in the state `etag`; returns its ETag."""
        return _etag(await self._client.update_entity(row, mode=UpdateMode.MERGE, **_only(etag)))

    async def delete(self, partition: str, row_key: str) -> None:
        """Removes a row, whatever its state; one that is not there is no error."""
        await self._client.delete_entity(partition, row_key)

    async def get(self, partition: str, row_key: str, select: Sequence[str] | None = None) -> dict[str, Any]:
        """One row; only the columns `select`, if given."""
        entity = await self._client.get_entity(partition, row_key, select=list(select) if select else None)
        return {**entity, ETAG: entity.metadata["etag"]}

    async def query(
        self, query: str, parameters: Mapping[str, str], *, select: Sequence[str] | None = None, page: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Rows in the order of their keys.

        Args:
            query: An OData filter; `@name` as a word of it stands for a text of `parameters`.
            page: Rows per request; None: as many as the service gives.
        """
        async for entity in self._client.query_entities(
            query, parameters=dict(parameters), results_per_page=page, select=list(select) if select else None
        ):
            yield {**entity, ETAG: entity.metadata["etag"]}

    async def transact(self, writes: Sequence[Write]) -> list[str]:
        """All writes or none: up to 100, of different rows of one partition.

        Returns:
            The ETags of the rows, "" of those that were deleted.
        """
        try:
            written = await self._client.submit_transaction([_operation(write) for write in writes])
        except TableTransactionError as error:
            # The SDK has one error for all; which of the writes was refused is said by its message.
            refused = _REFUSALS.get(error.status_code)
            if refused is None:
                raise
            raise refused(message=error.message, response=error.response) from error
        return [str(one.get("etag") or "") for one in written]


def _operation(write: Write) -> tuple[Any, ...]:
    if write.kind == "insert":
        return ("create", write.row)
    options = {} if write.etag is None else _only(write.etag)
    if write.kind == "delete":
        return ("delete", write.row, options)
    return ("upsert" if write.etag is None else "update", write.row, {"mode": UpdateMode.REPLACE, **options})


def _only(etag: str) -> dict[str, Any]:
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def _etag(written: Mapping[str, Any]) -> str:
    return str(written["etag"])
