"""The local stack with one agent on one lean tool, and `python -m aos serve`, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.taps import AmqpWatch, HttpWatch, Tally, tap
from benchmarks.tools import ROOT, entry
from emulators.child import Child
from emulators.ports import settle
from emulators.settings import StackSettings, load_settings
from emulators.stack import Stack

AGENT = "bench"
FUNCTION = "bench_echo"
BARE, BARE_REPLIES = "bench-requests", "bench-replies"
"""A topic and a queue on the same broker that AOS does not know, for bare calls with the SDK."""
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Local:
    """A running AOS.

    Attributes:
        environment: With which its neighbours are found, without any tap.
        tallies: What passed between AOS and `tables`, `blobs`, `bus` and `foundry`, if that was asked for.
        log: Of `aos serve`.
    """

    http: httpx2.AsyncClient
    environment: Mapping[str, str]
    tallies: Mapping[str, Tally]
    log: Path

    async def ask(self, message: str, **more: Any) -> dict[str, Any]:
        """A turn over HTTP; its operation, which completed."""
        answer = await self.http.post(f"agents/{AGENT}", json={"message": message, **more})
        body: dict[str, Any] = answer.json()
        if answer.status_code != 200 or body["status"] != "completed":
            raise AssertionError(f"{answer.status_code}: {answer.text}")
        return body


def registry(agents: int = 1, *, tools: bool = True) -> bytes:
    """A registry of so many agents, the first of which is the one that is spoken to."""
    own = {"mcp_tools": [{"server_name": AGENT, "tool_name": "echo"}]} if tools else {}
    entries = [
        {
            "agent_id": AGENT if number == 0 else f"{AGENT}-{number}",
            "purpose": "To be measured.",
            "domain_knowledge": {"domain": AGENT},
            **own,
        }
        for number in range(agents)
    ]
    return json.dumps({"version": "1.0", "agents": entries}).encode()


def entities() -> str:
    """The broker's entities: those of AOS, and a topic and a queue for bare calls."""
    document = json.loads((ROOT / "emulators" / "servicebus" / "default_entities.json").read_text())
    namespace = document["UserConfig"]["Namespaces"][0]
    namespace["Queues"].append({"Name": BARE_REPLIES})
    namespace["Topics"].append({"Name": BARE, "Subscriptions": [{"Name": AGENT}]})
    return json.dumps(document)


@asynccontextmanager
async def local(folder: Path, *, counted: bool = False, more: Mapping[str, str] | None = None) -> AsyncIterator[Local]:
    """Everything on free ports with its state in a folder; the Foundry emulator answers at once."""
    installed = load_settings()
    (folder / "agent_registry.json").write_bytes(registry())
    (folder / "mcp_server_registry.json").write_text(json.dumps({"version": "1.0", "servers": [entry(AGENT)]}))
    (folder / "entities.json").write_text(entities())
    settings = StackSettings(
        servicebus_config=folder / "entities.json",
        state_dir=folder / "state",
        azurite_dir=(installed.azurite_dir or installed.state_dir).absolute(),
        blob_port=0,
        queue_port=0,
        table_port=0,
        servicebus_port=0,
        foundry_port=0,
    )
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(Stack(settings, project=folder))
        environment, tallies = dict(parts.environment), {}
        if counted:
            ports = {name: port for part in parts.parts for name, port in part.ports.items()}
            for name, setting in (
                ("tables", "AOS_TABLE_PORT"),
                ("blobs", "AOS_BLOB_PORT"),
                ("bus", "AOS_SERVICEBUS_PORT"),
                ("foundry", "AOS_FOUNDRY_PORT"),
            ):
                watch = AmqpWatch if name == "bus" else HttpWatch
                port, tallies[name] = await stack.enter_async_context(tap(ports[setting], watch))
                for key, value in environment.items():
                    environment[key] = value.replace(f":{ports[setting]}", f":{port}")
        port = settle({"AOS_PORT": ("AOS", 0)})["AOS_PORT"]
        process = {**os.environ, **environment, **(more or {}), "PYTHONPATH": str(ROOT), "AOS_PORT": str(port)}
        command = [sys.executable, "-m", "aos", "serve", "--folder", str(folder)]
        log = folder / "aos.log"
        child = Child("aos", command, env=process, log=log)
        serving = child.line(r"serving AOS on http://\S+")
        await child.start()
        stack.push_async_callback(child.stop)
        await child.ready(serving, READY_SECONDS)
        http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/", timeout=60)
        async with http:
            await _running(http)
            yield Local(http, parts.environment, tallies, log)


async def _running(http: httpx2.AsyncClient) -> None:
    body: dict[str, Any] = {}
    try:
        async with asyncio.timeout(READY_SECONDS):
            while body.get("status") != "running":
                body = (await http.get(f"agents/{AGENT}/status")).json()
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"the agent never runs: {body}") from None
