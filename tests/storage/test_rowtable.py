from __future__ import annotations

import uuid

import pytest
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)

from aos.storage.account import StorageAccount
from aos.storage.rows import ETAG
from aos.storage.rowtable import RowTable, Write

TABLE = "rowtabletests"


@pytest.fixture
async def table(account: StorageAccount) -> RowTable:
    return await account.rows(TABLE)


@pytest.fixture
def partition() -> str:
    return uuid.uuid4().hex


async def all_of(table: RowTable, partition: str, page: int | None = None) -> list[dict[str, object]]:
    return [row async for row in table.query("PartitionKey eq @p", {"p": partition}, page=page)]


@pytest.mark.parametrize("row_key", ["in:00001", "OP:op_a.b-c~d", "it's a key + ü&=", "''"])
async def test_what_is_written_is_read_as_the_sdk_reads_it(
    account: StorageAccount, table: RowTable, partition: str, row_key: str
) -> None:
    row = {"PartitionKey": partition, "RowKey": row_key, "data": '{"a": "ü\\n"}', "until": 0.0, "at": 1.5, "n": 3}
    etag = await table.insert(row)
    sdk = await account.table(TABLE)
    seen = await sdk.get_entity(partition, row_key)
    assert (dict(seen), seen.metadata["etag"]) == (row, etag)
    assert type(seen["until"]) is float
    read = await table.get(partition, row_key)
    assert {name: read[name] for name in row} == row
    assert read[ETAG] == etag
    assert [found["RowKey"] for found in await all_of(table, partition)] == [row_key]
    await table.delete(partition, row_key)
    await table.delete(partition, row_key)
    with pytest.raises(ResourceNotFoundError):
        await table.get(partition, row_key)


async def test_only_the_columns_that_are_wanted(table: RowTable, partition: str) -> None:
    etag = await table.insert({"PartitionKey": partition, "RowKey": "r", "data": "long", "seq": "7"})
    (row,) = [one async for one in table.query("PartitionKey eq @p", {"p": partition}, select=["RowKey", "seq"])]
    assert row == {ETAG: etag, "RowKey": "r", "seq": "7"}
    assert "data" not in await table.get(partition, "r", select=["seq"])


async def test_a_write_over_another_state_is_refused(table: RowTable, partition: str) -> None:
    row = {"PartitionKey": partition, "RowKey": "r", "data": "1", "kept": "k"}
    first = await table.insert(row)
    with pytest.raises(ResourceExistsError, match="EntityAlreadyExists"):
        await table.insert(row)
    second = await table.merge({"PartitionKey": partition, "RowKey": "r", "data": "2"}, first)
    for write in (table.merge, table.put):
        with pytest.raises(ResourceModifiedError):
            await write({"PartitionKey": partition, "RowKey": "r", "data": "3"}, first)
    assert (await table.get(partition, "r"))["kept"] == "k"
    await table.put({"PartitionKey": partition, "RowKey": "r", "data": "4"}, second)
    assert "kept" not in await table.get(partition, "r")
    await table.put({"PartitionKey": partition, "RowKey": "r", "data": "5"})
    assert (await table.get(partition, "r"))["data"] == "5"


async def test_a_transaction_is_all_or_nothing(table: RowTable, partition: str) -> None:
    def row(key: str, data: str = "x") -> dict[str, str]:
        return {"PartitionKey": partition, "RowKey": key, "data": data}

    etags = await table.transact([Write("insert", row("a")), Write("replace", row("b"))])
    assert etags == [found[ETAG] for found in await all_of(table, partition)]
    for last, refused in (
        (Write("insert", row("a")), ResourceExistsError),
        (Write("replace", row("a"), etags[1]), ResourceModifiedError),
        (Write("delete", row("none")), ResourceNotFoundError),
    ):
        with pytest.raises(refused, match="1:"):
            await table.transact([Write("insert", row("c")), last])
    assert [found["RowKey"] for found in await all_of(table, partition)] == ["a", "b"]
    written = await table.transact(
        [Write("replace", row("a", "HTTP/1.1 412\r\n--changeset"), etags[0]), Write("delete", row("b"), etags[1])]
    )
    assert [(one["RowKey"], one[ETAG]) for one in await all_of(table, partition)] == [("a", written[0])]
    with pytest.raises(HttpResponseError, match=r"InvalidDuplicateRow|1:"):
        await table.transact([Write("insert", row("d")), Write("insert", row("d"))])


async def test_pages_are_followed(table: RowTable, partition: str) -> None:
    keys = [f"r{number:03d}" for number in range(100)]
    await table.transact([Write("insert", {"PartitionKey": partition, "RowKey": key}) for key in keys])
    assert [row["RowKey"] for row in await all_of(table, partition, page=30)] == keys
