"""`python -m benchmarks.broker`: the Service Bus emulator under the SDK, in memory and on SQLite, by turns.

`--other` measures any broker that the SDK reaches beside them, with queue `bench` on it. What the emulator costs is
its own CPU per message; beside it the client's, which is what an application pays for the SDK.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles

from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient
from rich.console import Console
from rich.table import Table

from benchmarks.tools import ROOT

QUEUE = "bench"
BODY = b"x" * 1024
BATCH = 200


@dataclass(slots=True)
class Broker:
    """A broker under measurement, and its figures by round."""

    address: str
    pid: int | None
    figures: list[Figures] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Figures:
    """Messages of 1 KiB per second; milliseconds from send to receipt; CPU microseconds per message passed on."""

    sent: float
    locked_and_completed: float
    received_and_deleted: float
    p50_ms: float
    p99_ms: float
    broker_us: float | None
    client_us: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def emulator(folder: Path, *, database: bool) -> AsyncIterator[Broker]:
    """The emulator in a process of its own."""
    config = folder / "entities.json"
    namespaces = [{"Name": "sbemulatorns", "Queues": [{"Name": QUEUE}], "Topics": []}]
    config.write_text(json.dumps({"UserConfig": {"Namespaces": namespaces}}))
    more = ["--db", str(folder / "bus.db")] if database else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "emulators.servicebus", "--port", "0", "--config", str(config), *more),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        address = ""
        while not address.startswith("Endpoint="):
            line = await asyncio.wait_for(process.stdout.readline(), 30)
            if not line:
                raise RuntimeError("the emulator ended before it was ready")
            address = line.decode().strip()
        yield Broker(address, process.pid if sys.platform == "linux" else None)
    finally:
        process.terminate()
        await process.wait()


async def measure(broker: Broker, messages: int) -> Figures:
    """One round: send in batches, take one by one, send and delete, then single messages there and back."""
    async with (
        ServiceBusClient.from_connection_string(broker.address) as client,
        client.get_queue_sender(QUEUE) as sender,
    ):

        async def fill() -> float:
            began = time.perf_counter()
            for _ in range(messages // BATCH):
                await sender.send_messages([ServiceBusMessage(BODY) for _ in range(BATCH)])
            return messages / (time.perf_counter() - began)

        before = cpu_seconds(broker.pid) if broker.pid is not None else None
        used = time.process_time()
        sent = await fill()
        async with client.get_queue_receiver(QUEUE, prefetch_count=300) as receiver:
            began, taken = time.perf_counter(), 0
            while taken < messages:
                for message in await receiver.receive_messages(BATCH, max_wait_time=10):
                    await receiver.complete_message(message)
                    taken += 1
            locked = messages / (time.perf_counter() - began)
        client_us = (time.process_time() - used) / messages * 1e6
        broker_us = None
        if before is not None and broker.pid is not None:
            broker_us = (cpu_seconds(broker.pid) - before) / messages * 1e6
        await fill()
        deleting = ServiceBusReceiveMode.RECEIVE_AND_DELETE
        async with client.get_queue_receiver(QUEUE, receive_mode=deleting, prefetch_count=300) as receiver:
            began, taken = time.perf_counter(), 0
            while taken < messages:
                taken += len(await receiver.receive_messages(BATCH, max_wait_time=10))
            deleted = messages / (time.perf_counter() - began)
        trips: list[float] = []
        async with client.get_queue_receiver(QUEUE) as receiver:
            for _ in range(max(20, messages // 20)):
                began = time.perf_counter()
                await sender.send_messages(ServiceBusMessage(BODY))
                (message,) = await receiver.receive_messages(1, max_wait_time=10)
                trips.append((time.perf_counter() - began) * 1e3)
                await receiver.complete_message(message)
        return Figures(sent, locked, deleted, median(trips), quantiles(trips, n=100)[98], broker_us, client_us)


async def compare(rounds: int, messages: int, other: str = "") -> dict[str, Figures]:
    """Medians of the rounds, in each of which every broker comes once."""
    async with AsyncExitStack() as stack:
        memory, database = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        brokers = {
            "in memory": await stack.enter_async_context(emulator(memory, database=False)),
            "SQLite": await stack.enter_async_context(emulator(database, database=True)),
        }
        if other:
            brokers["the other"] = Broker(other, None)
        for _ in range(rounds):
            for broker in brokers.values():
                broker.figures.append(await measure(broker, messages))
    return {name: _middle(broker.figures) for name, broker in brokers.items()}


def _middle(rounds: list[Figures]) -> Figures:
    brokers = [figures.broker_us for figures in rounds if figures.broker_us is not None]
    return Figures(
        sent=median(figures.sent for figures in rounds),
        locked_and_completed=median(figures.locked_and_completed for figures in rounds),
        received_and_deleted=median(figures.received_and_deleted for figures in rounds),
        p50_ms=median(figures.p50_ms for figures in rounds),
        p99_ms=median(figures.p99_ms for figures in rounds),
        broker_us=median(brokers) if brokers else None,
        client_us=median(figures.client_us for figures in rounds),
    )


def main() -> None:
    """Measures, prints the table and writes `broker.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--other", default="", help="connection string of another broker")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    given, console = parser.parse_args(), Console()
    if not console.is_terminal:
        console.width = 140
    found = asyncio.run(compare(given.rounds, given.messages, given.other))
    table = Table(title="Service Bus emulator, messages of 1 KiB, one SDK client", title_justify="left")
    for column in (
        "", "sent/s", "locked and\ncompleted/s", "received and\ndeleted/s", "there p50\nms", "there p99\nms",
        "broker CPU\nus/message", "client CPU\nus/message",
    ):  # fmt: skip
        table.add_column(column, justify="right" if column else "left")
    for name, figures in found.items():
        cells = ["-" if value is None else f"{value:,.1f}" for value in asdict(figures).values()]
        table.add_row(name, *cells)
    console.print(table)
    given.out.mkdir(parents=True, exist_ok=True)
    document = {
        "load": os.getloadavg(),
        "cores": os.cpu_count(),
        "brokers": {name: asdict(figures) for name, figures in found.items()},
    }
    (given.out / "broker.json").write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written: {given.out}/broker.json", highlight=False)


if __name__ == "__main__":
    main()
