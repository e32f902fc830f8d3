"""What is not read must not be missed: two processes at one conversation."""

from __future__ import annotations

import uuid

import pytest

from aos.errors import Conflict
from aos.kernel.ports import Acceptance, Change, Lease
from aos.kernel.records import replace
from aos.kernel.types import Cancellation, ConversationKey, Message, ToolResult
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.payloads import Payloads


class StoppedClock:
    def __init__(self) -> None:
        self.at = 1_000.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def ours(account: StorageAccount, clock: StoppedClock) -> TableConversations:
    return TableConversations(account, Payloads(account), clock)


@pytest.fixture
def theirs(account: StorageAccount, clock: StoppedClock) -> TableConversations:
    """The same table, in the hands of another process."""
    return TableConversations(account, Payloads(account), clock)


@pytest.fixture
async def key(theirs: TableConversations) -> ConversationKey:
    """A conversation with a state that nobody works on."""
    key = ConversationKey("ceo", f"c{uuid.uuid4().hex}")
    await theirs.commit(key, None, Change((await theirs.read(key)).state, Lease(fence=3)))
    return key


async def accept(store: TableConversations, key: ConversationKey) -> Message:
    message = Message(f"op_{uuid.uuid4().hex}", "hello", 1.0, 4e9)
    await store.accept(Acceptance(key, message, "f"))
    return message


def held(state: Change) -> Change:
    return replace(state, lease=Lease("them", 2_000.0, 4))


async def test_what_is_foreseen_is_what_is_there(
    ours: TableConversations, theirs: TableConversations, key: ConversationKey
) -> None:
    await ours.read(key)
    await accept(ours, key)
    foreseen = await ours.read(key)
    assert foreseen == await theirs.read(key)
    change = Change(foreseen.state, Lease("us", 2_000.0, 4), messages=foreseen.inbox)
    etag = await ours.commit(key, foreseen.etag, change)
    await ours.commit(key, etag, Change(foreseen.state, Lease(fence=4)))
    assert await ours.read(key) == await theirs.read(key)
    await ours.add_arrival(key, ToolResult("r", "said"))
    assert await ours.read(key) == await theirs.read(key)


async def test_a_new_conversation_is_foreseen(ours: TableConversations, theirs: TableConversations) -> None:
    key = ConversationKey("ceo", f"c{uuid.uuid4().hex}")
    message = await accept(ours, key)
    foreseen = await ours.read(key)
    assert foreseen == await theirs.read(key)
    assert [one.operation_id for one in foreseen.inbox] == [message.operation_id]


async def test_a_state_that_another_process_wrote_is_not_written_over(
    ours: TableConversations, theirs: TableConversations, key: ConversationKey
) -> None:
    await ours.read(key)
    await accept(ours, key)
    snapshot = await theirs.read(key)
    await theirs.commit(key, snapshot.etag, held(Change(snapshot.state, Lease())))
    foreseen = await ours.read(key)
    with pytest.raises(Conflict):
        await ours.commit(key, foreseen.etag, Change(foreseen.state, Lease("us", 2_000.0, 4), foreseen.inbox))
    assert (await ours.read(key)).lease.owner == "them"


async def test_what_another_process_stored_is_found_by_the_look_after_the_release(
    ours: TableConversations, theirs: TableConversations, key: ConversationKey
) -> None:
    await ours.read(key)
    await theirs.add_arrival(key, Cancellation("op_1", "somebody"))
    await ours.add_arrival(key, ToolResult("r", "said"))
    foreseen = await ours.read(key)
    assert [arrival.request_id for arrival in foreseen.arrivals] == ["r"]
    work = Change(foreseen.state, Lease("us", 2_000.0, 4), arrivals=foreseen.arrivals)
    etag = await ours.commit(key, foreseen.etag, work)
    await ours.commit(key, etag, Change(foreseen.state, Lease(fence=4)))
    assert [type(arrival) for arrival in (await ours.read(key)).arrivals] == [Cancellation]


async def test_messages_keep_their_order_whoever_accepted_them(
    ours: TableConversations, theirs: TableConversations, key: ConversationKey
) -> None:
    await ours.read(key)
    messages = [await accept(theirs, key), await accept(ours, key)]
    waiting = [one.operation_id for one in (await ours.read(key)).inbox]
    assert waiting == [message.operation_id for message in messages]


async def test_a_cancellation_finds_the_message_that_it_is_for(
    ours: TableConversations, theirs: TableConversations, key: ConversationKey
) -> None:
    await ours.read(key)
    messages = [await accept(ours, key)]
    # A drive that finds the agent stopped writes nothing.
    assert (await ours.read(key)).inbox
    await ours.add_arrival(key, Cancellation(messages[0].operation_id, "somebody"))
    found = await ours.read(key)
    assert [one.operation_id for one in found.inbox] == [messages[0].operation_id]
    assert [type(arrival) for arrival in found.arrivals] == [Cancellation]

    elsewhere = ConversationKey("ceo", f"c{uuid.uuid4().hex}")
    await theirs.commit(elsewhere, None, Change((await theirs.read(elsewhere)).state, Lease()))
    await ours.read(elsewhere)
    messages.append(await accept(theirs, elsewhere))
    await ours.add_arrival(elsewhere, Cancellation(messages[1].operation_id, "somebody"))
    assert [one.operation_id for one in (await ours.read(elsewhere)).inbox] == [messages[1].operation_id]


@pytest.mark.parametrize("then", ["another message", "another result", "the same result", "time"])
async def test_after_anything_else_it_is_read(
    ours: TableConversations, theirs: TableConversations, key: ConversationKey, clock: StoppedClock, then: str
) -> None:
    await ours.read(key)
    await ours.add_arrival(key, ToolResult("r", "said"))
    await theirs.add_arrival(key, ToolResult("s", "said"))
    match then:
        case "another message":
            await accept(ours, key)
        case "another result":
            await ours.add_arrival(key, ToolResult("t", "said"))
        case "the same result":
            assert not await ours.add_arrival(key, ToolResult("s", "said"))
        case _:
            clock.at += 1.0
    assert await ours.read(key) == await theirs.read(key)
