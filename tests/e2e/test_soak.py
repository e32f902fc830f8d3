"""Thousands of turns on one host: its memory stays flat."""

from __future__ import annotations

import asyncio
import json
import statistics
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.harness import World, world

WARM_UP = 300
WINDOWS = 3
TURNS = 600
"""In each window."""
AT_ONCE = 12
SAMPLE_EVERY = 50
MOST_GROWTH = 1500.0
"""Bytes of resident memory a turn. For a while it grows by some 600: the parser of JSON keeps 16,384 short strings.
A message and an operation that are kept cost 1,200 more, what waits for them not counted."""


@pytest_asyncio.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    state: Path = tmp_path_factory.mktemp("soak")
    async with world(state) as running:
        yield running


def host(leash: int) -> int:
    """The host below its leash."""
    (found,) = Path(f"/proc/{leash}/task/{leash}/children").read_text().split()
    return int(found)


def resident(pid: int) -> int:
    """Bytes of memory."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def growth(window: Sequence[tuple[int, int]]) -> float:
    """Bytes a turn, of samples (turns, bytes)."""
    turns, sizes = zip(*window, strict=True)
    return statistics.linear_regression(turns, sizes).slope


async def turns(own: World, count: int, call: str, pid: int) -> list[tuple[int, int]]:
    """Turns with a tool call each; every fourth names its conversation, which seven others do, too."""
    left, done, samples = iter(range(count)), 0, [(0, resident(pid))]
    group = uuid.uuid4().hex[:8]

    async def ask() -> None:
        nonlocal done
        for number in left:
            named = {} if number % 4 else {"conversation_id": f"soak-{group}-{number // 32}"}
            body = await own.app.ask("cfo", f"{call}\n@say {number}", **named)
            assert body["reply"] == str(number), body
            done += 1
            if done % SAMPLE_EVERY == 0:
                samples.append((done, resident(pid)))

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return samples


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of processes from /proc")
async def test_memory_stays_flat_over_thousands_of_turns(own: World) -> None:
    names = (await own.app.http.get("agents/cfo/status")).json()["tools"]
    tool = next(name for name in names if name.endswith("get_kpis"))
    call = f"@tool {tool} {json.dumps({'year': 2025, 'quarter': 3})}"
    assert own.app.child.pid is not None
    pid = await asyncio.to_thread(host, own.app.child.pid)
    warm = await turns(own, WARM_UP, call, pid)
    windows = [await turns(own, TURNS, call, pid) for _ in range(WINDOWS)]
    slopes = [growth(window) for window in windows]
    shown = ", ".join(f"{slope:+.0f}" for slope in slopes)
    print(
        f"\n{WINDOWS} times {TURNS} turns with a tool call: {warm[-1][1] / 2**20:.1f} MiB after {WARM_UP} turns,"
        f" {windows[-1][-1][1] / 2**20:.1f} MiB at the end; bytes a turn: {shown}"
    )
    # What a timer loads at its first run lies in one window; what turns leave behind lies in all of them.
    assert min(slopes) < MOST_GROWTH, windows


@pytest.mark.parametrize("kept", [600.0, 1800.0])
def test_what_every_turn_leaves_is_in_every_window_and_what_is_loaded_once_is_not(kept: float) -> None:
    """What the soak rests on."""
    loaded = 6 * 2**20
    sizes = [int(turn * kept) + (loaded if turn >= 700 else 0) for turn in range(0, WINDOWS * TURNS + 1, SAMPLE_EVERY)]
    every = TURNS // SAMPLE_EVERY
    windows = [[(at * SAMPLE_EVERY, sizes[start * every + at]) for at in range(every + 1)] for start in range(WINDOWS)]
    assert (min(growth(window) for window in windows) < MOST_GROWTH) == (kept == 600.0)
