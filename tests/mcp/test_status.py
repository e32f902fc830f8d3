from __future__ import annotations

import uuid
from typing import Any

import pytest

from aos.mcp.status import STALE, Desired, ServerStatus, ServerStatusBoard
from aos.storage.account import StorageAccount
from tests.mcp.conftest import ShiftedClock, StandingClock


@pytest.fixture
def clock() -> ShiftedClock:
    return StandingClock()


@pytest.fixture
def board(account: StorageAccount, clock: ShiftedClock) -> ServerStatusBoard:
    return ServerStatusBoard(account, clock)


@pytest.fixture
def server_id() -> str:
    return f"crm/{uuid.uuid4().hex}"


def status(server_id: str, clock: ShiftedClock, **changes: Any) -> ServerStatus:
    values = {"state": "running", "since": 1.0, "heartbeat_at": clock.now(), "owner": "one", **changes}
    return ServerStatus.model_validate({"server_id": server_id, "server_name": "CRM", **values})


async def seen(board: ServerStatusBoard, server_id: str) -> ServerStatus | None:
    return next((found for found in await board.all() if found.server_id == server_id), None)


async def test_what_is_written_is_read(board: ServerStatusBoard, clock: ShiftedClock, server_id: str) -> None:
    written = status(server_id, clock, tools=3, restarts=2, last_error="died")
    assert await board.write(written)
    assert await seen(board, server_id) == written
    await board.remove(server_id)
    await board.remove(server_id)
    assert await seen(board, server_id) is None


async def test_a_long_error_is_cut(board: ServerStatusBoard, clock: ShiftedClock, server_id: str) -> None:
    await board.write(status(server_id, clock, state="failed", last_error="x" * 100_000))
    found = await seen(board, server_id)
    assert found is not None
    assert found.last_error == "x" * 2000


async def test_without_a_heartbeat_nothing_runs(board: ServerStatusBoard, clock: ShiftedClock, server_id: str) -> None:
    written = status(server_id, clock)
    await board.write(written)
    clock.shift += STALE - 5
    found = await seen(board, server_id)
    assert found is not None
    assert found.running
    clock.shift += 10
    found = await seen(board, server_id)
    assert found is not None
    assert found.state == "stopped"
    assert found.since == written.heartbeat_at
    assert "last heard of" in str(found.last_error)


async def test_a_process_that_runs_it_outweighs_one_that_does_not(
    board: ServerStatusBoard, clock: ShiftedClock, server_id: str
) -> None:
    await board.write(status(server_id, clock))
    stopped = {"state": "stopped", "owner": "two"}
    assert not await board.write(status(server_id, clock, **stopped))
    clock.shift += STALE + 1
    assert await board.write(status(server_id, clock, **stopped))
    assert await board.write(status(server_id, clock, owner="two"))
    assert await board.write(status(server_id, clock, **stopped))


async def test_what_operators_ask_for(board: ServerStatusBoard, server_id: str) -> None:
    assert server_id not in await board.desired()
    await board.ask(server_id, stopped=True)
    assert (await board.desired())[server_id] == Desired(stopped=True)
    await board.ask(server_id, stopped=False, restart=True)
    await board.ask(server_id, stopped=False, restart=True)
    assert (await board.desired())[server_id] == Desired(stopped=False, restarts=2)
