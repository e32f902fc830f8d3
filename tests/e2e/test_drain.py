"""SIGTERM: a host ends within its grace, leaves no child behind, and its turns end here or elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.faults import LOCKS, QUICK
from tests.e2e.harness import GRACE, PATIENCE, App, World, world

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


@pytest_asyncio.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A running AOS that may be stopped."""
    state: Path = tmp_path_factory.mktemp("drain")
    async with world(state, QUICK, bus_locks=LOCKS) as running:
        yield running


def family(pid: int) -> dict[int, str]:
    """The process and all below it, with their commands."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    found: dict[int, str] = {}
    for line in listed.stdout.splitlines():
        number, parent, command = line.split(None, 2)
        if int(number) == pid or int(parent) in found:
            found[int(number)] = command
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def serving(own: World) -> None:
    """Returns when the host has started the server that its tools are of.

    Turns of the test before may have ended without it: their calls were made by the process before.
    """
    assert own.app.child.pid is not None
    async with asyncio.timeout(PATIENCE):
        while True:
            processes = await asyncio.to_thread(family, own.app.child.pid)
            if any("-m examples.company_ledger" in command for command in processes.values()):
                return
            await asyncio.sleep(0.1)


async def terminated(own: World) -> tuple[int, float, list[str]]:
    """Sends SIGTERM; the exit status, how long it took, and what outlived it."""
    assert own.app.child.pid is not None
    processes = await asyncio.to_thread(family, own.app.child.pid)
    assert any("-m examples.company_ledger" in command for command in processes.values()), processes
    start = time.monotonic()
    own.app.child.send_signal(signal.SIGTERM)
    status = await asyncio.wait_for(own.app.child.wait(), GRACE)
    return status, time.monotonic() - start, [command for pid, command in processes.items() if alive(pid)]


async def test_turns_that_are_in_work_at_sigterm_end_and_no_process_is_left(own: World) -> None:
    await serving(own)
    tool = next(
        name for name in (await own.app.http.get("agents/cfo/status")).json()["tools"] if name.endswith("get_kpis")
    )
    call = json.dumps({"year": 2025, "quarter": 3})
    operations = []
    for number in range(6):
        accepted = await own.app.http.post(
            "agents/cfo",
            json={"message": f"@tool {tool} {call}\n@say {number}", "timeout_seconds": 0},
            headers={"Idempotency-Key": uuid.uuid4().hex},
        )
        operations.append(accepted.json()["operation_id"])
    status, seconds, left = await terminated(own)
    assert (status, left) == (0, [])
    assert seconds < GRACE
    await own.app.restart()
    for number, operation_id in enumerate(operations):
        body = await own.app.until(f"operations/{operation_id}", lambda body: body.get("status") == "completed")
        assert body["reply"] == str(number)
        assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]


async def test_a_writing_call_that_is_in_work_at_sigterm_is_made_once(own: World) -> None:
    await serving(own)
    names = (await own.app.http.get("agents/cfo/status")).json()["tools"]
    tool = next(name for name in names if name.endswith("record_transaction"))
    entry = {"account": "6400", "amount": 250, "description": f"mark {uuid.uuid4().hex}", "date": "2025-11-03"}
    accepted = await own.app.http.post(
        "agents/cfo", json={"message": f"@tool {tool} {json.dumps(entry)}\n@say booked", "timeout_seconds": 0}
    )
    status, _, left = await terminated(own)
    assert (status, left) == (0, [])
    await own.app.restart()
    path = f"operations/{accepted.json()['operation_id']}"
    body = await own.app.until(path, lambda body: body.get("status") == "completed")
    assert body["reply"] == "booked"
    assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]
    # A drained process ends its calls: their outcome is known.
    assert await asyncio.to_thread(booked, own, entry["description"]) == 1


async def test_another_host_ends_what_a_drained_one_of_both_roles_leaves(own: World) -> None:
    await serving(own)
    names = (await own.app.http.get("agents/cfo/status")).json()["tools"]
    tool = next(name for name in names if name.endswith("record_transaction"))
    second = App({**own.stack.environment, **QUICK}, own.app.folder, "second")
    try:
        await second.start()
        await second.ready("cfo")
        operations: dict[str, str] = {}
        for _ in range(6):
            mark = f"mark {uuid.uuid4().hex}"
            entry = {"account": "6400", "amount": 250, "description": mark, "date": "2025-11-03"}
            message = f"@tool {tool} {json.dumps(entry)}\n@say {mark}"
            accepted = await own.app.http.post("agents/cfo", json={"message": message, "timeout_seconds": 0})
            operations[accepted.json()["operation_id"]] = mark
        status, _, left = await terminated(own)
        assert (status, left) == (0, [])
        for operation_id, mark in operations.items():
            path = f"operations/{operation_id}"
            body = await second.until(path, lambda body: body.get("status") in ("completed", "failed"))
            assert (body.get("error"), body["reply"]) == (None, mark)
            assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]
            assert await asyncio.to_thread(booked, own, mark) == 1
    finally:
        await second.stop()
        await second.http.aclose()
    await own.app.restart()


def booked(own: World, mark: object) -> int:
    with closing(sqlite3.connect(own.state / "ledger.db")) as ledger:
        (count,) = ledger.execute("SELECT count(*) FROM transactions WHERE description = ?", (mark,)).fetchone()
    return int(count)
