"""`make bench`: what the kernel costs around the model. Figures are of this machine and this run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Table

from aos.registry.agents import parse_agents
from benchmarks.threads import share_of_create_and_process
from benchmarks.tools import at_rest, round_trips
from benchmarks.world import World
from tests.publish.staging import stage

ROUNDS, TURNS = 9, 2000


def cpu_per_turn(text: str) -> float:
    """CPU microseconds of a turn, one after the other, each in its own conversation: the median of the rounds."""

    async def measure() -> list[float]:
        world = World()
        for number in range(200):
            await world.turn(f"warm{number}", text)
        figures = []
        for round_number in range(ROUNDS):
            began = time.process_time()
            for number in range(TURNS):
                await world.turn(f"{round_number}.{number}", text)
            figures.append((time.process_time() - began) / TURNS * 1e6)
        expected = (200 + ROUNDS * TURNS) if text.startswith("tool") else 0
        assert world.tools.runs == expected, "each tool call is made exactly once"
        return figures

    return median(asyncio.run(measure()))


def turns_per_second(conversations: int) -> float:
    """Text turns per second over so many conversations at once."""

    async def measure() -> float:
        world = World()

        async def talk(number: int) -> None:
            for _ in range(200):
                await world.turn(str(number), "hello")

        began = time.perf_counter()
        await asyncio.gather(*map(talk, range(conversations)))
        return conversations * 200 / (time.perf_counter() - began)

    return median(asyncio.run(measure()) for _ in range(3))


def import_ms(module: str) -> float:
    """What importing a module adds to a bare interpreter, in milliseconds."""

    def run(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    bare = median(run("pass") for _ in range(7))
    return (median(run(f"import {module}") for _ in range(7)) - bare) * 1e3


def registry_ms(entries: int) -> float:
    """Parsing a registry of so many agents, in milliseconds."""
    sample = json.loads(Path("agent_registry.json").read_text())["agents"][0]
    agents = [{**sample, "agent_id": f"agent-{number}"} for number in range(entries)]
    document = json.dumps({"version": "1.0", "agents": agents}).encode()
    figures = []
    for _ in range(5):
        began = time.perf_counter()
        assert len(parse_agents(document).entries) == entries
        figures.append((time.perf_counter() - began) * 1e3)
    return median(figures)


def package_kib() -> float:
    """What `func azure functionapp publish` uploads, in KiB; requirements are installed in Azure."""
    with tempfile.TemporaryDirectory() as folder:
        return stage(Path(folder)) / 1024


def main() -> None:
    """Measures, then prints one table."""
    work: list[tuple[str, str, Callable[[], float], str]] = [
        ("text turn, stores in memory", "CPU us", lambda: cpu_per_turn("hello"), "<= 60"),
        ("turn with one tool call, stores in memory", "CPU us", lambda: cpu_per_turn("tool"), "<= 150"),
        ("text turns at 64 conversations", "turns/s", lambda: turns_per_second(64), ">= 15,000"),
        (
            "turn with one tool call on threads, model of 200 ms",
            "of create_and_process",
            lambda: asyncio.run(share_of_create_and_process()),
            "<= 0.3",
        ),
        ("tool call over the bus, p50", "ms", lambda: round_trips().tool_p50, ""),
        (
            "tool call over the bus, p50, its ratio",
            "of bare request and reply",
            lambda: round_trips().ratio_p50,
            "<= 1.5",
        ),
        (
            "the same tool called by the two SDKs alone, p50, its ratio",
            "of bare request and reply",
            lambda: round_trips().floor_p50,
            "",
        ),
        (
            "tool call over the bus, p99, its ratio",
            "of bare request and reply",
            lambda: round_trips().tool_p99 / round_trips().bare_p99,
            "<= 1.5",
        ),
        ("tool calls over the bus, 64 under way", "calls/s", lambda: round_trips().tool_rate, ""),
        ("bare requests and replies, 64 under way", "calls/s", lambda: round_trips().bare_rate, ""),
        ("100 MCP servers at rest", "% of a core", lambda: at_rest().cpu, ""),
        ("100 MCP servers at rest, each, in our process", "KiB", lambda: at_rest().kib, ""),
        ("import aos", "ms", lambda: import_ms("aos"), "<= 60"),
        ("import aos.app (routes, no SDK)", "ms", lambda: import_ms("aos.app"), ""),
        ("import function_app, process start to indexed routes", "ms", lambda: import_ms("function_app"), "<= 1,000"),
        ("package that publishing uploads, zipped", "KiB", package_kib, "<= 1,024"),
        ("registry of 1,000 agents parsed", "ms", lambda: registry_ms(1000), "<= 100"),
    ]
    table = Table(title="AOS around the model", title_justify="left")
    for column, justify in (("what", "left"), ("measured", "right"), ("unit", "left"), ("target", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich types it as a literal
    for what, unit, measure, target in track(work, description="measuring", transient=True):
        table.add_row(what, f"{measure():,.2f}" if "of " in unit else f"{measure():,.1f}", unit, target)
    Console().print(table)


if __name__ == "__main__":
    main()
