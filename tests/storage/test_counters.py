from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest

from aos.kernel.ports import Acceptance, Change, Due, Lease
from aos.kernel.types import ConversationKey, Message, Operation, ToolCall, Usage
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.counters import Counters, Counts
from aos.storage.payloads import Payloads
from aos.storage.rows import FIRST_LOOK, due_row, queued

CALL = ToolCall("c", "op.1.0", "f", "s", "t", "{}", 2.0, 1.0, "succeeded")


def ended(agent_id: str, **more: object) -> Operation:
    operation = Operation(f"op_{uuid.uuid4().hex}", agent_id, "main", "completed", 1.0, 2.0, usage=Usage(3, 4, 7))
    return replace(operation, **more)  # type: ignore[arg-type]  # fields of an operation


async def test_what_agents_did_is_summed_over_processes_and_restarts(account: StorageAccount) -> None:
    agent_id, other = uuid.uuid4().hex, uuid.uuid4().hex
    here, there = Counters(account), Counters(account)
    work = [ended(agent_id, tool_calls=(CALL, CALL)), ended(agent_id, status="failed"), ended(agent_id)]
    work += [ended(agent_id) for _ in range(20)]
    await asyncio.gather(*(counters.count(operation) for operation in work for counters in (here, there)))
    assert await Counters(account).of(agent_id) == Counts(23, 1, 2, 69, 92, 161)
    assert await here.of(other) == Counts()


async def test_an_attempt_is_counted_once_and_the_next_one_too(account: StorageAccount) -> None:
    agent_id = uuid.uuid4().hex
    counters, operation = Counters(account), ended(agent_id, status="failed")
    assert await counters.count(operation)
    assert not await Counters(account).count(operation)
    assert await counters.count(replace(operation, attempt=2, status="completed"))
    assert (await counters.of(agent_id)).turns == 2


async def test_a_failed_turn_is_logged_once(account: StorageAccount, caplog: pytest.LogCaptureFixture) -> None:
    counters, operation = Counters(account), ended("ceo", status="failed")
    await counters.count(operation)
    await Counters(account).count(operation)
    await counters.count(ended("ceo"))
    lines = [record.getMessage() for record in caplog.records if record.name == "aos.turns"]
    assert lines == [f"turn failed: agent ceo operation {operation.operation_id} code failed"]


async def test_large_numbers(account: StorageAccount) -> None:
    agent_id = uuid.uuid4().hex
    counters = Counters(account)
    await counters.count(ended(agent_id, usage=Usage(2**33, 1, 2**33 + 1)))
    assert (await counters.of(agent_id)).input_tokens == 2**33


async def settle(store: TableConversations, key: ConversationKey) -> Operation:
    message = Message(f"op_{uuid.uuid4().hex}", "hello", 1000.0, 1600.0)
    await store.accept(Acceptance(key, message, "print"))
    snapshot = await store.read(key)
    operation = replace(queued(key, message), status="completed", usage=Usage(1, 2, 3))
    change = Change(snapshot.state, Lease(), messages=snapshot.inbox, operations=(operation,))
    await store.commit(key, snapshot.etag, change)
    return operation


async def test_a_store_counts_what_has_ended(account: StorageAccount) -> None:
    key = ConversationKey(uuid.uuid4().hex, "main")
    counters = Counters(account)
    store = TableConversations(account, Payloads(account), counters=counters)
    await settle(store, key)
    await store.read(key)  # as whoever gives the lease back does
    assert await counters.of(key.agent_id) == Counts(1, 0, 0, 1, 2, 3)


async def test_what_a_crash_left_uncounted_is_counted_when_its_due_entry_goes(account: StorageAccount) -> None:
    key = ConversationKey(uuid.uuid4().hex, "main")
    counters = Counters(account)
    store = TableConversations(account, Payloads(account), counters=counters)
    operation = await settle(TableConversations(account, Payloads(account)), key)
    entry = Due(key, operation.operation_id, 1000.0 + FIRST_LOOK, due_row(operation.operation_id, 1000.0 + FIRST_LOOK))
    for _ in range(2):
        await store.move_due(entry, None)
    assert (await counters.of(key.agent_id)).turns == 1
