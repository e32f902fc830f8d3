from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aos.config import Settings
from aos.orchestration.model_types import ModelType, Said, Thread, ThreadStore
from aos.orchestration.threads import LONGEST_HISTORY, RememberedThreads, StoredThreads, bounded
from aos.storage.account import StorageAccount


@pytest.fixture(params=["memory", "table"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ThreadStore]:
    if request.param == "memory":
        yield RememberedThreads()
        return
    settings: Settings = request.getfixturevalue("storage_settings")
    account = StorageAccount(settings)
    yield StoredThreads(account)
    await account.close()


async def test_threads_per_backend_and_conversation(store: ThreadStore) -> None:
    first = Thread("t1", (Said("user", "ä" * 40_000), Said("assistant", "\u0000😀")))
    assert await store.load(ModelType.VLLM, "a/b#1") is None
    assert await store.claim(ModelType.VLLM, "a/b#1", first) == first
    assert await store.claim(ModelType.VLLM, "a/b#1", Thread("late")) == first
    assert await store.load(ModelType.OPENAI, "a/b#1") is None
    await store.save(ModelType.VLLM, "a/b#1", Thread("t2"))
    assert await store.load(ModelType.VLLM, "a/b#1") == Thread("t2")


async def test_the_longest_history_fits(store: ThreadStore) -> None:
    said = tuple(Said("user" if n % 2 == 0 else "assistant", f"{n}" + "é" * 9_000) for n in range(100))
    await store.save(ModelType.VLLM, "long", Thread("t", said))
    kept = await store.load(ModelType.VLLM, "long")
    assert kept is not None
    assert len(kept.history) == 6
    assert kept.history == bounded(said)
    assert kept.history[-1] == said[-1]
    assert kept.history[0].role == "user"


def test_what_is_too_long_is_not_kept() -> None:
    assert bounded((Said("user", "x" * LONGEST_HISTORY), Said("assistant", "y"))) == ()
