"""Measures one system, in an interpreter that has it: `python -m benchmarks.peers.measure ADAPTER [turns|first]`.

Prints one line of JSON. Standard library only. Each reply is compared, and the tool's runs are counted.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from statistics import median

from benchmarks.peers.contract import REPLIES, TEXT, TOOL, Adapter

BATCHES = 7
AT_ONCE = 64


def load(name: str) -> Adapter:
    """The adapter of that name."""
    adapter: Adapter = importlib.import_module(f"benchmarks.peers.adapters.{name}").Peer()
    return adapter


async def turns(adapter: Adapter, text: str, count: int) -> None:
    """So many turns one after the other, each checked."""
    before = adapter.tool_runs
    for _ in range(count):
        reply = await adapter.turn(text)
        if reply != REPLIES[text]:
            raise AssertionError(f"the reply to {text!r} is {reply!r}")
    expected = count if text == TOOL else 0
    if adapter.tool_runs - before != expected:
        raise AssertionError(f"{adapter.tool_runs - before} tool runs in {count} turns with {text!r}")


async def at_once(adapter: Adapter, each: int) -> float:
    """Text turns per second over 64 conversations at once."""
    began = time.perf_counter()
    await asyncio.gather(*(turns(adapter, TEXT, each) for _ in range(AT_ONCE)))
    return AT_ONCE * each / (time.perf_counter() - began)


async def sized(run: Callable[[int], Awaitable[None]], seconds: float) -> int:
    """How often something can be done in that time, at least once."""
    count = 1
    while True:
        began = time.perf_counter()
        await run(count)
        took = time.perf_counter() - began
        if took > seconds / 8:
            return max(1, round(count * seconds / took))
        count *= 2


async def cpu_and_wall(adapter: Adapter, text: str, seconds: float) -> tuple[float, float]:
    """CPU and wall microseconds of a turn: medians of the batches."""

    async def run(count: int) -> None:
        await turns(adapter, text, count)

    count = await sized(run, seconds)
    figures = []
    for _ in range(BATCHES):
        gc.collect()
        used, began = time.process_time(), time.perf_counter()
        await run(count)
        figures.append(((time.process_time() - used) / count * 1e6, (time.perf_counter() - began) / count * 1e6))
    return median(cpu for cpu, _ in figures), median(wall for _, wall in figures)


def yardstick() -> float:
    """CPU milliseconds of a fixed piece of plain Python: how fast this machine is at this moment."""
    used = time.process_time()
    total = 0
    for number in range(300_000):
        total += number & 7
    return (time.process_time() - used) * 1e3


def creation(adapter: Adapter, agents: int) -> tuple[float, float]:
    """CPU microseconds and KiB of heap for one agent, while all of them live."""
    adapter.create()
    figures = []
    for _ in range(3):
        gc.collect()
        used = time.process_time()
        kept = [adapter.create() for _ in range(agents)]
        figures.append((time.process_time() - used) / agents * 1e6)
        del kept
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [adapter.create() for _ in range(agents)]
        gc.collect()
        heap = (tracemalloc.get_traced_memory()[0] - before) / agents / 1024
    finally:
        tracemalloc.stop()
    assert len(kept) == agents
    return median(figures), heap


async def measure(name: str, seconds: float, agents: int) -> dict[str, float | None]:
    """All figures of one process."""
    adapter = load(name)
    await adapter.open()
    try:
        before = yardstick()
        text_cpu, text_wall = await cpu_and_wall(adapter, TEXT, seconds)
        tool_cpu, tool_wall = await cpu_and_wall(adapter, TOOL, seconds)
        each = max(1, round(seconds * 2e6 / text_wall / AT_ONCE))
        rates = [await at_once(adapter, each) for _ in range(3)]
        created, heap = creation(adapter, agents) if adapter.keeps_agents else (None, None)
        return {
            "text_cpu_us": text_cpu,
            "text_wall_us": text_wall,
            "tool_cpu_us": tool_cpu,
            "tool_wall_us": tool_wall,
            "turns_per_second": median(rates),
            "create_us": created,
            "heap_kib": heap,
            "yardstick_ms": median([before, yardstick()]),
        }
    finally:
        await adapter.close()


async def first(name: str) -> None:
    """One text turn, said as soon as it is answered."""
    adapter = load(name)
    await adapter.open()
    await turns(adapter, TEXT, 1)
    print("answered", flush=True)
    await adapter.close()


def main() -> None:
    """The command line: adapter, what to measure, seconds of a batch, agents to create."""
    name, what = sys.argv[1], sys.argv[2]
    if what == "first":
        asyncio.run(first(name))
        return
    seconds, agents = float(sys.argv[3]), int(sys.argv[4])
    print(json.dumps(asyncio.run(measure(name, seconds, agents))))


if __name__ == "__main__":
    main()
