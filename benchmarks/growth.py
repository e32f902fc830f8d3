"""`python -m benchmarks.growth`: what grows with agents, conversations, history, tools and sizes, and what must not.

The cost of a message must not grow with the number of agents or conversations. Figures are CPU of this process, one
model that answers at once; on Table storage (Azurite) they are whole turns, in wall time and in CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from aos.agents.directory import AgentDirectory
from aos.config import load_settings
from aos.kernel.clock import SystemClock
from aos.kernel.types import FunctionCall
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.functions import ToolSource, convert_mcp_tools_to_function_tools
from aos.mcp.tools import ToolInfo
from aos.messaging.bus import Outbound
from aos.registry.agents import parse_agents
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import parse_servers
from aos.registry.source import FileSource
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.payloads import STATE_CONTAINER, Payloads
from benchmarks.local import registry
from benchmarks.plot import figure, lines
from benchmarks.tools import ROOT
from benchmarks.world import InstantModel, World
from emulators.azurite import Azurite
from emulators.settings import load_settings as stack_settings

Points = list[tuple[float, float]]
Series = dict[str, Points]
REPEATS = 5


def sizes(largest: int, step: int = 10) -> list[int]:
    """1, 10, 100 ... up to the largest, which is one of them."""
    found, size = [], 1
    while size < largest:
        found.append(size)
        size *= step
    return [*found, largest]


async def cpu_us(work: Callable[[], Awaitable[object]], times: int) -> float:
    """CPU microseconds of one of them: the median of five batches."""
    await work()
    figures = []
    for _ in range(REPEATS):
        gc.collect()
        used = time.process_time()
        for _ in range(times):
            await work()
        figures.append((time.process_time() - used) / times * 1e6)
    return median(figures)


class Known(InstantModel):
    """Has every agent already."""

    async def look_up_agents(self, agent_ids: Collection[str]) -> frozenset[str]:
        return frozenset(agent_ids)


async def _nothing(messages: Sequence[Outbound]) -> None:
    return


async def agents(largest: int, turns: int = 300) -> Series:
    """A registry of so many agents: read and bound, in memory, and so many turns of one of them."""
    start: Points = []
    again: Points = []
    turn: Points = []
    heap: Points = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "servers.json").write_text('{"version": "1.0", "servers": []}')
        for number in sizes(largest):
            (folder / "agents.json").write_bytes(registry(number, tools=False))
            account = StorageAccount(load_settings({}))

            def build(account: StorageAccount = account) -> AgentDirectory:
                return AgentDirectory(
                    LiveRegistry(FileSource(folder / "agents.json"), parse_agents, SystemClock()),
                    LiveRegistry(FileSource(folder / "servers.json"), parse_servers, SystemClock()),
                    ToolCatalogue(account, Payloads(account, STATE_CONTAINER)),
                    Known(),
                    _nothing,
                    "llama-3.3-70b",
                )

            gc.collect()
            tracemalloc.start()
            weighed = build()
            await _reconcile(weighed)
            gc.collect()
            heap.append((number, tracemalloc.get_traced_memory()[0] / 1024 / number))
            tracemalloc.stop()
            del weighed

            directory = build()
            used = time.process_time()
            await _reconcile(directory)
            start.append((number, (time.process_time() - used) * 1e6 / number))
            used = time.process_time()
            await _reconcile(directory)
            again.append((number, (time.process_time() - used) * 1e6 / number))
            world = World(agents=directory)
            last = "bench" if number == 1 else f"bench-{number - 1}"

            async def one(world: World = world, last: str = last) -> None:
                await world.turn(uuid.uuid4().hex, "hello", agent_id=last)

            turn.append((number, await cpu_us(one, turns)))
            await account.close()
    return {
        "a message, us": turn,
        "start, us per agent": start,
        "reconcile without change, us per agent": again,
        "heap, KiB per agent": heap,
    }


async def _reconcile(directory: AgentDirectory) -> None:
    await directory.reload()
    enabled = (await directory.registry()).enabled
    await directory.look_up([entry.agent_id for entry in enabled])
    for entry in enabled:
        await directory.bind(entry.agent_id)


async def conversations(largest: int) -> Series:
    """So many conversations that talk at once: CPU of a turn."""
    points: Points = []
    for number in sizes(largest):
        figures = []
        for _ in range(3):
            world = World()
            each = max(2, 1000 // number)

            async def talk(name: int, world: World = world, each: int = each) -> None:
                for _ in range(each):
                    await world.turn(str(name), "hello")

            gc.collect()
            used = time.process_time()
            await asyncio.gather(*map(talk, range(number)))
            figures.append((time.process_time() - used) / number / each * 1e6)
        points.append((number, median(figures)))
    return {"a message, us": points}


def tools(largest: int) -> Series:
    """An agent of so many tools: made ready, and one call looked up and checked."""
    made: Points = []
    planned: Points = []
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    for number in sizes(largest, 2):
        sources = [
            ToolSource("bench", ToolInfo(name=f"echo{index}", description="Echoes.", input_schema=schema), 30.0)
            for index in range(number)
        ]
        used = time.process_time()
        for _ in range(20):
            functions = convert_mcp_tools_to_function_tools(sources)
        made.append((number, (time.process_time() - used) / 20 * 1e6))
        call = FunctionCall("call_1", functions.names[-1], '{"text": "hi"}')
        assert functions.plan(call).refusal is None
        used = time.process_time()
        for _ in range(2000):
            functions.plan(call)
        planned.append((number, (time.process_time() - used) / 2000 * 1e6))
    return {"agent made ready, us": made, "a call checked, us": planned}


async def sizes_of_messages(largest: int) -> Series:
    """Messages of so many bytes."""
    points: Points = []
    for size in [size for size in sizes(largest) if size >= 1000]:
        world, text = World(), "x" * size

        async def one(world: World = world, text: str = text) -> None:
            await world.turn(uuid.uuid4().hex, text)

        points.append((size, await cpu_us(one, 100)))
    return {"a message in memory, us": points}


@asynccontextmanager
async def stored() -> AsyncIterator[World]:
    """A world on Table storage."""
    installed = stack_settings()
    with tempfile.TemporaryDirectory() as folder:
        async with Azurite(
            state_dir=Path(folder), install_dir=(installed.azurite_dir or installed.state_dir).absolute()
        ) as azurite:
            account = StorageAccount(load_settings({"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}))
            try:
                yield World(TableConversations(account, Payloads(account, STATE_CONTAINER)))
            finally:
                await account.close()


async def on_storage(history: int, largest: int) -> tuple[Series, Series]:
    """Turns after a history of so many messages, and with messages of so many bytes, on Table storage."""
    numbers, bytes_of = sizes(history), [size for size in sizes(largest) if size >= 1000]
    async with stored() as world:

        async def timed(text: str, conversation: str) -> tuple[float, float]:
            began, used = time.perf_counter(), time.process_time()
            await world.turn(conversation, text)
            return (time.perf_counter() - began) * 1e6, (time.process_time() - used) * 1e6

        for number in numbers:
            for _ in range(number):
                await world.turn(f"history-{number}", "hello")
        # By turns, so that what else the machine does meets all of them.
        after: dict[int, list[tuple[float, float]]] = {number: [] for number in numbers}
        large: dict[int, list[tuple[float, float]]] = {size: [] for size in bytes_of}
        for _ in range(3 * REPEATS):
            for number, taken in after.items():
                taken.append(await timed("hello", f"history-{number}"))
            for size, taken in large.items():
                taken.append(await timed("x" * size, uuid.uuid4().hex))
    return (_medians("a message", after), _medians("a message on Table storage", large))


def _medians(what: str, taken: Mapping[int, Sequence[tuple[float, float]]]) -> Series:
    return {
        f"{what}, us of {clock}": [(number, median([took[index] for took in found])) for number, found in taken.items()]
        for index, clock in enumerate(("wall time", "CPU"))
    }


async def measure(scale: float) -> dict[str, tuple[str, Series]]:
    """All series; the largest of each is scaled down for a quick look."""
    by_agents = await agents(max(2, int(10_000 * scale)))
    at_once = await conversations(max(2, int(1000 * scale)))
    history, by_size = await on_storage(max(2, int(1000 * scale)), max(2000, int(1_000_000 * scale)))
    return {
        "agents": ("agents in the registry", by_agents),
        "conversations": ("conversations at once", at_once),
        "history": ("messages before this one", history),
        "tools": ("tools of the agent", tools(max(2, int(128 * scale)))),
        "sizes": (
            "bytes of the message",
            await sizes_of_messages(max(2000, int(1_000_000 * scale))) | by_size,
        ),
    }


TITLES = {
    "agents": "More agents",
    "conversations": "More conversations at once",
    "history": "A longer history, on Table storage",
    "tools": "More tools",
    "sizes": "Larger messages",
}


def main() -> None:
    """Measures, prints the tables, writes `growth.json` and a plot each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the largest numbers, for a quick look")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--plots", type=Path, help="folder of the plots; default: beside growth.json")
    given, console = parser.parse_args(), Console()
    found = asyncio.run(measure(given.scale))
    plots = given.plots or given.out
    for folder in (given.out, plots):
        folder.mkdir(parents=True, exist_ok=True)
    for name, (across, series) in found.items():
        table = Table(title=TITLES[name], title_justify="left")
        table.add_column(across, justify="right")
        for what in series:
            table.add_column(what, justify="right")
        by_number = [dict(points) for points in series.values()]
        for number in sorted({number for points in by_number for number in points}):
            cells = [figure(points[number]) if number in points else "" for points in by_number]
            table.add_row(f"{number:,.0f}", *cells)
        console.print(table)
        (plots / f"growth-{name}.svg").write_text(lines(TITLES[name], across, "cost", series))
    document = {
        "load": os.getloadavg(),
        "cores": os.cpu_count(),
        "series": {name: {"across": across, **series} for name, (across, series) in found.items()},
    }
    (given.out / "growth.json").write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written: {given.out}/growth.json, {plots}/growth-*.svg", highlight=False)


if __name__ == "__main__":
    main()
