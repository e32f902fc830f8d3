"""Agents at work: registries in files, the catalogue in Azurite, the Foundry emulator, a bus that is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aos.agents.desired import DesiredStates
from aos.agents.directory import AgentDirectory
from aos.errors import AosError
from aos.kernel.clock import SystemClock
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.tools import ServerTools, ToolInfo
from aos.messaging.bus import Outbound
from aos.registry.agents import parse_agents
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import parse_servers
from aos.registry.source import Document, FileSource
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads
from tests.foundry.project import Project

BASE = "llama-3.3-70b"
LOOKUP = ToolInfo(
    name="lookup",
    description="Looks a figure up.",
    input_schema={"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]},
)


class ShiftedClock(SystemClock):
    """The system's time and a shift that tests move."""

    def __init__(self) -> None:
        self.shift = 0.0
        self._stood: float | None = None

    def stand(self) -> None:
        """From now on time passes only when a test moves it: for what holds for a while, to the second."""
        self._stood = time.time()

    def now(self) -> float:
        return (time.time() if self._stood is None else self._stood) + self.shift


class CountedSource(FileSource):
    reads = 0

    async def read(self, etag: str | None) -> Document | None:
        self.reads += 1
        return await super().read(etag)


def agent_entry(agent_id: str, *tools: tuple[str, str], **changes: Any) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "purpose": "To be of use.",
        "domain_knowledge": {"domain": "ceo"},
        "mcp_tools": [{"server_name": server, "tool_name": tool} for server, tool in tools],
        **changes,
    }


def server_entry(server_id: str, **changes: Any) -> dict[str, Any]:
    return {"server_id": server_id, "server_name": server_id.title(), "command": "python", **changes}


class Office:
    """The agents' side of AOS without the kernel.

    Attributes:
        sent: What was put on the bus.
        queues: Storage queues that were made.
        outages: Errors that the next sends meet.
    """

    def __init__(self, folder: Path, project: Project, account: StorageAccount) -> None:
        self.queues: list[str] = []
        self.project = project
        self.clock = ShiftedClock()
        self.sent: list[Outbound] = []
        self.outages: list[AosError] = []
        self.payloads = Payloads(account)
        self.catalogue = ToolCatalogue(account, self.payloads, self.clock)
        self.desired = DesiredStates(account, self.clock)
        self.source = CountedSource(folder / "agents.json")
        self._folder = folder
        self.directory = AgentDirectory(
            LiveRegistry(self.source, parse_agents, self.clock),
            LiveRegistry(FileSource(folder / "servers.json"), parse_servers, self.clock),
            self.catalogue,
            project.adapter,
            self.send,
            BASE,
            self.clock,
            desired=self.desired,
            queue_uri=lambda name: f"http://127.0.0.1:10001/devstoreaccount1/{name}",
            make_queue=self.make_queue,
            runtime=project.api,
        )
        self.write()

    def write(self, *agents: dict[str, Any], servers: Sequence[dict[str, Any]] = ()) -> None:
        """Replaces both registries; they are looked at again when the clock has moved."""
        (self._folder / "agents.json").write_text(json.dumps({"version": "1.0", "agents": agents}))
        (self._folder / "servers.json").write_text(json.dumps({"version": "1.0", "servers": servers}))

    def later(self, seconds: float) -> None:
        self.clock.shift += seconds

    async def list_tools(self, server_id: str, *tools: ToolInfo) -> None:
        await self.catalogue.put(ServerTools(server_id=server_id, tools=tools or (LOOKUP,), listed_at=self.clock.now()))

    async def make_queue(self, name: str) -> None:
        self.queues.append(name)

    async def send(self, messages: Sequence[Outbound]) -> None:
        if self.outages:
            raise self.outages.pop(0)
        self.sent += messages

    def to(self, entity: str) -> list[Outbound]:
        return [message for message in self.sent if message.entity == entity]
