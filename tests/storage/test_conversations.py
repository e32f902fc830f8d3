"""One suite over every `ConversationStore`: what the kernel is promised, wherever it runs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from azure.core.async_paging import AsyncItemPaged
from azure.data.tables import TableEntity, UpdateMode
from azure.data.tables.aio import TableClient

from aos.config import Settings
from aos.errors import BacklogFull, Conflict, ConversationUnreadable, OperationConflict, StorageUnavailable
from aos.kernel.clock import Clock
from aos.kernel.ports import Acceptance, Change, ConversationStore, Due, Lease, Snapshot
from aos.kernel.sweep import Sweep
from aos.kernel.types import (
    AgentRef,
    Conversation,
    ConversationKey,
    Failure,
    Message,
    Operation,
    ReplyAddress,
    SendReply,
    SendTool,
    ToolCall,
    ToolOutput,
    ToolResult,
    Turn,
)
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.memory import MemoryConversations
from aos.storage.payloads import BlobRef, Payloads
from aos.storage.rows import FIRST_LOOK, queued, table_key

NOW = 1_800_000_000.0
MakeStore = Callable[[Clock], ConversationStore]


class FixedClock:
    def __init__(self, now: float = NOW) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture(scope="module")
async def account(own_storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    """Of its own: what is due comes from all conversations of an account."""
    account = StorageAccount(own_storage_settings)
    yield account
    await account.close()


@pytest.fixture(params=["memory", "table"])
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    if request.param == "memory":
        return MemoryConversations
    account: StorageAccount = request.getfixturevalue("account")
    return lambda clock: TableConversations(account, Payloads(account), clock)


@pytest.fixture
def store(make_store: MakeStore) -> ConversationStore:
    return make_store(FixedClock())


@pytest.fixture
def tables(account: StorageAccount) -> TableConversations:
    return TableConversations(account, Payloads(account), FixedClock())


@pytest.fixture
def key() -> ConversationKey:
    return ConversationKey("ceo", f"c-{uuid.uuid4().hex}")


def message(text: str = "hello", *, at: float = NOW, reply_to: ReplyAddress | None = None) -> Message:
    return Message(f"op_{uuid.uuid4().hex[:26]}", text, at, at + 600, event_type="test", reply_to=reply_to)


def acceptance(key: ConversationKey, wanted: Message, fingerprint: str = "f1", **more: int) -> Acceptance:
    return Acceptance(key, wanted, fingerprint, backlog=more.get("backlog", 100), fresh=bool(more.get("fresh")))


async def accept(store: ConversationStore, key: ConversationKey, text: str = "hello") -> Message:
    """Accepts a message and returns it as it lies in the inbox."""
    wanted = message(text)
    await store.accept(acceptance(key, wanted))
    inbox = (await store.read(key)).inbox
    return next(kept for kept in inbox if kept.operation_id == wanted.operation_id)


def ended(operation: Operation, reply: str = "done") -> Operation:
    return replace(operation, status="completed", reply=reply, updated_at=NOW + 5)


# --- accept


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_new_message_is_stored_with_its_operation(
    store: ConversationStore, key: ConversationKey, fresh: bool
) -> None:
    wanted = message(reply_to=ReplyAddress("answers", "c", "s"))
    operation, new = await store.accept(acceptance(key, wanted, fresh=fresh))
    assert new
    assert operation == queued(key, wanted)
    assert await store.operation(wanted.operation_id) == operation
    snapshot = await store.read(key)
    assert snapshot == Snapshot(Conversation(key), Lease(), None, (replace(wanted, seq=int(NOW * 1e6)),), ())


async def test_the_same_message_again_returns_the_first_operation(
    store: ConversationStore, key: ConversationKey
) -> None:
    wanted = message()
    first, _ = await store.accept(acceptance(key, wanted))
    again, new = await store.accept(acceptance(key, replace(wanted, accepted_at=NOW + 9)))
    assert (again, new) == (first, False)
    assert len((await store.read(key)).inbox) == 1


async def test_the_same_message_again_shows_how_it_ended(store: ConversationStore, key: ConversationKey) -> None:
    kept = await accept(store, key)
    final = ended(queued(key, kept))
    await store.commit(key, None, Change(Conversation(key), Lease(), (kept,), (), (final,)))
    assert await store.accept(acceptance(key, kept)) == (final, False)
    assert (await store.read(key)).inbox == ()


async def test_the_same_id_with_another_request_is_a_conflict(store: ConversationStore, key: ConversationKey) -> None:
    wanted = message()
    await store.accept(acceptance(key, wanted))
    with pytest.raises(OperationConflict, match=wanted.operation_id):
        await store.accept(acceptance(key, wanted, "f2"))


async def test_the_same_message_twice_at_once_is_one_operation(store: ConversationStore, key: ConversationKey) -> None:
    wanted = message()
    results = await asyncio.gather(*(store.accept(acceptance(key, wanted)) for _ in range(5)))
    assert [new for _, new in results].count(True) == 1
    assert len({operation for operation, _ in results}) == 1
    assert len((await store.read(key)).inbox) == 1


async def test_a_full_backlog_refuses_and_accepts_again_when_there_is_room(
    store: ConversationStore, key: ConversationKey
) -> None:
    first = await accept(store, key)
    await accept(store, key)
    refused = message()
    with pytest.raises(BacklogFull, match=key.conversation_id):
        await store.accept(acceptance(key, refused, backlog=2))
    assert await store.operation(refused.operation_id) is None
    await store.commit(key, None, Change(Conversation(key), Lease(), (first,)))
    _, new = await store.accept(acceptance(key, refused, backlog=2))
    assert new


@pytest.mark.parametrize("unique", [False, True])
async def test_what_a_full_backlog_refuses_is_not_due(
    store: ConversationStore, key: ConversationKey, unique: bool
) -> None:
    key = ConversationKey(f"agent-{uuid.uuid4().hex}", key.conversation_id)
    accepted, refused = message(), message()
    await store.accept(acceptance(key, accepted))
    with pytest.raises(BacklogFull):
        await store.accept(Acceptance(key, refused, "f1", backlog=1, unique=unique))
    assert (await store.unfinished())[key.agent_id] == 1
    due = [entry.operation_id for entry in await store.due(NOW + FIRST_LOOK, 100_000) if entry.key == key]
    assert due == [accepted.operation_id]


async def test_the_waiting_messages_are_counted_without_reading_them(
    account: StorageAccount, key: ConversationKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = Payloads(account)
    store = TableConversations(account, payloads, FixedClock())
    for _ in range(2):
        await store.accept(acceptance(key, message("x" * 100_000)))

    async def no_reading(*_: object, **__: object) -> bytes:
        raise AssertionError("a message was read")

    with monkeypatch.context() as patch:
        patch.setattr(payloads, "get", no_reading)
        last = message("the third")
        await store.accept(acceptance(key, last, backlog=3))
        with pytest.raises(BacklogFull, match="3 messages wait"):
            await store.accept(acceptance(key, message(), backlog=3))
    assert (await store.read(key)).inbox[-1].text == "the third"


async def test_the_unfinished_operations_of_each_agent_are_counted(store: ConversationStore) -> None:
    first, second = (ConversationKey(f"a-{uuid.uuid4().hex}", "c") for _ in range(2))
    kept = await accept(store, first)
    for key in (first, ConversationKey(first.agent_id, "d"), second):
        await accept(store, key)
    counts = await store.unfinished()
    assert (counts[first.agent_id], counts[second.agent_id]) == (3, 1)
    await store.commit(first, None, Change(Conversation(first), Lease(), (kept,), (), (ended(queued(first, kept)),)))
    assert (await store.unfinished())[first.agent_id] == 2


async def test_messages_keep_the_order_in_which_they_were_accepted(make_store: MakeStore, key: ConversationKey) -> None:
    clock = FixedClock()
    store = make_store(clock)
    texts: list[str] = []
    for jump in (0.0, 0.0, -10.0, 20.0, -5.0):
        clock.time += jump
        texts.append(f"text {len(texts)}")
        await accept(store, key, texts[-1])
    assert [kept.text for kept in (await store.read(key)).inbox] == texts


async def test_a_message_gets_a_place_behind_those_already_taken(make_store: MakeStore, key: ConversationKey) -> None:
    clock = FixedClock()
    store = make_store(clock)
    taken = await accept(store, key)
    state = replace(Conversation(key), last_seq=taken.seq)
    await store.commit(key, None, Change(state, Lease(), (taken,)))
    clock.time -= 60
    assert (await accept(store, key)).seq > taken.seq


async def test_20_messages_at_once_keep_apart_and_in_order(store: ConversationStore, key: ConversationKey) -> None:
    ticks = itertools.count()
    spans: dict[str, tuple[int, int]] = {}

    async def sender(count: int) -> None:
        for _ in range(count):
            wanted, begin = message(), next(ticks)
            _, new = await store.accept(acceptance(key, wanted))
            assert new
            spans[wanted.operation_id] = begin, next(ticks)

    await asyncio.gather(*(sender(4) for _ in range(5)))
    inbox = (await store.read(key)).inbox
    seq = {kept.operation_id: kept.seq for kept in inbox}
    assert len(set(seq.values())) == len(inbox) == 20
    assert [kept.seq for kept in inbox] == sorted(seq.values())
    for one, other in itertools.permutations(spans, 2):
        if spans[one][1] < spans[other][0]:
            assert seq[one] < seq[other]


class FailingPayloads(Payloads):
    async def put(self, data: bytes, prefix: str) -> BlobRef:
        raise StorageUnavailable("The storage account did not answer.")


async def test_an_acceptance_that_did_not_finish_goes_on(
    account: StorageAccount, tables: TableConversations, key: ConversationKey
) -> None:
    wanted = message("x" * 40_000)
    broken = TableConversations(account, FailingPayloads(account), FixedClock())
    with pytest.raises(StorageUnavailable):
        await broken.accept(acceptance(key, wanted))
    assert await tables.operation(wanted.operation_id) is None
    assert (await tables.read(key)).inbox == ()
    with pytest.raises(OperationConflict):
        await tables.accept(acceptance(key, wanted, "f2"))
    operation, new = await tables.accept(acceptance(key, wanted))
    assert new
    assert operation == await tables.operation(wanted.operation_id)
    assert [kept.text for kept in (await tables.read(key)).inbox] == [wanted.text]


# --- results


async def test_a_result_is_stored_once(store: ConversationStore, key: ConversationKey) -> None:
    result = ToolResult("op_1.1.0", "42")
    assert await store.add_arrival(key, result)
    assert not await store.add_arrival(key, replace(result, output="43"))
    assert await store.add_arrival(key, ToolResult("op_1.1.1", "44", failed=True))
    results = (await store.read(key)).arrivals
    assert set(results) == {result, ToolResult("op_1.1.1", "44", failed=True)}


# --- read and commit


def full_state(key: ConversationKey, text: str = "hello") -> Conversation:
    call = ToolCall("c1", "op_1.1.0", "read", "files", "read", '{"path": "ä"}', NOW + 60, NOW)
    asked = replace(message(text, reply_to=ReplyAddress("answers")), operation_id="op_0", seq=7)
    operation = ended(queued(key, asked))
    turn = Turn(asked, AgentRef("aos-ceo", "1", "abc", "llama"), "tools", 2, (), (call,), (call,))
    return Conversation(
        key,
        "conv_1",
        "item_1",
        turn,
        (SendTool("op_1.1.0", "files", "read", "{}"), SendReply(operation)),
        (ToolOutput("c0", "x"),),
        True,
        7,
        3,
        NOW + 0.25,
        2,
    )


async def test_a_conversation_that_nobody_wrote_is_empty(store: ConversationStore, key: ConversationKey) -> None:
    assert await store.read(key) == Snapshot(Conversation(key), Lease(), None, (), ())


async def test_a_commit_writes_state_lease_and_operations_and_removes_what_it_consumed(
    store: ConversationStore, key: ConversationKey
) -> None:
    first, second = await accept(store, key, "first"), await accept(store, key, "second")
    used, unused = ToolResult("op_1.1.0", "42"), ToolResult("op_1.1.1", "43")
    await store.add_arrival(key, used)
    await store.add_arrival(key, unused)
    state, lease = full_state(key), Lease("me", NOW + 30, 4)
    final = ended(queued(key, first))
    etag = await store.commit(key, None, Change(state, lease, (first,), (used,), (final,)))
    assert await store.read(key) == Snapshot(state, lease, etag, (second,), (unused,))
    assert await store.operation(first.operation_id) == final
    later = await store.commit(key, etag, Change(Conversation(key), Lease()))
    assert later != etag
    assert await store.read(key) == Snapshot(Conversation(key), Lease(), later, (second,), (unused,))


@pytest.mark.parametrize("stale", [None, "gone"])
async def test_a_stale_commit_changes_nothing(
    store: ConversationStore, key: ConversationKey, stale: str | None
) -> None:
    kept, result = await accept(store, key), ToolResult("op_1.1.0", "42")
    await store.add_arrival(key, result)
    old = await store.commit(key, None, Change(Conversation(key), Lease("me", NOW, 1)))
    new = await store.commit(key, old, Change(full_state(key), Lease("you", NOW, 2)))
    change = Change(Conversation(key), Lease("me", NOW, 1), (kept,), (result,), (ended(queued(key, kept)),))
    with pytest.raises(Conflict):
        await store.commit(key, old if stale else None, change)
    assert await store.read(key) == Snapshot(full_state(key), Lease("you", NOW, 2), new, (kept,), (result,))
    assert await store.operation(kept.operation_id) == queued(key, kept)


async def test_what_was_consumed_cannot_be_consumed_again(store: ConversationStore, key: ConversationKey) -> None:
    """A snapshot need not be of one moment; the write that builds on it finds out."""
    kept = await accept(store, key)
    etag = await store.commit(key, None, Change(Conversation(key), Lease(), (kept,)))
    with pytest.raises(Conflict):
        await store.commit(key, etag, Change(full_state(key), Lease(), (kept,)))
    with pytest.raises(Conflict):
        await store.commit(key, etag, Change(full_state(key), Lease(), (), (ToolResult("op_1.1.0", "42"),)))
    assert (await store.read(key)).state == Conversation(key)


async def winners(writes: list[Awaitable[str]]) -> int:
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, str | Conflict) for result in results)
    return sum(isinstance(result, str) for result in results)


async def test_one_of_ten_writers_wins(store: ConversationStore, key: ConversationKey) -> None:
    def change(number: int) -> Change:
        return Change(replace(Conversation(key), turns=number), Lease(f"owner {number}", NOW, number))

    assert await winners([store.commit(key, None, change(number)) for number in range(10)]) == 1
    snapshot = await store.read(key)
    assert snapshot.lease == Lease(f"owner {snapshot.state.turns}", NOW, snapshot.state.turns)
    assert await winners([store.commit(key, snapshot.etag, change(number)) for number in range(10)]) == 1


async def test_as_much_as_the_kernel_takes_up_at_once_fits_in_one_write(
    store: ConversationStore, key: ConversationKey
) -> None:
    from aos.kernel.hold import BATCH

    accepted = [message("x" * 500) for _ in range(BATCH)]
    results = tuple(ToolResult(f"op_1.1.{index}", "x" * 500) for index in range(BATCH))
    await asyncio.gather(*(store.add_arrival(key, result) for result in results))
    for wanted in accepted:
        await store.accept(acceptance(key, wanted))
    snapshot = await store.read(key)
    operations = (*(ended(queued(key, kept), "y" * 20_000) for kept in snapshot.inbox), queued(key, message()))
    await store.commit(key, None, Change(full_state(key), Lease(), snapshot.inbox, snapshot.arrivals, operations))
    snapshot = await store.read(key)
    assert (snapshot.inbox, snapshot.arrivals) == ((), ())


# --- leases


async def test_renewing_writes_only_the_lease(store: ConversationStore, key: ConversationKey) -> None:
    kept = await accept(store, key)
    etag = await store.commit(key, None, Change(full_state(key), Lease("me", NOW, 3)))
    renewed = await store.renew(key, etag, Lease("me", NOW + 30, 3))
    assert renewed != etag
    assert await store.read(key) == Snapshot(full_state(key), Lease("me", NOW + 30, 3), renewed, (kept,), ())
    with pytest.raises(Conflict):
        await store.renew(key, etag, Lease("me", NOW + 60, 3))
    with pytest.raises(Conflict):
        await store.commit(key, etag, Change(Conversation(key), Lease()))
    await store.commit(key, renewed, Change(Conversation(key), Lease()))


async def test_renewing_what_is_not_there_is_a_conflict(store: ConversationStore, key: ConversationKey) -> None:
    with pytest.raises(Conflict):
        await store.renew(key, "W/\"datetime'2020-01-01T00%3A00%3A00.0000000Z'\"", Lease("me", NOW, 1))


# --- values


@pytest.mark.parametrize("size", [24 * 1024 - 400, 24 * 1024, 100_000, 1024 * 1024])
@pytest.mark.parametrize("letter", ["x", "ß", "\N{ROCKET}"])
async def test_values_of_any_size_come_back_whole(
    store: ConversationStore, key: ConversationKey, size: int, letter: str
) -> None:
    text = letter * (size // len(letter.encode()))
    kept = await accept(store, key, text)
    result = ToolResult("op_1.1.0", text)
    await store.add_arrival(key, result)
    final = ended(queued(key, kept), text)
    state = full_state(key, text)
    etag = await store.commit(key, None, Change(state, Lease("me", NOW, 1), (), (), (final,)))
    assert await store.read(key) == Snapshot(state, Lease("me", NOW, 1), etag, (kept,), (result,))
    assert await store.operation(kept.operation_id) == final


@pytest.mark.parametrize(
    "conversation_id", ["a:b.c_d-e", "x" * 128, "::", ".", "a'b", "eq ' or 1", "über/\\#?", "a\nb", "A", "a"]
)
async def test_ids_may_hold_any_characters(store: ConversationStore, conversation_id: str) -> None:
    key = ConversationKey(f"agent-{uuid.uuid4().hex}", conversation_id)
    kept, result = await accept(store, key), ToolResult("op/1.1.0#?", "42")
    await store.add_arrival(key, result)
    etag = await store.commit(key, None, Change(full_state(key), Lease()))
    assert await store.read(key) == Snapshot(full_state(key), Lease(), etag, (kept,), (result,))
    operation = await store.operation(kept.operation_id)
    assert operation is not None
    assert operation.conversation_id == conversation_id


async def test_conversations_of_two_agents_are_two(store: ConversationStore, key: ConversationKey) -> None:
    await accept(store, key)
    assert (await store.read(replace_agent(key, "cfo"))).inbox == ()
    assert (await store.read(ConversationKey(key.agent_id + key.conversation_id, ""))).inbox == ()


def replace_agent(key: ConversationKey, agent_id: str) -> ConversationKey:
    return ConversationKey(agent_id, key.conversation_id)


async def test_an_operation_that_nobody_accepted_is_none(store: ConversationStore) -> None:
    assert await store.operation(f"op_{uuid.uuid4().hex}") is None


async def test_reading_does_not_slow_down_with_the_history(
    account: StorageAccount, tables: TableConversations, key: ConversationKey, caplog: pytest.LogCaptureFixture
) -> None:
    kept = await accept(tables, key)
    table, partition = await account.table("aosconversations"), table_key(*key)
    for part in range(12):
        rows = [{"PartitionKey": partition, "RowKey": f"OP:op_{part:02d}{n:03d}", "data": "{}"} for n in range(100)]
        await table.submit_transaction([("create", row) for row in rows])
    caplog.set_level(logging.INFO, logger="azure.core.pipeline.policies.http_logging_policy")
    caplog.clear()
    assert (await tables.read(key)).inbox == (kept,)
    assert sum("Request URL" in record.getMessage() for record in caplog.records) == 1


# --- what is due


async def entries(store: ConversationStore, operation_ids: set[str], before: float) -> list[Due]:
    return [entry for entry in await store.due(before, 1000) if entry.operation_id in operation_ids]


async def test_an_accepted_operation_is_due_once_after_its_first_look(
    store: ConversationStore, key: ConversationKey
) -> None:
    wanted = message(at=1_000.0)
    await store.accept(acceptance(key, wanted))
    ids = {wanted.operation_id}
    assert await entries(store, ids, 1_000.0 + FIRST_LOOK - 1) == []
    (entry,) = await entries(store, ids, 1_000.0 + FIRST_LOOK)
    assert (entry.key, entry.operation_id, entry.at) == (key, wanted.operation_id, 1_000.0 + FIRST_LOOK)


async def test_a_due_entry_moves_and_goes(store: ConversationStore, key: ConversationKey) -> None:
    wanted = message(at=2_000.0)
    await store.accept(acceptance(key, wanted))
    ids = {wanted.operation_id}
    (entry,) = await entries(store, ids, 3_000.0)
    await store.move_due(entry, 4_000.5)
    assert await entries(store, ids, 4_000.0) == []
    (moved,) = await entries(store, ids, 4_001.0)
    assert (moved.key, moved.at) == (key, 4_000.5)
    await store.move_due(moved, 4_000.5)
    assert await entries(store, ids, 4_001.0) == [moved]
    await store.move_due(moved, None)
    await store.move_due(moved, None)
    assert await entries(store, ids, 9_000.0) == []


async def test_the_oldest_entries_of_all_shards_come_first(store: ConversationStore, key: ConversationKey) -> None:
    accepted = [message(at=100.0 - number) for number in range(40)]
    for wanted in accepted:
        await store.accept(acceptance(key, wanted))
    due = await store.due(200.0, 7)
    assert [entry.operation_id for entry in due] == [wanted.operation_id for wanted in reversed(accepted)][:7]
    assert [entry.at for entry in due] == sorted(entry.at for entry in due)
    everything = await store.due(200.0, 1000)
    assert len(everything) == 40
    for entry in everything:
        await store.move_due(entry, None)


async def test_no_request_asks_for_more_rows_than_table_storage_gives(
    tables: TableConversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[int | None] = []
    query = TableClient.query_entities

    def seen(self: TableClient, query_filter: str, **more: Any) -> AsyncItemPaged[TableEntity]:
        pages.append(more["results_per_page"])
        return query(self, query_filter, **more)

    monkeypatch.setattr(TableClient, "query_entities", seen)
    await tables.due(200.0, 10_000)
    assert pages
    assert all(page is not None and page <= 1000 for page in pages)


async def test_processes_that_sweep_at_the_same_time_leave_one_entry(
    tables: TableConversations, key: ConversationKey
) -> None:
    waits = message(at=1.0)
    await tables.accept(acceptance(key, waits))

    async def drive(key: ConversationKey) -> None:
        """It waits for somebody, such as a person who has to approve a call."""

    clocks = [FixedClock() for _ in range(2)]
    sweeps = [Sweep(tables, clock, drive, f"p{number}", 1.0) for number, clock in enumerate(clocks)]
    for _ in range(3):
        latest = max(entry.at for entry in await entries(tables, {waits.operation_id}, 900.0))
        for number, clock in enumerate(clocks):
            clock.time = latest + 0.2 + number * 0.05
        await asyncio.gather(*(sweep.run(100, 0.0) for sweep in sweeps))
    (entry,) = await entries(tables, {waits.operation_id}, 900.0)
    await tables.move_due(entry, None)


async def test_an_operation_that_ended_is_not_due(store: ConversationStore, key: ConversationKey) -> None:
    wanted, other = message(at=5_000.0), message(at=5_000.0)
    for one in (wanted, other):
        await store.accept(acceptance(key, one))
    await store.commit(key, None, Change(Conversation(key), Lease(), (), (), (ended(queued(key, wanted)),)))
    left = await entries(store, {wanted.operation_id, other.operation_id}, 6_000.0)
    assert [entry.operation_id for entry in left] == [other.operation_id]


async def test_an_operation_is_due_until_its_reply_is_out(store: ConversationStore, key: ConversationKey) -> None:
    wanted = message(at=7_000.0, reply_to=ReplyAddress("answers"))
    await store.accept(acceptance(key, wanted))
    final = ended(queued(key, wanted))
    unsent = replace(Conversation(key), outbox=(SendReply(final),))
    etag = await store.commit(key, None, Change(unsent, Lease(), (), (), (final,)))
    assert len(await entries(store, {wanted.operation_id}, 8_000.0)) == 1
    await store.commit(key, etag, Change(Conversation(key), Lease(), told=(final,)))
    assert await entries(store, {wanted.operation_id}, 8_000.0) == []


async def test_a_reply_that_is_out_changes_nothing_of_a_further_attempt(
    store: ConversationStore, key: ConversationKey
) -> None:
    first = message(at=7_000.0, reply_to=ReplyAddress("answers"))
    last = await failed(store, key, first)
    again = replace(first, attempt=2, accepted_at=7_100.0)
    await store.accept(acceptance(key, again, "print"))
    snapshot = await store.read(key)
    await store.commit(key, snapshot.etag, Change(snapshot.state, Lease(), told=(last,)))
    await store.read(key)
    found = await store.operation(first.operation_id)
    assert found is not None
    assert (found.status, found.attempt) == ("queued", 2)
    assert [entry.at for entry in await entries(store, {first.operation_id}, 8_000.0)] == [7_100.0 + FIRST_LOOK]


# --- storage is down


async def test_every_call_says_that_storage_is_down(dead_account: StorageAccount, key: ConversationKey) -> None:
    store = TableConversations(dead_account, Payloads(dead_account), FixedClock())
    calls: list[Awaitable[object]] = [
        store.accept(acceptance(key, message())),
        store.add_arrival(key, ToolResult("op_1.1.0", "42")),
        store.read(key),
        store.commit(key, None, Change(Conversation(key), Lease())),
        store.commit(key, None, Change(full_state(key, "x" * 30_000), Lease())),
        store.renew(key, "etag", Lease()),
        store.operation("op_1"),
        store.due(NOW, 10),
        store.move_due(Due(key, "op_1", NOW, "row"), None),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [StorageUnavailable] * len(calls)


# --- further attempts


async def failed(store: ConversationStore, key: ConversationKey, asked: Message) -> Operation:
    """Accepts a message and ends its operation as failed."""
    await store.accept(Acceptance(key, asked, "print"))
    snapshot = await store.read(key)
    ended = replace(queued(key, snapshot.inbox[-1]), status="failed")
    state = replace(snapshot.state, last_seq=snapshot.inbox[-1].seq)
    await store.commit(key, snapshot.etag, Change(state, Lease(), messages=snapshot.inbox, operations=(ended,)))
    return ended


async def test_a_further_attempt_of_what_failed_starts_once(store: ConversationStore, key: ConversationKey) -> None:
    asked = message()
    ended = await failed(store, key, asked)
    assert await store.accept(Acceptance(key, asked, "print")) == (ended, False)
    again = replace(asked, attempt=2, accepted_at=NOW + 100)
    results = await asyncio.gather(*(store.accept(Acceptance(key, again, "print")) for _ in range(4)))
    assert sorted(new for _, new in results) == [False, False, False, True]
    assert {(operation.status, operation.attempt) for operation, _ in results} == {("queued", 2)}
    assert [waiting.attempt for waiting in (await store.read(key)).inbox] == [2]
    assert await store.operation(asked.operation_id) == results[0][0]


async def test_what_did_not_fail_has_no_further_attempt(store: ConversationStore, key: ConversationKey) -> None:
    asked = message()
    first, _ = await store.accept(Acceptance(key, asked, "print"))
    assert await store.accept(Acceptance(key, replace(asked, attempt=2), "print")) == (first, False)
    assert len((await store.read(key)).inbox) == 1


async def test_a_first_sight_may_be_a_further_attempt(store: ConversationStore, key: ConversationKey) -> None:
    operation, new = await store.accept(Acceptance(key, replace(message(), attempt=3), "print"))
    assert (operation.attempt, new) == (3, True)


async def test_what_is_known(store: ConversationStore, key: ConversationKey) -> None:
    asked = message()
    assert await store.known(asked.operation_id, "print") is None
    operation, _ = await store.accept(Acceptance(key, asked, "print"))
    assert await store.known(asked.operation_id, "print") == operation
    with pytest.raises(OperationConflict):
        await store.known(asked.operation_id, "other")


# --- history


async def told(store: ConversationStore, key: ConversationKey, texts: list[str]) -> str:
    """Messages that were accepted and answered; returns the ETag of the state."""
    wanted = [message(text) for text in texts]
    for each in wanted:
        await store.accept(acceptance(key, each))
    snapshot = await store.read(key)
    done = tuple(replace(queued(key, each), status="completed", reply="yes") for each in snapshot.inbox)
    state = Conversation(key, last_seq=snapshot.inbox[-1].seq, turns=len(texts))
    return await store.commit(key, None, Change(state, Lease(), snapshot.inbox, (), done))


async def test_the_history_is_what_was_accepted_in_its_order(store: ConversationStore, key: ConversationKey) -> None:
    await told(store, key, ["one", "x" * 100_000, "three"])
    await store.accept(acceptance(key, message("waits")))
    entries = await store.history(key, 0, 10)
    assert [entry.message.text[:5] for entry in entries] == ["one", "xxxxx", "three", "waits"]
    assert [entry.operation.status for entry in entries if entry.operation] == ["completed"] * 3 + ["queued"]
    assert await store.history(key, entries[1].message.seq, 1) == [entries[2]]
    assert await store.history(key, entries[3].message.seq, 10) == []
    assert await store.history(replace_id(key), 0, 10) == []


async def test_a_conversation_is_forgotten_but_not_that_its_messages_were_accepted(
    store: ConversationStore, key: ConversationKey
) -> None:
    etag = await told(store, key, ["one", "two"])
    late = message("late")
    await store.accept(acceptance(key, late))
    before = await store.history(key, 0, 10)
    await store.erase(key, etag)
    snapshot = await store.read(key)
    assert (snapshot.etag, snapshot.state) == (None, Conversation(key))
    assert [waiting.text for waiting in snapshot.inbox] == ["late"]
    assert [entry.message.text for entry in await store.history(key, 0, 10)] == ["late"]
    first = before[0].operation
    assert first is not None
    left = await store.operation(first.operation_id)
    assert left is not None
    assert (left.status, left.reply, left.tool_calls) == ("completed", None, ())
    again = replace(before[0].message, seq=0)
    operation, new = await store.accept(acceptance(key, again))
    assert (operation.status, new) == ("completed", False), "repeated, it is no second turn"


async def test_a_conversation_that_somebody_writes_is_not_forgotten(
    store: ConversationStore, key: ConversationKey
) -> None:
    etag = await told(store, key, ["one"])
    newer = await store.renew(key, etag, Lease("somebody", NOW + 30, 1))
    with pytest.raises(Conflict):
        await store.erase(key, etag)
    assert (await store.history(key, 0, 10))[0].message.text == "one"
    await store.erase(key, newer)
    assert await store.history(key, 0, 10) == []


async def test_a_long_history_is_forgotten_in_several_writes(tables: TableConversations, key: ConversationKey) -> None:
    etag = None
    for batch in range(4):
        etag = await told_more(tables, key, etag, 30, batch)
    assert etag is not None
    assert len(await tables.history(key, 0, 1000)) == 120
    await tables.erase(key, etag)
    assert await tables.history(key, 0, 1000) == []
    assert (await tables.read(key)).etag is None


async def told_more(store: ConversationStore, key: ConversationKey, etag: str | None, count: int, batch: int) -> str:
    for index in range(count):
        await store.accept(acceptance(key, message(f"{batch}.{index}")))
    snapshot = await store.read(key)
    done = tuple(replace(queued(key, each), status="completed") for each in snapshot.inbox)
    state = Conversation(key, last_seq=snapshot.inbox[-1].seq)
    return await store.commit(key, etag, Change(state, Lease(), snapshot.inbox, (), done))


def replace_id(key: ConversationKey) -> ConversationKey:
    return key._replace(conversation_id=f"{key.conversation_id}-other")


# --- rows that are not what was written


@pytest.mark.parametrize("row_key", ["state", "in:", "res:"])
@pytest.mark.parametrize("broken", [{"data": "{"}, {"data": None}, {"data": '{"key": 1}'}])
async def test_a_row_that_cannot_be_read_is_named(
    tables: TableConversations,
    key: ConversationKey,
    account: StorageAccount,
    row_key: str,
    broken: dict[str, str | None],
) -> None:
    first = await accept(tables, key)
    await tables.commit(key, None, Change(Conversation(key), Lease(), (first,), (), ()))
    await accept(tables, key)
    await tables.add_arrival(key, ToolResult(f"{first.operation_id}.1.0", "{}"))
    table = await account.table("aosconversations")
    found = table.query_entities("PartitionKey eq @p and RowKey ge @r", parameters={"p": table_key(*key), "r": row_key})
    row = await anext(aiter(found))
    assert row["RowKey"].startswith(row_key)
    kept = {name: value for name, value in (dict(row) | broken).items() if value is not None}
    await table.update_entity(kept, mode=UpdateMode.REPLACE)
    try:
        with pytest.raises(ConversationUnreadable, match=row["RowKey"]):
            await tables.read(key)
        if row["RowKey"] == "state":
            with pytest.raises(ConversationUnreadable, match=row["PartitionKey"]):
                async for _ in tables.keys():
                    pass
    finally:  # Whoever reads every conversation of the account would stop at it.
        await table.update_entity(row, mode=UpdateMode.REPLACE)


async def test_an_operation_is_ended_apart_from_its_conversation(
    store: ConversationStore, key: ConversationKey
) -> None:
    first, second = await accept(store, key), await accept(store, key)
    operation = await store.operation(first.operation_id)
    assert operation is not None
    failed = replace(operation, status="failed", error=Failure("conversation_unreadable", "title", "detail"))
    await store.end(failed)
    assert await store.operation(first.operation_id) == failed
    assert (await store.read(key)).inbox == (second,)
