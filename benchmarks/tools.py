"""A tool call over the bus against a bare request and reply with the SDK, on one broker in one run."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median, quantiles

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from aos.kernel.clock import SystemClock
from aos.mcp.connections import McpConnection
from aos.mcp.secrets import EnvironmentSecrets
from aos.registry.mcp_servers import ServerEntry
from emulators.azurite import Azurite
from emulators.child import Child
from emulators.parts import service_bus
from emulators.ports import settle
from emulators.seed import seed_registries
from emulators.settings import load_settings

ROOT = Path(__file__).parents[1]
LEAN_SERVER = ROOT / "benchmarks" / "lean_server.py"
REPLIES = "businessinfinity-responses"
ROUNDS, CALLS = 60, 25
IN_FLIGHT, MANY = 64, 256
SERVERS = 100
REST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Milliseconds of a round trip, as medians over the rounds, and calls per second with 64 under way.

    Attributes:
        ratio_p50: Of a tool call to a bare one: the median over the rounds, each of which has all.
        floor_p50: Of the same tool called by the two SDKs alone, to a bare one.
    """

    tool_p50: float
    tool_p99: float
    bare_p50: float
    bare_p99: float
    ratio_p50: float
    floor_p50: float
    tool_rate: float
    bare_rate: float


@dataclass(frozen=True, slots=True)
class AtRest:
    """What servers without calls cost this process: percent of a core, and KiB each."""

    cpu: float
    kib: float


def entry(server_id: str = "bench", **changes: object) -> dict[str, object]:
    """A registry's entry of a trivial server: standard library only, its tool gives a text back."""
    return {
        "server_id": server_id,
        "server_name": server_id,
        "command": sys.executable,
        "args": ["-I", "-S", str(LEAN_SERVER)],
        **changes,
    }


class Caller:
    """Sends requests to a topic and receives the answers from a queue."""

    def __init__(self, sender: ServiceBusSender, receiver: ServiceBusReceiver, name: str) -> None:
        self._sender = sender
        self._receiver = receiver
        self._name = name
        self._number = 0

    def _message(self) -> ServiceBusMessage:
        self._number += 1
        request_id = f"{self._name}-{self._number}"
        params = {"tool_name": "echo", "tool_params": {"text": "hi"}}
        body = {"request_id": request_id, "server_id": "bench", "method": "call_tool", "params": params}
        return ServiceBusMessage(json.dumps(body), message_id=request_id, reply_to=REPLIES)

    async def call(self) -> float:
        """One round trip; its seconds."""
        message = self._message()
        began = time.perf_counter()
        await self._sender.send_messages(message)
        (reply,) = await self._receiver.receive_messages(1, max_wait_time=30)
        took = time.perf_counter() - began
        assert reply.correlation_id == message.message_id
        assert json.loads(str(reply))["response"]["result"]["content"][0]["text"] == "hi"
        await self._receiver.complete_message(reply)
        return took

    async def rate(self) -> float:
        """Calls per second while so many are under way."""
        wanted: set[str] = set()

        async def send(count: int) -> None:
            messages = [self._message() for _ in range(count)]
            wanted.update(str(message.message_id) for message in messages)
            await self._sender.send_messages(messages)

        began = time.perf_counter()
        await send(IN_FLIGHT)
        sent = IN_FLIGHT
        while wanted:
            replies = await self._receiver.receive_messages(IN_FLIGHT, max_wait_time=30)
            assert replies, f"{len(wanted)} calls were not answered"
            more = min(len(replies), MANY - sent)
            if more:
                sent += more
                await send(more)
            for reply in replies:
                wanted.discard(str(reply.correlation_id))
                await self._receiver.complete_message(reply)
        return MANY / (time.perf_counter() - began)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[str]:
    """Broker, storage, AOS with the MCP role, and the bare responder; the broker's connection string."""
    installed = load_settings()
    (folder / "mcp_server_registry.json").write_text(json.dumps({"version": "1.0", "servers": [entry()]}))
    bus = service_bus(0, None, folder)
    children: list[Child] = []

    async def start(name: str, pattern: str, *command: str) -> None:
        child = Child(name, [sys.executable, *command], env=environment, log=folder / f"{name}.log")
        children.append(child)
        ready = child.line(pattern)
        await child.start()
        await child.ready(ready, 30)

    await bus.start()
    try:
        async with Azurite(state_dir=folder, install_dir=installed.azurite_dir or installed.state_dir) as azurite:
            connection = azurite.connection_string
            await seed_registries(
                connection, {folder / "mcp_server_registry.json": "mcp-registry"}, report=lambda line: None
            )
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "AZURE_SERVICE_BUS_CONNECTION_STRING": bus.address,
                "AZURE_STORAGE_CONNECTION_STRING": connection,
                "AOS_ROLES": "mcp",
                "AOS_PORT": str(settle({"AOS_PORT": ("AOS", 0)})["AOS_PORT"]),
            }
            try:
                await start("aos", r"serving AOS on http://\S+", "-m", "aos", "serve", "--folder", str(folder))
                responder = ("-m", "benchmarks.bare_responder")
                await start("responder", "ready", *responder, "agent-events", "realm-agents", REPLIES)
                await start("floor", "ready", *responder, "mcp-responses", "realm-agents", REPLIES, str(LEAN_SERVER))
                yield bus.address
            finally:
                await asyncio.gather(*(child.stop() for child in children))
    finally:
        await bus.stop()


@cache
def round_trips() -> RoundTrips:
    """Many short rounds of each by turns, so that what else the machine does meets all.

    All send the same body to a topic and take the answer from the same queue, with one sender and one receiver in
    this process. On the other side is one process each: AOS with the server's process below it, a responder that
    receives with a lock, answers and completes, with the SDK alone, and one that also calls the tool, with MCP's SDK.
    """

    async def measure() -> RoundTrips:
        with tempfile.TemporaryDirectory() as folder:
            async with (
                world(Path(folder)) as address,
                ServiceBusClient.from_connection_string(address) as bus,
                bus.get_topic_sender("mcp-requests") as tool_sender,
                bus.get_topic_sender("agent-events") as bare_sender,
                bus.get_topic_sender("mcp-responses") as floor_sender,
                bus.get_queue_receiver(REPLIES) as replies,
            ):
                tool, bare = Caller(tool_sender, replies, "tool"), Caller(bare_sender, replies, "bare")
                floor = Caller(floor_sender, replies, "floor")
                for _ in range(30):
                    for caller in (bare, floor, tool):
                        await caller.call()
                times: dict[Caller, list[list[float]]] = {tool: [], bare: [], floor: []}
                for _ in range(ROUNDS):
                    for caller, rounds in times.items():
                        rounds.append([await caller.call() * 1e3 for _ in range(CALLS)])
                rates = {caller: await caller.rate() for caller in (tool, bare)}

        def p50(caller: Caller) -> float:
            return median(median(one) for one in times[caller])

        def p99(caller: Caller) -> float:
            return quantiles([took for one in times[caller] for took in one], n=100)[98]

        def ratio(caller: Caller) -> float:
            return median(median(its) / median(bares) for its, bares in zip(times[caller], times[bare], strict=True))

        return RoundTrips(
            *(p50(tool), p99(tool), p50(bare), p99(bare)), *(ratio(tool), ratio(floor)), *(rates[tool], rates[bare])
        )

    return asyncio.run(measure())


@cache
def at_rest() -> AtRest:
    """A hundred children without calls, in this process."""

    async def measure() -> AtRest:
        clock = SystemClock()
        entries = [ServerEntry.model_validate(entry(f"bench-{number}")) for number in range(SERVERS + 1)]
        connections = [McpConnection(one, EnvironmentSecrets({}), clock) for one in entries]
        try:
            # The first one pays for the imports.
            await connections[0].ready()
            before = _resident_kib()
            await asyncio.gather(*(connection.ready() for connection in connections[1:]))
            after = _resident_kib()
            began, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(REST_SECONDS)
            share = (time.process_time() - used) / (time.perf_counter() - began)
            return AtRest(share * 100, (after - before) / SERVERS)
        finally:
            await asyncio.gather(*(connection.close() for connection in connections))

    return asyncio.run(measure())


def _resident_kib() -> float:
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
