from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from aos.errors import Conflict, ConversationGone, FoundryRefused, FoundryUnavailable
from aos.foundry.migration import Migration
from aos.foundry.responses import ResponsesAdapter
from aos.kernel.clock import SystemClock
from aos.kernel.ports import Change, Lease
from aos.kernel.types import AgentRef, Conversation, ConversationKey, Message, ToolOutput, Turn
from aos.storage.memory import MemoryConversations
from tests.foundry.project import Project, spec
from tests.foundry.talk import talk

CLOCK = SystemClock()


@pytest.fixture(scope="module")
async def threads(shared_project: Project) -> AsyncIterator[Project]:
    project = Project(shared_project.emulator, "threads")
    yield project
    await project.close()


def new_key() -> ConversationKey:
    return ConversationKey("ceo", uuid.uuid4().hex)


async def stored(store: MemoryConversations, state: Conversation, lease: Lease | None = None) -> None:
    await store.commit(state.key, None, Change(state, lease or Lease()))


async def test_what_was_said_goes_along(threads: Project) -> None:
    one = await talk(threads)
    await one.say("Our code word is marigold.")
    await one.say("@say two")
    key, store = new_key(), MemoryConversations(CLOCK)
    await stored(store, Conversation(key, one.remote_id, anchor="run_1/msg_1", orphans=(ToolOutput("c", "1"),)))
    moved = await Migration(store, threads.clients, CLOCK).move(key)
    snapshot = await store.read(key)
    assert moved == snapshot.state.remote_id
    assert moved is not None
    assert (snapshot.state.anchor, snapshot.state.orphans, snapshot.lease.owner) == (None, (), "")
    adapter = threads.adapter
    items = await adapter.items_after(moved, None)
    assert [item.kind for item in items] == ["user", "text"] * 2
    assert [item.text for item in items] == [item.text for item in await one.adapter.items_after(one.remote_id, None)]
    ref = await adapter.ensure_agent(spec())
    assert "marigold" in (await adapter.respond(ref, moved, (), "What is our code word?", 10)).text
    assert await Migration(store, threads.clients, CLOCK).move(key) is None, "it is one of the newer generation now"


async def test_long_threads_go_along_in_pieces(threads: Project) -> None:
    one = await talk(threads)
    for number in range(45):
        await threads.clients.agents.messages.create(one.remote_id, role="user", content=f"m{number}")
    key, store = new_key(), MemoryConversations(CLOCK)
    await stored(store, Conversation(key, one.remote_id))
    moved = await Migration(store, threads.clients, CLOCK).move(key)
    assert moved is not None
    assert [item.text for item in await threads.adapter.items_after(moved, None)] == [f"m{n}" for n in range(45)]


async def test_a_conversation_in_work_is_left_to_its_owner(threads: Project) -> None:
    one = await talk(threads)
    leased, turning = new_key(), new_key()
    store = MemoryConversations(CLOCK)
    await stored(store, Conversation(leased, one.remote_id), Lease("somebody", CLOCK.now() + 30, 1))
    turn = Turn(Message("op_1", "hello", 0.0, 1.0), AgentRef("ceo", "1", "h", "d"))
    await stored(store, Conversation(turning, one.remote_id, turn=turn))
    for key in (leased, turning):
        with pytest.raises(Conflict, match="in the middle of a turn"):
            await Migration(store, threads.clients, CLOCK).move(key)
        assert (await store.read(key)).state.remote_id == one.remote_id


async def test_what_is_not_there_cannot_be_moved(threads: Project) -> None:
    store, gone = MemoryConversations(CLOCK), new_key()
    with pytest.raises(FoundryRefused, match="no conversation"):
        await Migration(store, threads.clients, CLOCK).move(gone)
    await stored(store, Conversation(gone, "thread_nowhere"))
    with pytest.raises(ConversationGone):
        await Migration(store, threads.clients, CLOCK).move(gone)
    snapshot = await store.read(gone)
    assert (snapshot.state.remote_id, snapshot.lease.owner) == ("thread_nowhere", ""), "as it was, and free"


async def test_a_replay_that_fails_leaves_nothing_behind(threads: Project) -> None:
    one = await talk(threads)
    for number in range(25):
        await threads.clients.agents.messages.create(one.remote_id, role="user", content=f"m{number}")
    key, store = new_key(), MemoryConversations(CLOCK)
    await stored(store, Conversation(key, one.remote_id))
    removed = await threads.calls("DELETE /openai/v1/conversations/{id}")
    await threads.fail(503, "/items")
    try:
        with pytest.raises(FoundryUnavailable):
            await Migration(store, threads.clients, CLOCK).move(key)
    finally:
        await threads.heal()
    assert await threads.calls("DELETE /openai/v1/conversations/{id}") == removed + 1
    assert (await store.read(key)).state.remote_id == one.remote_id


async def test_a_replay_that_takes_too_long_leaves_nothing_behind(
    threads: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await talk(threads)
    for number in range(25):
        await threads.clients.agents.messages.create(one.remote_id, role="user", content=f"m{number}")
    key, store = new_key(), MemoryConversations(CLOCK)
    await stored(store, Conversation(key, one.remote_id))
    items, began = threads.clients.openai.conversations.items, asyncio.Event()

    limits: list[asyncio.Timeout] = []
    limited = asyncio.timeout

    def limit(seconds: float | None) -> asyncio.Timeout:
        limits.append(limited(seconds))
        return limits[-1]

    async def hangs(*args: object, **options: object) -> None:
        began.set()
        if limits:
            # The one around the whole move runs out.
            limits[0].reschedule(asyncio.get_running_loop().time())
        await asyncio.Event().wait()

    removed = await threads.calls("DELETE /openai/v1/conversations/{id}")
    monkeypatch.setattr(items, "create", hangs)
    moving = asyncio.create_task(Migration(store, threads.clients, CLOCK).move(key))
    await began.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert await threads.calls("DELETE /openai/v1/conversations/{id}") == removed + 1
    monkeypatch.setattr(asyncio, "timeout", limit)
    with pytest.raises(FoundryUnavailable, match="in time"):
        await Migration(store, threads.clients, CLOCK).move(key)
    assert await threads.calls("DELETE /openai/v1/conversations/{id}") == removed + 2
    snapshot = await store.read(key)
    assert (snapshot.state.remote_id, snapshot.lease.owner) == (one.remote_id, ""), "as it was, and free"


async def test_a_thread_that_the_newer_generation_meets_is_replayed(threads: Project) -> None:
    one = await talk(threads)
    await one.say("Our code word is marigold.")
    adapter = threads.adapter
    assert isinstance(adapter, ResponsesAdapter)
    ref = await adapter.ensure_agent(spec())
    with pytest.raises(ConversationGone) as moved:
        await adapter.respond(ref, one.remote_id, (), "What is our code word?", 10)
    assert moved.value.successor is not None
    after = await adapter.respond(ref, moved.value.successor, (), "What is our code word?", 10)
    assert "marigold" in after.text
