"""`make bench-peers`: AOS and other agent frameworks in one session, by turns, on one scripted model and one tool."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.peers.environments import ROOT, Missing, interpreter
from benchmarks.peers.systems import SYSTEMS, System
from benchmarks.plot import bars, figure
from emulators.azurite import Azurite
from emulators.settings import load_settings

Figures = dict[str, float | None]
COLUMNS = (
    ("text_cpu_us", "text turn\nCPU us"),
    ("tool_cpu_us", "with a tool\nCPU us"),
    ("turns_per_second", "turns/s\n64 at once"),
    ("create_us", "agent made\nCPU us"),
    ("heap_kib", "agent heap\nKiB"),
    ("import_ms", "import\nms"),
    ("first_ms", "first answer\nof a process ms"),
)
LONGEST_SECONDS = 600
"""Of one measurement of one system; it takes about ten."""


def say(console: Console, text: str) -> None:
    console.print(text, style="dim", highlight=False)


class Runner:
    """Runs measurements in the systems' interpreters.

    Args:
        storage: Connection string for those that need storage.
        seconds: Of one batch of turns.
        agents: To create.
    """

    def __init__(self, storage: str, seconds: float, agents: int) -> None:
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "AZURE"))},
            "PYTHONPATH": str(ROOT),
            "BENCH_STORAGE": storage,
            # What a library asks for before it runs without a key, or sends abroad unless told not to.
            "OPENAI_API_KEY": "unused",
            "LANGSMITH_TRACING": "false",
            "AGNO_TELEMETRY": "false",
        }
        self._seconds = seconds
        self._agents = agents

    def round(self, system: System, python: str) -> Figures:
        """One process with all turns, one that answers once, and imports."""
        adapter = ["-m", "benchmarks.peers.measure", system.adapter]
        said = self._run(python, *adapter, "turns", str(self._seconds), str(self._agents))
        figures: Figures = json.loads(said.splitlines()[-1])
        bare = min(self._wall(python, "-c", "pass") for _ in range(3))
        figures["import_ms"] = (self._wall(python, "-c", system.imports) - bare) * 1e3
        figures["first_ms"] = self._first(python, *adapter, "first") * 1e3
        return figures

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._environ, cwd=ROOT, check=False, timeout=LONGEST_SECONDS
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _wall(self, *command: str) -> float:
        began = time.perf_counter()
        self._run(*command)
        return time.perf_counter() - began

    def _first(self, *command: str) -> float:
        began = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self._environ, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            line = child.stdout.readline()
            took = time.perf_counter() - began
        if line.strip() != "answered":
            raise RuntimeError(f"{' '.join(command[1:])}: no answer")
        return took


@contextmanager
def storage(wanted: bool) -> Iterator[str]:
    """Azurite's connection string, if anyone needs it."""
    if not wanted:
        yield ""
        return
    installed = load_settings()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as loop:
        azurite = Azurite(state_dir=Path(folder), install_dir=installed.azurite_dir or installed.state_dir)
        loop.run(azurite.start())
        try:
            yield azurite.connection_string
        finally:
            loop.run(azurite.stop())


def compare(
    systems: dict[System, str], runner: Runner, rounds: int, console: Console
) -> dict[System, dict[str, float | None]]:
    """Medians over the rounds; in each round every system comes once, so that what the machine does meets all."""
    found: dict[System, list[Figures]] = {system: [] for system in systems}
    for number in range(rounds):
        for system, python in systems.items():
            say(console, f"round {number + 1} of {rounds}: {system.name}")
            found[system].append(runner.round(system, python))
    return {system: _medians(figures) for system, figures in found.items()}


def _medians(rounds: list[Figures]) -> Figures:
    middle: Figures = {}
    for name in rounds[0]:
        values = [value for figures in rounds if (value := figures[name]) is not None]
        middle[name] = median(values) if values else None
    return middle


def table(results: dict[System, Figures]) -> Table:
    """The one table."""
    shown = Table(title="One scripted model, one tool, one session", title_justify="left")
    shown.add_column("system", no_wrap=True)
    for _, column in COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    for system, figures in results.items():
        cells = [figure(value) if (value := figures[name]) is not None else "-" for name, _ in COLUMNS]
        name = system.requirement if system.requirement and system.requirement.startswith(system.name) else system.name
        shown.add_row(name.replace("==", " "), *cells, style="bold" if not system.requirement else "")
    return shown


def document(results: dict[System, Figures], skipped: dict[str, str], rounds: int) -> dict[str, object]:
    """What the JSON file holds."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "rounds": rounds,
        "systems": [
            {
                "name": system.name,
                "requirement": system.requirement,
                "python": system.python or platform.python_version(),
                "keeps": system.keeps,
                "traced": system.traced,
                "note": system.note,
                **figures,
            }
            for system, figures in results.items()
        ],
        "skipped": skipped,
    }


def plot(results: dict[System, Figures]) -> str:
    """CPU per turn, as bars."""
    rows = [
        (system.name, [("text", figures["text_cpu_us"] or 0.0), ("with a tool", figures["tool_cpu_us"] or 0.0)])
        for system, figures in sorted(results.items(), key=lambda item: item[1]["text_cpu_us"] or 0.0)
    ]
    return bars("CPU around the model, per turn", "microseconds", rows, marked="AOS")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", default="", help="adapters, with commas between; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.25, help="of one batch of turns")
    parser.add_argument("--agents", type=int, default=200, help="to create")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--plots", type=Path, help="folder of the plot; default: beside peers.json")
    parser.add_argument("--environments", type=Path, default=ROOT / ".aos" / "peers")
    return parser.parse_args()


def main() -> None:
    """Installs what is missing, measures by turns, prints the table, writes `peers.json` and `peers.svg`."""
    given, console = arguments(), Console()
    if not console.is_terminal:
        console.width = 140
    wanted = set(filter(None, given.only.split(",")))
    if unknown := wanted - {system.adapter for system in SYSTEMS}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(system.adapter for system in SYSTEMS)}")
    systems: dict[System, str] = {}
    skipped: dict[str, str] = {}
    for system in SYSTEMS:
        if wanted and system.adapter not in wanted:
            continue
        if system.requirement:
            say(console, f"environment: {system.requirement}")
        try:
            systems[system] = interpreter(system, given.environments)
        except Missing as reason:
            skipped[system.name] = str(reason)
    with storage(any(system.storage for system in systems)) as connection:
        results = compare(systems, Runner(connection, given.seconds, given.agents), given.rounds, console)
    console.print(table(results))
    for system in results:
        equal = f"kept: {system.keeps}; telemetry: {system.traced}. {system.note}".strip()
        console.print(f"[bold]{system.name}[/bold]: {equal}", highlight=False, soft_wrap=True)
    for name, why in skipped.items():
        console.print(f"skipped: {name}: {why}", highlight=False)
    yardsticks = [figures["yardstick_ms"] or 0.0 for figures in results.values()]
    console.print(
        f"A fixed piece of plain Python took {min(yardsticks):.1f} to {max(yardsticks):.1f} ms beside them: "
        "what differs by less than that spread is not a difference.",
        highlight=False,
    )
    plots = given.plots or given.out
    for folder in (given.out, plots):
        folder.mkdir(parents=True, exist_ok=True)
    (given.out / "peers.json").write_text(json.dumps(document(results, skipped, given.rounds), indent=2) + "\n")
    (plots / "peers.svg").write_text(plot(results))
    console.print(f"written: {given.out}/peers.json, {plots}/peers.svg", highlight=False)


if __name__ == "__main__":
    main()
