"""Table entities of applications, with values of any size.

A text or binary value that does not fit into a property (over 24 KiB), and every list and mapping, is kept as the
service can keep it: long ones in a blob that the entity's column `aos_values` names. Readers get back what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal
from uuid import UUID

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.data.tables import EdmType, EntityProperty, TableTransactionError, UpdateMode
from pydantic import TypeAdapter

from aos.errors import AosError, Conflict, StorageUnavailable
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.names import checked
from aos.storage.paging import Page, pack, page_size, unpack
from aos.storage.payloads import BlobRef, Payloads

Entity = dict[str, Any]
Shape = Literal["text", "bytes", "json"]

VALUES = "aos_values"
"""Column of an entity: how the values were written that the service does not keep as they are."""
ETAG = "etag"
"""Key under which readers find the state of an entity."""
INLINE = 24 * 1024
LARGEST_VALUE = 64 * 1024 * 1024
BATCH = 100
"""Entities in one transaction of the service."""
TRIES = 10

_WRITTEN: TypeAdapter[dict[str, tuple[Shape, BlobRef | None]]] = TypeAdapter(dict[str, tuple[Shape, BlobRef | None]])
_PLAIN = (str, bytes, bool, int, float, datetime, UUID, EntityProperty, type(None))


class EntityInvalid(AosError):
    code = "bad_entity"
    title = "Table storage cannot keep this entity."


class QueryInvalid(AosError):
    code = "bad_query"
    title = "Table storage does not take this query."


class Entities:
    """The entities of an account, of any table.

    Args:
        values: Where long values lie; in a container that nothing empties by age.
    """

    def __init__(self, account: StorageAccount, values: Payloads) -> None:
        self._account = account
        self._values = values

    async def insert(self, table: str, entity: Mapping[str, Any]) -> str:
        """Writes a new entity and returns its ETag.

        Raises:
            Conflict: There is one with its keys.
            EntityInvalid: Names the property.
        """
        client = await self._account.table(checked("table", table))
        row, blobs = await self._row(table, entity)
        try:
            with _errors(table, row):
                return str((await client.create_entity(row))["etag"])
        except Conflict:
            await self._drop(blobs)
            raise

    async def upsert(self, table: str, entity: Mapping[str, Any], *, etag: str | None = None) -> str:
        """Writes an entity in place of what is there, if anything is, and returns its ETag.

        Args:
            etag: Write only over this state of the entity; without it the last writer wins.

        Raises:
            Conflict: The entity has another state than `etag`.
            EntityInvalid: Names the property.
        """
        client = await self._account.table(checked("table", table))
        row, blobs = await self._row(table, entity)
        for _ in range(TRIES):
            known_etag, known_blobs = await self._known(table, row)
            try:
                if etag is not None and known_etag != etag:
                    raise Conflict(f"table {table}: the entity was changed by somebody else; read it and try again.")
                with _errors(table, row):
                    if known_etag is None:
                        written = await client.create_entity(row)
                    else:
                        written = await client.update_entity(
                            row, mode=UpdateMode.REPLACE, etag=known_etag, match_condition=_UNCHANGED
                        )
            except Conflict:
                if etag is None:
                    continue
                await self._drop(blobs)
                raise
            await self._drop(known_blobs)
            return str(written["etag"])
        await self._drop(blobs)
        raise StorageUnavailable(f"table {table}: others write this entity all the time; try again.", retry_after=1.0)

    async def upsert_all(self, table: str, entities: Iterable[Mapping[str, Any]]) -> int:
        """Writes many entities, the last writer wins; as few transactions as the service allows.

        Entities of one partition are written in transactions of 100, each of them whole or not at all.

        Returns:
            How many were written.

        Raises:
            EntityInvalid: Names the property; also if an entity has values that do not fit into a property (`upsert`
                takes those), or two have the same keys.
        """
        client = await self._account.table(checked("table", table))
        rows = [_inline(entity) for entity in entities]
        keys = [(row["PartitionKey"], row["RowKey"]) for row in rows]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise EntityInvalid(f"Two entities have the keys {twice}.")
        for _, group in groupby(sorted(rows, key=lambda row: row["PartitionKey"]), lambda row: row["PartitionKey"]):
            partition = list(group)
            for start in range(0, len(partition), BATCH):
                batch = partition[start : start + BATCH]
                with _errors(table, batch[0]):
                    await client.submit_transaction([("upsert", row, {"mode": "replace"}) for row in batch])
        return len(rows)

    async def get(self, table: str, partition: str, row: str) -> Entity | None:
        """An entity as it was written, and its state under `etag`; None if it is not there."""
        client = await self._account.table(checked("table", table))
        try:
            with _errors(table, {"PartitionKey": partition, "RowKey": row}):
                found = await client.get_entity(partition, row)
        except EntityGone:
            return None
        return await self._entity(found)

    async def query(
        self,
        table: str,
        *,
        partition: str | None = None,
        filter: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        select: Sequence[str] | None = None,
        limit: int = 1000,
        next: str | None = None,
    ) -> Page[Entity]:
        """Entities in the order of their keys.

        Args:
            filter: OData filter; values from outside belong into `parameters` (`Age gt @age`), never into its text.
            select: Properties to read; all without it.

        Raises:
            QueryInvalid: Says what the service found wrong with it.
        """
        client = await self._account.table(checked("table", table))
        wanted = f"({_substituted(filter, parameters or {})})" if filter else ""
        if partition is not None:
            wanted = f"PartitionKey eq {_literal(partition)}{' and ' if wanted else ''}{wanted}"
        columns = None if select is None else ["PartitionKey", "RowKey", VALUES, *select]
        token = unpack(next)
        try:
            found = (
                client.query_entities(wanted, select=columns, results_per_page=page_size(limit))
                if wanted
                else client.list_entities(select=columns, results_per_page=page_size(limit))
            )
            pages = found.by_page(token)
            entities: list[Entity] = []
            with storage_errors(f"table {table}"):
                async for page in pages:
                    entities = [await self._entity(row) async for row in page]
                    break
        except HttpResponseError as error:
            if error.status_code != 400:
                raise
            raise QueryInvalid(f"table {table}: {str(error.message).splitlines()[0]}") from None
        return Page(entities, pack(getattr(pages, "continuation_token", None)))

    async def delete(self, table: str, partition: str, row: str, *, etag: str | None = None) -> bool:
        """Deletes an entity and its long values. False: it was not there.

        Raises:
            Conflict: It has another state than `etag`.
        """
        client = await self._account.table(checked("table", table))
        keys = {"PartitionKey": partition, "RowKey": row}
        for _ in range(TRIES):
            known_etag, blobs = await self._known(table, keys)
            if known_etag is None:
                return False
            if etag is not None and known_etag != etag:
                raise Conflict(f"table {table}: the entity was changed by somebody else; read it and try again.")
            try:
                with _errors(table, keys):
                    await client.delete_entity(partition, row, etag=known_etag, match_condition=_UNCHANGED)
            except Conflict:
                continue
            except EntityGone:
                return False
            await self._drop(blobs)
            return True
        raise StorageUnavailable(f"table {table}: others write this entity all the time; try again.", retry_after=1.0)

    async def _known(self, table: str, keys: Mapping[str, Any]) -> tuple[str | None, list[BlobRef]]:
        """State and long values of the entity that is there now."""
        client = await self._account.table(table)
        try:
            with _errors(table, keys):
                found = await client.get_entity(keys["PartitionKey"], keys["RowKey"], select=["PartitionKey", VALUES])
        except EntityGone:
            return None, []
        return str(found.metadata["etag"]), _blobs(found)

    async def _row(self, table: str, entity: Mapping[str, Any]) -> tuple[Entity, list[BlobRef]]:
        """The entity as the service keeps it, its long values stored."""
        row = _keys(entity)
        written: dict[str, tuple[Shape, BlobRef | None]] = {}
        for name, value in entity.items():
            if name in ("PartitionKey", "RowKey", ETAG):
                continue
            shape, data = _data(name, value)
            if shape is None:
                row[name] = _typed(value)
            elif len(data) <= INLINE:
                row[name] = data.decode()
                written[name] = shape, None
            else:
                written[name] = shape, await self._values.put(data, f"entities/{table}")
        if written:
            row[VALUES] = _WRITTEN.dump_json(written).decode()
        return row, [ref for _, ref in written.values() if ref is not None]

    async def _entity(self, row: Any) -> Entity:
        entity: Entity = {name: _untyped(value) for name, value in row.items() if name != VALUES}
        for name, (shape, ref) in _written(row).items():
            if ref is None:
                if name not in entity:
                    continue  # not selected
                data = str(entity[name]).encode()
            else:
                data = await self._values.get(ref, limit=LARGEST_VALUE)
            entity[name] = data if shape == "bytes" else json.loads(data) if shape == "json" else data.decode()
        entity[ETAG] = str(row.metadata["etag"])
        return entity

    async def _drop(self, blobs: Sequence[BlobRef]) -> None:
        for ref in blobs:
            await self._values.remove(ref)


class EntityGone(AosError):
    code = "entity_not_found"
    title = "There is no such entity."


_UNCHANGED = MatchConditions.IfNotModified


def _substituted(filter: str, parameters: Mapping[str, Any]) -> str:
    """The filter with its parameters; the SDK's own substitution takes a parameter only between two spaces."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]  # a text literal
        if match[1] not in parameters:
            raise QueryInvalid(f"The filter names @{match[1]}, which `parameters` does not give.")
        return _literal(parameters[match[1]])

    return re.sub(r"'(?:[^']|'')*'|@(\w+)", value, filter)


def _literal(value: Any) -> str:
    """A value as OData writes it ("Querying tables and entities" of the Table service's documentation)."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value}L" if abs(value) >= 2**31 else str(value)
        case float():
            return repr(value)
        case str():
            return "'" + value.replace("'", "''") + "'"
        case datetime():
            return f"datetime'{value.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%S.%fZ')}'"
        case UUID():
            return f"guid'{value}'"
        case bytes():
            return f"X'{value.hex()}'"
    raise QueryInvalid(f"A {type(value).__name__} cannot be compared with.")


def _keys(entity: Mapping[str, Any]) -> Entity:
    for name in ("PartitionKey", "RowKey"):
        key = entity.get(name)
        if (
            not isinstance(key, str)
            or len(key) > 512
            or any(c in "/\\#?" or ord(c) < 32 or 127 <= ord(c) < 160 for c in key)
        ):
            raise EntityInvalid(f"{name}: give text of up to 512 characters without / \\ # ? and control characters.")
    return {"PartitionKey": entity["PartitionKey"], "RowKey": entity["RowKey"]}


def _data(name: str, value: Any) -> tuple[Shape | None, bytes]:
    """How a value is written; None: as it is."""
    if name == VALUES:
        raise EntityInvalid(f"{name}: the name is taken.")
    if not name.isidentifier() or len(name) > 255:
        raise EntityInvalid(f"{name[:80]!r}: a property has the name of a variable, of up to 255 characters.")
    if isinstance(value, str) and len(value.encode()) > INLINE:
        return "text", value.encode()
    if isinstance(value, bytes) and len(value) > INLINE:
        return "bytes", value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise EntityInvalid(f"{name}: {value} has more than 64 bits.")
    if isinstance(value, _PLAIN):
        return None, b""
    if isinstance(value, (Mapping, list, tuple)):
        try:
            return "json", json.dumps(value).encode()
        except (TypeError, ValueError) as error:
            raise EntityInvalid(f"{name}: {error}.") from None
    raise EntityInvalid(f"{name}: {type(value).__name__} cannot be kept; give text, numbers, times, bytes or JSON.")


def _typed(value: Any) -> Any:
    """The value as the SDK takes it, for which a number has 32 bits unless its type is said."""
    return EntityProperty(value, EdmType.INT64) if isinstance(value, int) and not _short(value) else value


def _untyped(value: Any) -> Any:
    """The value as it was given to `_typed`."""
    if isinstance(value, EntityProperty) and value.edm_type == EdmType.INT64 and not _short(value.value):
        return value.value
    return value


def _short(number: int) -> bool:
    return -(2**31) <= number < 2**31


def _inline(entity: Mapping[str, Any]) -> Entity:
    row = _keys(entity)
    for name, value in entity.items():
        if name in ("PartitionKey", "RowKey", ETAG):
            continue
        if _data(name, value)[0] is not None:
            raise EntityInvalid(f"{name}: too large, or a list or mapping; `upsert` takes such values one by one.")
        row[name] = _typed(value)
    return row


def _written(row: Mapping[str, Any]) -> dict[str, tuple[Shape, BlobRef | None]]:
    return _WRITTEN.validate_json(row[VALUES]) if VALUES in row else {}


def _blobs(row: Mapping[str, Any]) -> list[BlobRef]:
    return [ref for _, ref in _written(row).values() if ref is not None]


@contextmanager
def _errors(table: str, keys: Mapping[str, Any]) -> Iterator[None]:
    where = f"table {table}, entity {keys['PartitionKey']!r} / {keys['RowKey']!r}"
    with storage_errors(where):
        try:
            yield
        except ResourceNotFoundError:
            raise EntityGone(f"{where} does not exist.") from None
        except (ResourceExistsError, ResourceModifiedError):
            raise Conflict(f"{where} was written by somebody else; read it and try again.") from None
        except TableTransactionError as error:
            raise EntityInvalid(f"{where} and those written with it: {str(error.message).splitlines()[0]}") from None
        except HttpResponseError as error:
            if error.status_code not in (400, 413):
                raise
            raise EntityInvalid(f"{where}: {str(error.message).splitlines()[0]}") from None
