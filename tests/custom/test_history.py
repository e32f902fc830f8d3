from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from azure.storage.blob.aio import BlobClient

from aos.custom.faults import HistoryGone, ModelRefused, ModelUnavailable
from aos.custom.history import CONTAINER, LARGEST_STEP, TAIL, BlobHistories, Histories, HistoryItem
from aos.kernel.types import ConversationKey
from aos.storage.account import StorageAccount

KEY = ConversationKey("ceo", "c1")


def new_name() -> str:
    return f"local_{uuid.uuid4().hex}"


def items(first: int, *texts: str) -> list[HistoryItem]:
    return [HistoryItem(number=first + index, kind="user", text=text) for index, text in enumerate(texts)]


async def test_what_is_added_is_read_in_order(histories: Histories) -> None:
    name = new_name()
    await histories.create(name, KEY)
    empty = await histories.read(name)
    assert (empty.items, empty.last) == ((), 0)
    await histories.append(name, empty.version, items(1, "one\nline", "zwei ☃"))
    once = await histories.read(name)
    call = HistoryItem(number=3, kind="call", call_id="c", name="f", arguments="{}")
    await histories.append(name, once.version, [call])
    assert (await histories.read(name)).items == (*items(1, "one\nline", "zwei ☃"), call)


async def test_of_two_steps_at_once_one_is_kept(histories: Histories) -> None:
    name = new_name()
    await histories.create(name, KEY)
    version = (await histories.read(name)).version
    steps = [histories.append(name, version, items(1, text)) for text in ("a", "b")]
    results = await asyncio.gather(*steps, return_exceptions=True)
    (failed,) = [result for result in results if result is not None]
    assert isinstance(failed, ModelUnavailable)
    assert (failed.sent, failed.code) == (True, "conversation_locked")
    assert len((await histories.read(name)).items) == 1


async def test_a_history_that_is_not_there(histories: Histories) -> None:
    with pytest.raises(HistoryGone):
        await histories.read(new_name())
    with pytest.raises(HistoryGone):
        await histories.append(new_name(), "0", items(1, "a"))


async def test_a_history_is_removed_once_and_for_all(histories: Histories) -> None:
    name = new_name()
    await histories.create(name, KEY)
    for _ in range(2):
        await histories.delete(name)
    with pytest.raises(HistoryGone):
        await histories.read(name)


async def test_a_deleted_history(account: StorageAccount) -> None:
    histories, name = BlobHistories(account), new_name()
    await histories.create(name, KEY)
    version = (await histories.read(name)).version
    container = await account.container(CONTAINER)
    await container.delete_blob(f"{name}.jsonl")
    with pytest.raises(HistoryGone):
        await histories.append(name, version, items(1, "a"))


async def test_a_long_history_is_read_from_its_end(account: StorageAccount) -> None:
    histories, name = BlobHistories(account), new_name()
    await histories.create(name, KEY)
    half = TAIL // 2
    for number in (1, 2, 3):
        version = (await histories.read(name)).version
        await histories.append(name, version, items(number, str(number) * half))
    read = await histories.read(name)
    assert [item.number for item in read.items] == [3]
    assert read.last == 3
    await histories.append(name, read.version, items(4, "end"))
    assert (await histories.read(name)).last == 4


async def test_a_step_that_is_added_while_a_long_history_is_read_is_not_missed(
    account: StorageAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories, name = BlobHistories(account), new_name()
    await histories.create(name, KEY)
    for number in (1, 2, 3):
        version = (await histories.read(name)).version
        await histories.append(name, version, items(number, str(number) * (TAIL // 2)))
    version = (await histories.read(name)).version
    download, requests = BlobClient.download_blob, 0

    async def interrupted(self: BlobClient, *args: Any, **options: Any) -> Any:
        nonlocal requests
        requests += 1
        if requests == 2:
            await histories.append(name, version, items(4, "by somebody else"))
        return await download(self, *args, **options)

    monkeypatch.setattr(BlobClient, "download_blob", interrupted)
    with pytest.raises(ModelUnavailable) as locked:
        await histories.read(name)
    assert (requests, locked.value.code) == (2, "conversation_locked")
    assert (await histories.read(name)).last == 4


async def test_a_step_that_does_not_fit(account: StorageAccount) -> None:
    histories, name = BlobHistories(account), new_name()
    await histories.create(name, KEY)
    version = (await histories.read(name)).version
    with pytest.raises(ModelRefused, match="too large"):
        await histories.append(name, version, items(1, "x" * LARGEST_STEP))
