"""`python -m benchmarks.cold`: a cold start, by module, under the code that runs function apps, and without `.pyc`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.local import AGENT, local
from benchmarks.tools import ROOT
from tests.functions_worker import FunctionsWorker

FLOOR = "import azure.functions, pydantic"
"""What every function app that checks its input imports: the measure of the import of ours."""
ENTRY = "import function_app"
SYSTEM = "import function_app, aos.system"
HEAVY = (
    "azure.servicebus", "azure.data.tables", "azure.storage.blob", "azure.storage.queue", "azure.identity",
    "azure.ai.projects", "azure.ai.agents", "openai", "mcp", "agent_framework", "jsonschema_rs",
)  # fmt: skip
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s+)(\S+)")


def environ(**more: str) -> dict[str, str]:
    """Of a process that imports the app: nothing configured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "AOS", "FOUNDRY"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def cpu_ms(code: str, more: Mapping[str, str] | None = None) -> float:
    """CPU milliseconds of a fresh interpreter that runs this."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environ(**(more or {})), cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def imported(code: str) -> frozenset[str]:
    """The modules that are loaded after this."""
    said = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print('\\n'.join(sys.modules))"],
        check=True,
        capture_output=True,
        text=True,
        env=environ(),
        cwd=ROOT,
    ).stdout
    return frozenset(said.split())


def by_package(code: str) -> Counter[str]:
    """Microseconds of import by package: the first name, for `azure` and `opentelemetry` the first two."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environ(),
        cwd=ROOT,
    ).stderr
    found: Counter[str] = Counter()
    for match in LINE.finditer(said):
        parts = match[4].split(".")
        deep = parts[0] in ("azure", "opentelemetry", "aos", "runtime") and len(parts) > 1
        found[".".join(parts[:2]) if deep else parts[0]] += int(match[1])
    return found


def precompiled(rounds: int) -> dict[str, float]:
    """CPU milliseconds of the import of the app with and without compiled files, by turns."""
    ways: dict[str, Mapping[str, str]] = {
        "compiled files there": {},
        "none, and none written": {"PYTHONPYCACHEPREFIX": "", "PYTHONDONTWRITEBYTECODE": "1"},
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    cpu_ms(SYSTEM)
    for _ in range(rounds):
        for name, more in ways.items():
            with tempfile.TemporaryDirectory() as empty:
                settings = {key: value or empty for key, value in more.items()}
                found[name].append(cpu_ms(SYSTEM, settings))
    return {name: median(figures) for name, figures in found.items()}


async def worker(rounds: int) -> dict[str, float]:
    """Wall milliseconds from the start of a worker process: until it is indexed, and until its first turn's answer."""
    indexed: list[float] = []
    answered: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with local(Path(folder)) as world:
            # The tools' catalogue and the agent in Foundry are there: another instance has made them.
            await world.ask("@say hello")
            for _ in range(rounds):
                began = time.perf_counter()
                async with FunctionsWorker(ROOT, environ={**world.environment, "AOS_ROLES": "agents"}) as started:
                    indexed.append((time.perf_counter() - began) * 1e3)
                    body = json.dumps({"message": "@say hello"}).encode()
                    headers = {"content-type": "application/json"}
                    path = f"http://localhost/api/agents/{AGENT}"
                    status, _, answer = await started.invoke_http(
                        "ask", "POST", path, headers, body, {"agent_id": AGENT}
                    )
                    answered.append((time.perf_counter() - began) * 1e3)
                    if status != 200:
                        raise AssertionError(f"{status}: {answer.decode()}\n{started.log()[-2000:]}")
    return {"indexed": median(indexed), "first turn answered": median(answered)}


def main() -> None:
    """Measures, prints the tables and writes `cold.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    given, console = parser.parse_args(), Console()
    statements = {"the bare interpreter": "pass", "floor": FLOOR, "function_app": ENTRY, "with the system": SYSTEM}
    cpu: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(given.rounds):
        for name, code in statements.items():
            cpu[name].append(cpu_ms(code))
    table = Table(title="Imports", title_justify="left")
    for column in ("statement", "CPU ms", "SDKs that it loads"):
        table.add_column(column)
    loads = {name: sorted(imported(code) & set(HEAVY)) for name, code in statements.items()}
    for name, code in statements.items():
        table.add_row(f"{name}: {code}", f"{median(cpu[name]):.0f}", ", ".join(loads[name]) or "none")
    console.print(table)
    packages = by_package(SYSTEM).most_common(15)
    table = Table(title=f"{SYSTEM}: by package", title_justify="left")
    for column in ("package", "ms"):
        table.add_column(column)
    for name, took in packages:
        table.add_row(name, f"{took / 1e3:.1f}")
    console.print(table)
    files = precompiled(given.rounds)
    started = asyncio.run(worker(given.rounds))
    for name, value in {**files, **started}.items():
        console.print(f"{name}: {value:,.0f} ms", highlight=False)
    document = {
        "load": os.getloadavg(),
        "cores": os.cpu_count(),
        "import_cpu_ms": {name: median(figures) for name, figures in cpu.items()},
        "loads": loads,
        "packages_us": dict(packages),
        "precompiled_cpu_ms": files,
        "worker_ms": started,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "cold.json").write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written: {given.out}/cold.json", highlight=False)


if __name__ == "__main__":
    main()
