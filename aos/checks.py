"""What the health of the system rests on: each thing it depends on, and what is wrong with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from aos.agents.deployments import AgentDeployments
from aos.agents.directory import AgentDirectory
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.config import SERVICE_BUS, STORAGE, Settings
from aos.errors import AosError
from aos.health import PATIENCE, Check, Health, worst
from aos.kernel.kernel import Kernel
from aos.kernel.ports import ConversationStore, FoundryPort
from aos.mcp.circuits import KIND
from aos.messaging.bus import Bus
from aos.messaging.envelopes import AGENT_COMMANDS
from aos.registry.agents import AgentRegistry
from aos.registry.live import LiveRegistry
from aos.reports import ServerReports
from aos.storage.trips import TableTrips

NAMED = 10
"""Problems of one kind that are named at once."""


class Checks:
    """Looks at everything that this app depends on, at most every ten seconds.

    Args:
        registries: Each says why its newest file is not in force.
        bus_problems: Says what is wrong with the consumers of this process, where the runtime knows it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kind: type[PurposeDrivenAgent],
        store: ConversationStore,
        bus: Bus,
        kernel: Kernel,
        foundry: FoundryPort,
        directory: AgentDirectory,
        deployments: AgentDeployments,
        servers: ServerReports,
        trips: TableTrips | None,
        registries: Sequence[LiveRegistry[Any]],
        bus_problems: Callable[[], list[str]] | None,
    ) -> None:
        self._settings = settings
        self._kind = kind
        self._store = store
        self._bus = bus
        self._kernel = kernel
        self._foundry = foundry
        self._directory = directory
        self._deployments = deployments
        self._servers = servers
        self._trips = trips
        self._registries = registries
        self._bus_problems = bus_problems
        checks = {
            "storage": Check(self._check_storage, "unhealthy"),
            "service_bus": Check(self._check_bus),
            "mcp_servers": Check(self._check_servers),
        }
        if "agents" in settings.roles:
            checks |= {
                "agent_registry": Check(self._check_registry),
                "foundry" if settings.use_foundry else "model": Check(self._check_foundry),
                "deployments": Check(self._check_deployments),
            }
        self._health = Health(checks)

    async def report(self) -> dict[str, Any]:
        """The body of `GET health`."""
        # Side by side: who asks waits no longer than the checks may take.
        findings, ids = await asyncio.gather(self._health.findings(), self._enabled_agents())
        checks = {
            name: {"status": finding.level, "since": finding.since}
            | ({"detail": finding.detail} if finding.detail else {})
            for name, finding in findings.items()
        }
        return {
            "status": worst(findings),
            "runtime": self._kind.runtime,
            "active_agents": len(ids),
            "agent_ids": ids,
            "roles": sorted(self._settings.roles),
            "checks": checks,
        }

    async def _check_storage(self) -> str | None:
        if not self._settings.storage_configured:
            return (
                f"{STORAGE} is not set: the registries are read from the files beside the app, and no message is "
                "accepted because conversations have no place."
            )
        await self._store.locate("health")
        return None

    async def _check_bus(self) -> str | None:
        if not self._settings.bus_configured:
            return f"{SERVICE_BUS} is not set: no message is received, no tool can be called."
        await self._bus.prepare(AGENT_COMMANDS)
        problems = self._bus_problems() if self._bus_problems is not None else []
        return "; ".join(problems) or None

    async def _check_foundry(self) -> str | None:
        self._kernel.look_around()
        await self._foundry.check()
        circuits = [
            f"{circuit.name} is left alone (tried again in {circuit.retry_after:.0f} s): {circuit.reason}"
            for circuit in self._kernel.breakers.not_closed()
        ]
        return "; ".join(circuits) or None

    async def _check_deployments(self) -> str | None:
        registry = await self._registry_or_none()
        return self._deployments.problems(registry) if registry is not None else None

    async def _check_registry(self) -> str | None:
        registry = await self._directory.registry()
        stale = [live.problem for live in self._registries if live.problem is not None]
        bad = [f"{problem.pointer}: {problem.detail}" for problem in registry.problems]
        return "; ".join([*stale, *bad][:NAMED]) or None

    async def _check_servers(self) -> str | None:
        listed = await self._servers.list()
        down = [
            f"{server['server_id']} is {server['status']}: {server.get('last_error') or 'no reason known'}"
            for server in listed["servers"]
            if server["enabled"] and server["status"] not in ("running", "idle")
        ]
        for trip in await self._trips.all() if self._trips is not None else ():
            if trip.name.startswith(f"{KIND} ") and trip.since is not None and trip.until > time.time():
                down.append(f"{trip.name} is left alone: {trip.reason}")
        drift = [
            f"{server['server_id']}: {found['kind']} {found['tool']}".rstrip() + f": {found['detail']}"
            for server in listed["servers"]
            if server["enabled"]
            for found in server.get("drift", ())
        ]
        return "; ".join([*down, *drift[:NAMED]]) or None

    async def _enabled_agents(self) -> list[str]:
        try:
            async with asyncio.timeout(PATIENCE):
                registry = await self._registry_or_none()
        except TimeoutError:
            # The checks say what does not answer.
            return sorted(name for name, (_, enabled) in self._directory.seen().agents.items() if enabled)
        return sorted(entry.agent_id for entry in registry.enabled) if registry is not None else []

    async def _registry_or_none(self) -> AgentRegistry | None:
        try:
            return await self._directory.registry()
        except AosError:
            # The check of the registry says what is wrong.
            return None
