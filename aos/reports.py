"""How agents and MCP servers are: the bodies of the routes that only look."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

from aos.agents.deployments import AgentDeployments
from aos.agents.directory import AgentDirectory
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.errors import AgentStopped, AosError, TransientError
from aos.kernel.kernel import Kernel
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.circuits import KIND, breaker_view
from aos.mcp.errors import UnknownServer
from aos.mcp.status import Desired, ServerStatusBoard
from aos.mcp.views import server_view, status_view
from aos.registry.agents import AgentRegistry
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import ServerRegistry
from aos.schedules import Schedules
from aos.storage.counters import Counters
from aos.storage.trips import TableTrips
from aos.views import agent_view


class AgentReports:
    """What callers are told of agents.

    Args:
        kind: The kind of agent that the chosen runtime makes.
    """

    def __init__(
        self,
        directory: AgentDirectory,
        deployments: AgentDeployments,
        kernel: Kernel,
        schedules: Schedules,
        counters: Counters,
        kind: type[PurposeDrivenAgent],
    ) -> None:
        self._directory = directory
        self._deployments = deployments
        self._kernel = kernel
        self._schedules = schedules
        self._counters = counters
        self._kind = kind

    async def list(self) -> dict[str, Any]:
        """The body of `GET agents`: the good entries, and what is wrong with the others."""
        registry = await self._directory.registry()
        agents = [self._view(entry.agent_id, registry) for entry in registry.entries.values()]
        problems = [
            {"pointer": problem.pointer, "detail": problem.detail, "agent_id": problem.agent_id}
            for problem in registry.problems
        ]
        return {"agents": agents, "problems": problems, "generation": self._directory.generation}

    async def agent(self, agent_id: str) -> dict[str, Any]:
        """The body of `GET agents/{agent_id}`."""
        await self._directory.entry(agent_id)
        view = self._view(agent_id, await self._directory.registry())
        return view | {"counters": asdict(await self._counters.of(agent_id))}

    async def status(self, agent_id: str) -> dict[str, Any]:
        """The body of `GET agents/{agent_id}/status`."""
        entry = await self._directory.entry(agent_id)
        status, detail, bound = "disabled", None, None
        if entry.enabled:
            try:
                bound = await self._directory.bind(agent_id)
                status = "running"
            except AgentStopped as error:
                status, detail = "stopped", error.detail
            except TransientError as error:
                status, detail = "starting", error.detail
            except AosError as error:
                status, detail = "failed", error.detail
        view: dict[str, Any] = {
            "agent_id": agent_id,
            "status": status,
            "is_running": status == "running",
            "generation": self._directory.generation,
            "type": self._kind.__name__,
            "runtime": self._kind.runtime,
            "lora_adapter": entry.domain_knowledge.domain,
            "deployment": self._deployments.wanted(entry),
        }
        self._kernel.look_around()
        circuit = self._kernel.breakers.of(view["deployment"]).circuit
        view["circuit"] = {
            "state": circuit.state,
            "failures": circuit.failures,
            "retry_after_seconds": math.ceil(circuit.retry_after),
        }
        if bound is not None:
            if bound.ref.deployment != view["deployment"]:
                view |= {"deployment": bound.ref.deployment, "fallback": True}
            names = [*bound.tools.names, *bound.served.names]
            view |= {"foundry_agent_id": f"{bound.ref.name}:{bound.ref.version}", "tools": names}
        if detail is not None:
            view["detail"] = detail
        if entry.agent_type == "perpetual" or "schedule" in entry.metadata:
            view |= await self._schedules.heartbeat(entry)
        return view | {"counters": asdict(await self._counters.of(agent_id))}

    def _view(self, agent_id: str, registry: AgentRegistry) -> dict[str, Any]:
        entry = registry.entries[agent_id]
        kind = type(self._kind.from_entry(entry))
        return agent_view(
            entry, deployment=self._deployments.wanted(entry), kind=kind.__name__, runtime=self._kind.runtime
        )


class ServerReports:
    """What callers are told of MCP servers."""

    def __init__(
        self,
        registry: LiveRegistry[ServerRegistry],
        board: ServerStatusBoard,
        catalogue: ToolCatalogue,
        trips: TableTrips | None,
    ) -> None:
        self._registry = registry
        self._board = board
        self._catalogue = catalogue
        self._trips = trips

    async def list(self) -> dict[str, Any]:
        """The body of `GET mcp/servers`: as registered, running or not, and why not."""
        registry = (await self._registry.current()).value
        states = {status.server_id: status for status in await self._board.all()}
        servers = [server_view(entry, states.get(entry.server_id)) for entry in registry.entries.values()]
        problems = [{"pointer": problem.pointer, "detail": problem.detail} for problem in registry.problems]
        return {"servers": servers, "problems": problems}

    async def status(self, name: str) -> dict[str, Any]:
        """The body of `GET mcp/servers/{server_id}/status`; takes an id or a name.

        Raises:
            UnknownServer: The registry has no good entry for it.
        """
        registry = (await self._registry.current()).value
        entry = registry.find(name) or (await self._registry.refresh()).value.find(name)
        if entry is None:
            raise UnknownServer(f"There is no MCP server {name!r}; there are: {', '.join(registry.entries) or 'none'}.")
        states = {status.server_id: status for status in await self._board.all()}
        desired = (await self._board.desired()).get(entry.server_id, Desired())
        listed = await self._catalogue.get(entry.server_id)
        trips = await self._trips.all() if self._trips is not None else ()
        trip = next((trip for trip in trips if trip.name == f"{KIND} {entry.server_id}"), None)
        return status_view(entry, states.get(entry.server_id), desired, listed, breaker_view(trip, time.time()))
