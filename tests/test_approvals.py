"""The board of approvals in Table storage."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from aos.app import routes
from aos.approvals import PAGE, ApprovalBoard
from aos.config import Settings, load_settings
from aos.kernel.types import Approval, ApprovalRecord
from aos.storage.account import StorageAccount
from aos.storage.payloads import STATE_CONTAINER, Payloads
from runtime import AuthLevel
from runtime.routes import Route

NOW = 4_000_000_000.0
"""Later than whatever other tests leave on the board."""


class FixedClock:
    def now(self) -> float:
        return NOW

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the board never waits")


@pytest.fixture
async def board(storage_settings: Settings) -> AsyncIterator[ApprovalBoard]:
    account = StorageAccount(storage_settings)
    yield ApprovalBoard(account, Payloads(account, STATE_CONTAINER), FixedClock())
    await account.close()


def waiting(arguments: str = "{}", expires_at: float = NOW + 60.0) -> ApprovalRecord:
    operation_id = f"op_{uuid.uuid4().hex[:26]}"
    approval = Approval("pending", expires_at)
    return ApprovalRecord(
        f"{operation_id}.1.0", operation_id, "ceo", "main", "files", "write", arguments, NOW - 5, approval
    )


def decided(record: ApprovalRecord, at: float = NOW) -> ApprovalRecord:
    return replace(record, approval=replace(record.approval, state="approved", decided_at=at, by="ada", reason="why"))


async def pending(board: ApprovalBoard) -> list[ApprovalRecord]:
    found: list[ApprovalRecord] = []
    after: str | None = ""
    while after is not None:
        page, after = await board.page("pending", after)
        found += page
    return found


async def test_a_call_that_waits_is_listed_until_it_is_decided(board: ApprovalBoard) -> None:
    record = waiting()
    for _ in range(2):
        await board.put(record)
    assert [known for known in await pending(board) if known.approval_id == record.approval_id] == [record]
    for _ in range(2):
        await board.put(decided(record))
    assert record not in await pending(board)
    latest, _ = await board.page("decided")
    assert [known for known in latest if known.approval_id == record.approval_id] == [decided(record)]


async def test_the_newest_decision_comes_first(board: ApprovalBoard) -> None:
    first, second = decided(waiting(), NOW + 100), decided(waiting(), NOW + 200)
    await board.put(first)
    await board.put(second)
    latest, _ = await board.page("decided")
    assert latest[:2] == [second, first]


async def test_what_expired_does_not_wait_any_more(board: ApprovalBoard) -> None:
    record = waiting(expires_at=NOW - 1)
    await board.put(record)
    assert record not in await pending(board)


async def test_long_arguments_are_shown_whole(board: ApprovalBoard) -> None:
    record = waiting('{"text": "' + "ä" * 100_000 + '"}')
    await board.put(record)
    assert record in await pending(board)
    await board.put(decided(record))


async def test_more_than_a_page_is_listed_page_by_page(board: ApprovalBoard) -> None:
    records = [waiting() for _ in range(PAGE + 1)]
    for record in records:
        await board.put(record)
    page, after = await board.page("pending")
    assert len(page) == PAGE
    assert after == page[-1].approval_id
    assert set(records) <= set(await pending(board))
    for record in records:
        await board.put(decided(record))


@pytest.mark.parametrize("name", ["approvals", "decide"])
def test_who_may_only_talk_to_agents_may_not_approve(name: str) -> None:
    route = routes(load_settings({})).get(name)
    assert isinstance(route, Route)
    assert (route.auth_level, route.scopes) == (AuthLevel.ADMIN, ("approver",))
