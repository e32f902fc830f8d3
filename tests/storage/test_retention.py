"""What is forgotten, and what is not, with real tables and blobs; only the clock is moved."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime

import pytest
from azure.data.tables import UpdateMode

from aos.config import Settings
from aos.kernel.ports import Acceptance, Change, Lease
from aos.kernel.types import Conversation, ConversationKey, Message, ReplyAddress
from aos.mcp.ledger import CallKey, Claimed, Finished, TableLedger
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.payloads import CONTAINER, STATE_CONTAINER, PayloadGone, Payloads
from aos.storage.requests import RequestRecord, RequestRecords
from aos.storage.retention import Retention, Row
from aos.storage.rows import queued, table_key

DAY = 86400.0
LONG = "x" * 60_000


class Later:
    """The system's time, moved."""

    def __init__(self, days: float = 0.0) -> None:
        self.days = days

    def now(self) -> float:
        return time.time() + self.days * DAY

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing waits here")


@pytest.fixture(scope="module")
async def account(own_storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(own_storage_settings)
    yield account
    await account.close()


@pytest.fixture
def values(account: StorageAccount) -> Payloads:
    return Payloads(account, STATE_CONTAINER)


@pytest.fixture
def store(account: StorageAccount, values: Payloads) -> TableConversations:
    return TableConversations(account, values)


def key() -> ConversationKey:
    return ConversationKey("ceo", uuid.uuid4().hex)


async def told(store: TableConversations, where: ConversationKey, text: str = "hello", *, ended: bool = True) -> str:
    """A message that was accepted, and answered or is at work; returns the operation's id."""
    now = time.time()
    message = Message(f"op_{uuid.uuid4().hex[:26]}", text, now, now + 600)
    await store.accept(Acceptance(where, message, "f"))
    snapshot = await store.read(where)
    operation = replace(queued(where, message), status="completed" if ended else "running", reply=text)
    state = Conversation(where, anchor=text, last_seq=snapshot.inbox[-1].seq)
    change = Change(state, Lease(), snapshot.inbox, (), (operation,))
    await store.commit(where, snapshot.etag, change)
    return message.operation_id


async def forget(account: StorageAccount, days: float, *, limit: int = 1000, runs: int = 1) -> dict[str, int]:
    """What was removed in all."""
    removed: dict[str, int] = {}
    for _ in range(runs):
        for place, count in (await Retention(account, Later(days), limit=limit).run()).items():
            removed[place] = removed.get(place, 0) + count
    return removed


async def blobs(account: StorageAccount, container: str, prefix: str = "") -> list[str]:
    client = await account.container(container)
    return [name async for name in client.list_blob_names(name_starts_with=prefix)]


async def test_operations_are_kept_for_seven_days(account: StorageAccount, store: TableConversations) -> None:
    where = key()
    ended, running = await told(store, where), await told(store, where, ended=False)
    await forget(account, 6.9)
    assert await store.operation(ended) is not None
    assert len(await store.history(where, 0, 10)) == 2
    await forget(account, 7.1, runs=2)
    assert await store.operation(ended) is None
    assert await TableConversations(account, Payloads(account)).locate(ended) is None
    assert await store.operation(running) is not None, "what has not ended stays, however long it takes"
    assert await store.history(where, 0, 10) == []
    state = (await store.read(where)).state
    assert state.last_seq > 0, "a conversation goes on, however long it rests"


async def test_an_acceptance_that_never_finished_is_forgotten(
    account: StorageAccount, store: TableConversations
) -> None:
    index = await account.table("aosoperations")
    row = {"PartitionKey": "op_lost", "RowKey": "index", "agent_id": "ceo", "conversation_id": "c", "fingerprint": "f"}
    await index.upsert_entity(row)
    await forget(account, 6.9)
    assert await store.locate("op_lost") is not None
    assert (await forget(account, 7.1))["aosoperations"] >= 1
    assert await store.locate("op_lost") is None


async def test_values_that_were_replaced_go_and_those_in_use_stay(
    account: StorageAccount, store: TableConversations
) -> None:
    where = key()
    operation_id = await told(store, where, LONG)
    for _ in range(3):
        snapshot = await store.read(where)
        await store.commit(where, snapshot.etag, Change(replace(snapshot.state, turns=1), Lease()))
    before = await blobs(account, STATE_CONTAINER, "rows/")
    assert (await forget(account, 0.9))[STATE_CONTAINER] == 0, "their rows may be on their way"
    removed = await forget(account, 1.1)
    after = await blobs(account, STATE_CONTAINER, "rows/")
    assert removed[STATE_CONTAINER] == len(before) - len(after) >= 3
    operation = await store.operation(operation_id)
    assert operation is not None
    assert operation.reply == LONG
    assert (await store.read(where)).state.anchor == LONG
    assert (await store.history(where, 0, 10))[0].message.text == LONG
    assert (await forget(account, 1.1))[STATE_CONTAINER] == 0, "again it finds nothing"


async def test_tool_calls_are_remembered_for_seven_days(account: StorageAccount, values: Payloads) -> None:
    clock = Later()
    ledger = TableLedger(account, values, clock)
    call = CallKey("files", uuid.uuid4().hex)
    claim = await ledger.claim(call, "h")
    assert isinstance(claim, Claimed)
    await ledger.finish(claim, LONG.encode())
    await forget(account, 6.9)
    assert await ledger.look(call, "h") == Finished(LONG.encode())
    assert (await forget(account, 7.1))["aosledger"] >= 1
    assert await ledger.look(call, "h") is None
    await forget(account, 8.1)
    assert await blobs(account, STATE_CONTAINER, "ledger/") == []


async def test_requests_and_values_on_the_bus_are_kept_for_seven_days(
    account: StorageAccount, values: Payloads
) -> None:
    records = RequestRecords(account, values)
    record = await records.open(RequestRecord(f"rq_{uuid.uuid4().hex}", "f", "aos.storage.set", ReplyAddress("a")))
    record = await records.close(record, LONG.encode(), "aos.storage.result")
    travelling = await Payloads(account).put(b"one", "messages")
    await forget(account, 6.9)
    assert await records.look(record.key) == record
    assert await Payloads(account).get(travelling, limit=10) == b"one"
    removed = await forget(account, 7.1)
    assert removed["aosrequests"] >= 1
    assert removed[CONTAINER] >= 1
    assert await records.look(record.key) is None
    with pytest.raises(PayloadGone):
        await Payloads(account).get(travelling, limit=10)
    await forget(account, 8.1)
    assert await blobs(account, STATE_CONTAINER, "requests/") == []


async def test_a_row_that_cannot_be_read_stays_and_holds_nothing_up(
    account: StorageAccount, store: TableConversations, caplog: pytest.LogCaptureFixture
) -> None:
    where, elsewhere = key(), key()
    bad = await told(store, where, LONG)
    good = await told(store, elsewhere, LONG)
    table = await account.table("aosconversations")
    row = {"PartitionKey": table_key(*where), "RowKey": f"OP:{bad}"}
    await table.upsert_entity({**row, "data": '{"status": "of a newer version"}'}, mode=UpdateMode.REPLACE)
    removed = await forget(account, 8.1, runs=2)
    assert await store.operation(good) is None
    assert removed[STATE_CONTAINER] >= 1, "what comes after is looked at, too"
    assert (await table.get_entity(row["PartitionKey"], row["RowKey"]))["data"]
    assert f"row 'OP:{bad}' of partition '{row['PartitionKey']}' in table aosconversations" in caplog.text
    await table.delete_entity(row["PartitionKey"], f"OP:{bad}")


async def test_a_value_is_kept_where_a_row_does_not_say_what_it_names(
    account: StorageAccount, store: TableConversations, caplog: pytest.LogCaptureFixture
) -> None:
    where, elsewhere = key(), key()
    kept = await told(store, where, LONG)
    for place in (where, elsewhere):
        for text in (LONG, LONG + "!"):
            snapshot = await store.read(place)
            await store.commit(place, snapshot.etag, Change(replace(snapshot.state, key=place, anchor=text), Lease()))
    table = await account.table("aosconversations")
    row = {"PartitionKey": table_key(*where), "RowKey": f"OP:{kept}"}
    blob = (await table.get_entity(row["PartitionKey"], row["RowKey"]))["blob"]
    newer = blob.replace('"container":', '"account":"another","place":')
    assert newer != blob
    await table.upsert_entity({**row, "blob": newer}, mode=UpdateMode.REPLACE)
    removed = await forget(account, 1.1)
    assert removed[STATE_CONTAINER] >= 1, "of the other conversation"
    assert f"(partition {row['PartitionKey']}) names a value that is none" in caplog.text
    await table.upsert_entity({**row, "blob": blob}, mode=UpdateMode.REPLACE)
    operation = await store.operation(kept)
    assert operation is not None
    assert operation.reply == LONG


async def test_a_run_is_bounded_and_the_next_one_goes_on(account: StorageAccount, store: TableConversations) -> None:
    where = key()
    operations = [await told(store, where) for _ in range(6)]
    # Which rows come first is a matter of hashes: those of other tests may, which stay.
    removed = [(await forget(account, 7.1, limit=4))["aosconversations"] for _ in range(26)]
    assert 0 < max(removed) <= 4
    left = [operation_id for operation_id in operations if await store.operation(operation_id) is not None]
    assert left == []
    assert await store.history(where, 0, 10) == []


async def test_what_was_written_meanwhile_stays(account: StorageAccount, store: TableConversations) -> None:
    where = key()
    operation_id = await told(store, where)

    class Hasty(Retention):
        """Somebody writes each row between the look and the removal."""

        async def _history(self, row: Row, at: datetime) -> bool:
            snapshot = await store.read(where)
            operation = await store.operation(operation_id)
            if operation is not None and row["RowKey"] == f"OP:{operation_id}":
                change = Change(snapshot.state, Lease(), operations=(replace(operation, attempt=2),))
                await store.commit(where, snapshot.etag, change)
            return await super()._history(row, at)

    for _ in range(3):
        await Hasty(account, Later(7.1)).run()
    operation = await store.operation(operation_id)
    assert operation is not None
    assert operation.attempt == 2


async def test_two_runs_at_once_are_one(account: StorageAccount, store: TableConversations) -> None:
    where = key()
    await told(store, where, LONG)
    await asyncio.gather(*(forget(account, 9.0) for _ in range(3)))
    assert await store.history(where, 0, 10) == []
