"""`python -m benchmarks.wire`: turns over the wire beside their floor, by turns in one run, and where the time goes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from azure.servicebus.aio import ServiceBusClient
from rich.console import Console
from rich.table import Table

from benchmarks.floor import floor
from benchmarks.local import AGENT, BARE, BARE_REPLIES, Local, local
from benchmarks.operations import REPLIES, TEXT, WITH_TOOL, BusCaller, PerTurn, operations
from benchmarks.tools import ROOT, Caller
from emulators.child import Child
from emulators.ports import settle

Turn = Callable[[], Awaitable[None]]


async def first_text(world: Local) -> float:
    """Seconds until the first piece of text of a streamed turn; it is read to its end."""
    began, first = time.perf_counter(), 0.0
    events = {"Accept": "text/event-stream"}
    body = {"message": TEXT, "conversation_id": "streamed"}
    ended = False
    async with world.http.stream("POST", f"agents/{AGENT}", json=body, headers=events) as answer:
        async for line in answer.aiter_lines():
            if line == "event: delta" and not first:
                first = time.perf_counter() - began
            ended = ended or line == "event: completed"
    assert first, "no text was streamed"
    assert ended, "the turn did not complete"
    return first


async def timed(turn: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await turn()
    return time.perf_counter() - began


async def wire(rounds: int, turns: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of AOS and of the floor by kind of turn: medians of the rounds' medians."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = await stack.enter_async_context(local(folder))
        environment = {**os.environ, **world.environment, "PYTHONPATH": str(ROOT)}
        port = settle({"BENCH_PORT": ("the bare server", 0)})["BENCH_PORT"]
        for name, command in {
            "bare-http": ("benchmarks.bare_http", str(port)),
            "responder": ("benchmarks.bare_responder", BARE, "bench", BARE_REPLIES),
        }.items():
            child = Child(name, [sys.executable, "-m", *command], env=environment, log=folder / f"{name}.log")
            ready = child.line("ready")
            await child.start()
            stack.push_async_callback(child.stop)
            await child.ready(ready, 30)
        bus = await stack.enter_async_context(
            ServiceBusClient.from_connection_string(world.environment["AZURE_SERVICE_BUS_CONNECTION_STRING"])
        )
        caller = BusCaller(
            await stack.enter_async_context(bus.get_topic_sender("agent-events")),
            await stack.enter_async_context(bus.get_queue_receiver(REPLIES)),
        )
        bare = Caller(
            await stack.enter_async_context(bus.get_topic_sender(BARE)),
            await stack.enter_async_context(bus.get_queue_receiver(BARE_REPLIES)),
            "bare",
        )
        agent = (await world.http.get(f"agents/{AGENT}/status")).json()["foundry_agent_id"]
        raw = await stack.enter_async_context(floor(world.environment, f"http://127.0.0.1:{port}", bare, agent))
        pairs: dict[str, tuple[Callable[[], Awaitable[float]], Callable[[], Awaitable[float]]]] = {
            "HTTP turn": (
                lambda: timed(lambda: world.ask(TEXT, conversation_id="kept")),
                lambda: timed(lambda: raw.http_turn(TEXT)),
            ),
            "HTTP turn with a tool": (
                lambda: timed(lambda: world.ask(WITH_TOOL, conversation_id="tools")),
                lambda: timed(lambda: raw.tool_turn(WITH_TOOL)),
            ),
            "bus turn": (lambda: timed(lambda: caller.turn(TEXT)), lambda: timed(lambda: raw.bus_turn(TEXT))),
            "first text of a stream": (
                lambda: first_text(world),
                lambda: raw.first_text(TEXT),
            ),
        }
        found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
        for number in range(rounds + 1):
            for name, sides in pairs.items():
                for figures, side in zip(found[name], sides, strict=True):
                    taken = [await side() * 1e3 for _ in range(turns)]
                    if number:  # the first round warms up
                        figures.append(median(taken))
    return {name: (median(ours), median(theirs)) for name, (ours, theirs) in found.items()}


def tables(measured: dict[str, tuple[float, float]], counted: dict[str, PerTurn]) -> list[Table]:
    """Latency beside its floor, and what a turn asks of its neighbours."""
    latency = Table(title="Over the wire, model instantaneous, one client", title_justify="left")
    for column in ("turn", "AOS p50 ms", "floor p50 ms", "ratio", "target"):
        latency.add_column(column, justify="left" if column == "turn" else "right")
    for name, (ours, theirs) in measured.items():
        latency.add_row(name, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}", "<= 1.3")
    stages = Table(title="What a turn asks of its neighbours, and how long they take", title_justify="left")
    for column in (
        "turn", "Table\nrequests", "entities in\ntransactions", "blob\nrequests", "Foundry\nrequests", "bus\nsent",
        "bus\nreceived", "Tables\nms", "Foundry\nms", "whole turn\nms",
    ):  # fmt: skip
        stages.add_column(column, justify="left" if column == "turn" else "right")
    for name, one in counted.items():
        stages.add_row(
            name,
            *(
                f"{value:.1f}"
                for value in (
                    one.table_requests,
                    one.table_entities,
                    one.blob_requests,
                    one.foundry_requests,
                    one.bus_sent,
                    one.bus_received,
                    one.table_ms,
                    one.foundry_ms,
                    one.wall_ms,
                )
            ),
        )
    return [latency, stages]


def main() -> None:
    """Measures, prints both tables and writes `wire.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=20, help="per round and kind")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    given, console = parser.parse_args(), Console()
    if not console.is_terminal:
        console.width = 140
    measured = asyncio.run(wire(given.rounds, given.turns))
    counted = asyncio.run(operations(given.turns))
    for table in tables(measured, counted):
        console.print(table)
    given.out.mkdir(parents=True, exist_ok=True)
    document = {
        "load": os.getloadavg(),
        "cores": os.cpu_count(),
        "turns": {
            name: {"aos_ms": ours, "floor_ms": theirs, "ratio": ours / theirs}
            for name, (ours, theirs) in measured.items()
        },
        "per_turn": {name: asdict(one) for name, one in counted.items()},
    }
    (given.out / "wire.json").write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written: {given.out}/wire.json", highlight=False)


if __name__ == "__main__":
    main()
