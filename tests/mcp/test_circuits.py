"""MCP servers whose calls die or hang are left alone for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aos.kernel.breaker import FIRST_PAUSE, THRESHOLD, Trip
from aos.kernel.clock import SystemClock
from aos.mcp.circuits import KIND, ServerCircuits, breaker_view
from aos.mcp.errors import (
    OutcomeUnknown,
    RequestFailed,
    ServerDied,
    ServerRefused,
    ServerReplyInvalid,
    ServerUnavailable,
    ToolTimeout,
)
from tests.mcp.conftest import Connect, let_end, server_entry, written


class ManualClock:
    time = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a circuit never waits")


class Board:
    def __init__(self) -> None:
        self.trips: list[Trip] = []

    async def put(self, trip: Trip) -> None:
        self.trips.append(trip)

    async def all(self) -> Sequence[Trip]:
        return self.trips


def failing(circuits: ServerCircuits, error: RequestFailed, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(type(error)), circuits.guard("files"):
            raise error


async def test_a_status_says_how_its_circuit_stands() -> None:
    clock, board = ManualClock(), Board()
    circuits = ServerCircuits(clock, board)
    closed = {"state": "closed", "failures": 0, "retry_after_seconds": 0}
    assert breaker_view(None, clock.now()) == closed
    failing(circuits, ServerDied("It is gone."), THRESHOLD)
    await circuits.close()
    told = board.trips[-1]
    assert told.name == f"{KIND} files"
    opened = {"state": "open", "failures": THRESHOLD, "retry_after_seconds": FIRST_PAUSE, "reason": "It is gone."}
    assert breaker_view(told, clock.now()) == opened
    assert breaker_view(told, clock.now() + FIRST_PAUSE + 1)["state"] == "half_open"
    clock.time += FIRST_PAUSE + 1
    with circuits.guard("files"):
        pass
    await circuits.close()
    assert breaker_view(board.trips[-1], clock.now()) == closed


async def test_a_server_that_is_busy_is_not_left_alone(connect: Connect, tmp_path: Path) -> None:
    limits = {"concurrent_calls": 1, "waiting_calls": 0}
    connection = connect(server_entry(metadata={"limits": limits}))
    circuits = ServerCircuits(SystemClock())

    async def called(tool: str, **params: float | str) -> None:
        with circuits.guard("workshop"):
            await connection.call_tool(tool, params, 60)

    await called("add", a=1, b=1)
    file = tmp_path / "notes"
    slow = asyncio.create_task(called("append_until", file=str(file), line="x"))
    await written(file)
    for _ in range(2 * THRESHOLD):
        with pytest.raises(ServerUnavailable, match="wait for MCP server workshop"):
            await called("add", a=1, b=1)
    circuits.require("workshop")
    let_end(file)
    await slow


async def test_calls_of_a_server_that_hangs_fail_at_once_until_one_tries_again() -> None:
    clock, board = ManualClock(), Board()
    circuits = ServerCircuits(clock, board)
    failing(circuits, ToolTimeout("No answer."), THRESHOLD - 1)
    circuits.require("files")
    failing(circuits, ServerDied("It is gone."))
    for attempt in (circuits.require, _call(circuits)):
        with pytest.raises(ServerUnavailable, match=r"files failed 5 times in a row.* It is gone") as refused:
            attempt("files")
        assert refused.value.retry_after == FIRST_PAUSE
    circuits.require("another server")
    clock.time += FIRST_PAUSE
    circuits.require("files")
    with circuits.guard("files"), pytest.raises(ServerUnavailable):
        _call(circuits)("files")
    circuits.require("files")
    await asyncio.sleep(0)
    await circuits.close()
    assert [(trip.name, trip.since is not None) for trip in board.trips] == [
        (f"{KIND} files", True),
        (f"{KIND} files", False),
    ]


def _call(circuits: ServerCircuits) -> Callable[[str], None]:
    def call(server_id: str) -> None:
        with circuits.guard(server_id):
            raise AssertionError("the call is not made")

    return call


def test_a_server_that_answers_is_not_left_alone() -> None:
    circuits = ServerCircuits(ManualClock())
    for answer in (ServerRefused("No.", -32603), ServerReplyInvalid("Not what its schema says.")):
        failing(circuits, ToolTimeout("No answer."), THRESHOLD - 1)
        failing(circuits, answer)
        failing(circuits, OutcomeUnknown("Nobody knows."), 2 * THRESHOLD)
        failing(circuits, ToolTimeout("No answer."), THRESHOLD - 1)
        failing(circuits, answer)
        circuits.require("files")
