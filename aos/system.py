"""The composition root: builds the operating system from its settings, starts and stops it, and says how it is."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aos.agents.departures import Departures
from aos.agents.desired import DesiredStates
from aos.agents.directory import AgentDirectory
from aos.agents.foundry_agent import PurposeDrivenAgentFoundry
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.agents.runtimes import open_runtime
from aos.approvals import ApprovalBoard, ApprovalDecision, ApprovalOutlet, Listed
from aos.commands import Commands
from aos.config import SERVICE_BUS, STORAGE, Settings
from aos.conversations import Conversations
from aos.errors import AgentStopped, AosError, TransientError
from aos.foundry.provisioning import scope_of
from aos.functions.account import function_account
from aos.functions.collecting import FunctionReplies
from aos.functions.outlet import FunctionOutlet
from aos.health import Check, Health, worst
from aos.identity import identity
from aos.intake import Intake
from aos.kernel.clock import SystemClock
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.operations import approval_record, parked_call
from aos.kernel.types import Decision
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.circuits import KIND, breaker_view
from aos.mcp.errors import UnknownServer
from aos.mcp.key_vault import open_secrets
from aos.mcp.ledger import TableLedger
from aos.mcp.pins import ToolPins
from aos.mcp.results import ToolResults
from aos.mcp.servers import McpServers
from aos.mcp.status import Desired, ServerStatusBoard
from aos.mcp.views import server_view, status_view
from aos.messaging.bus import Bus, Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import AGENT_COMMANDS, MCP_REQUESTS, MCP_RESPONSES
from aos.outlet import BusOutlet
from aos.registry.agents import AgentEntry, AgentRegistry, parse_agents
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import parse_servers
from aos.registry.source import BlobSource, FileSource, RegistrySource
from aos.requests import RequestDesk
from aos.routing import ROUTER, Router
from aos.schedules import Schedules
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.counters import Counters
from aos.storage.payloads import STATE_CONTAINER, Payloads
from aos.storage.queues import Queues
from aos.storage.requests import RequestRecords
from aos.storage.retention import Retention
from aos.storage.routes import TableRoutes
from aos.storage.shared import SharedContainers
from aos.storage.trips import TableTrips
from aos.storage.workflows import WorkflowRecords
from aos.telemetry.instruments import Watched
from aos.telemetry.observer import TurnObserver
from aos.telemetry.places import nowhere
from aos.views import agent_view, approval_view
from aos.workflows import WorkflowRunner

log = logging.getLogger("aos.system")

AGENT_REGISTRY = "agent_registry.json"
SERVER_REGISTRY = "mcp_server_registry.json"


class AgentOperatingSystem:
    """The whole of AOS in one process.

    Building it does no I/O. `start` begins background work and returns at once; `close` ends it.

    Args:
        folder: Where the registry files lie that are used when no storage account is configured.
        bus_problems: Says what is wrong with the consumers of this process, where the runtime knows it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        folder: Path,
        options: KernelOptions | None = None,
        bus_problems: Callable[[], list[str]] | None = None,
    ) -> None:
        self.settings = settings
        clock = SystemClock()
        self._bus_problems = bus_problems
        self._credential = identity(settings) if settings.needs_identity else None
        self._account = StorageAccount(settings, self._credential)
        payloads = Payloads(self._account)
        claim_check = ClaimCheck(payloads if settings.storage_configured else None)
        self._bus = Bus(settings, self._credential)
        opened = open_runtime(settings, self._account, self._credential, clock)
        self.foundry, self._deployments = opened.port, opened.deployments
        self._kind: type[PurposeDrivenAgent] = PurposeDrivenAgentFoundry if settings.use_foundry else PurposeDrivenAgent
        self._agents = LiveRegistry(
            self._source(settings.agent_container, folder / AGENT_REGISTRY), parse_agents, clock
        )
        self._servers = LiveRegistry(
            self._source(settings.mcp_container, folder / SERVER_REGISTRY), parse_servers, clock
        )
        values = Payloads(self._account, STATE_CONTAINER)
        self._functions_account = function_account(settings, self._account, self._credential)
        function_queues = Queues(self._functions_account, payloads)
        catalogue = self._catalogue = ToolCatalogue(self._account, values)
        self._board = ServerStatusBoard(self._account)
        desired = DesiredStates(self._account)
        self.directory = AgentDirectory(
            self._agents,
            self._servers,
            catalogue,
            self.foundry,
            self._send,
            settings.model_deployment,
            kind=self._kind,
            desired=desired,
            queue_uri=self._functions_account.queue_uri if settings.queues_configured else None,
            make_queue=self._functions_account.queue,
            runtime=settings.foundry_api if settings.use_foundry else "custom",
        )
        self._counters = Counters(self._account)
        lease = settings.lease_seconds
        self.store = TableConversations(self._account, values, counters=self._counters, first_look=lease * 7 / 6)
        self._approvals = ApprovalBoard(self._account, values)
        self._trips = TableTrips(self._account) if settings.storage_configured else None
        self.kernel = Kernel(
            store=self.store,
            foundry=self.foundry,
            agents=self.directory,
            outlet=FunctionOutlet(
                ApprovalOutlet(BusOutlet(self._send, claim_check), self._approvals), function_queues, self._send
            ),
            board=self._trips,
            observer=TurnObserver("microsoft.foundry" if settings.use_foundry else "openai"),
            options=options
            or KernelOptions(
                lease=lease,
                renew=lease / 3,
                context_tokens=settings.context_tokens,
                agent_backlog=settings.agent_backlog,
            ),
        )
        self._departures: Departures | None = None
        if settings.use_foundry and settings.storage_configured:
            self._departures = Departures(self._account, scope_of(settings), self.directory, self.store)
        self.commands = Commands(self.kernel, self.directory, desired, self._departures)
        results = ToolResults(payloads if settings.storage_configured else None)
        self.intake = Intake(
            self.kernel,
            self.directory,
            claim_check,
            self._send,
            self.commands,
            results=results,
        )
        self.workflows = self.intake.workflows = WorkflowRunner(
            self.kernel, self.directory, WorkflowRecords(self._account, values), claim_check, self._send
        )
        self.router = Router(
            self.kernel, self.directory, self.foundry, TableRoutes(self._account), settings.model_deployment
        )
        self.requests = RequestDesk(
            router=self.router,
            workflows=self.workflows,
            kernel=self.kernel,
            intake=self.intake,
            views=self,
            servers=self._servers,
            records=RequestRecords(self._account, values),
            shared=SharedContainers(self._account, settings.shared_containers),
            claim_check=claim_check,
            send=self._send,
        )
        self.intake.requests = self.requests
        self.functions = self.intake.functions = FunctionReplies(
            queues=function_queues,
            store=self.store,
            kernel=self.kernel,
            results=results,
            send=self._send,
            claim_check=claim_check,
        )
        self.conversations = Conversations(self.kernel, self.store, self.foundry)
        self.retention = Retention(self._account)
        self.schedules = Schedules(self.kernel, self.store, self.directory)
        self._secrets = open_secrets(settings.key_vault, self._credential, clock)
        self.mcp: McpServers | None = None
        if "mcp" in settings.roles:
            self.mcp = McpServers(
                registry=self._servers,
                ledger=TableLedger(self._account, values, lease=lease),
                catalogue=catalogue,
                board=self._board,
                send=self._send,
                claim_check=claim_check,
                pins=ToolPins(self._account, settings.mcp_container) if settings.storage_configured else None,
                trips=self._trips,
                secrets=self._secrets,
                private_networks=settings.mcp_private_networks,
            )
        self._health = Health(self._checks())
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: Watched | None = None
        self._missing_deployments: frozenset[str] = frozenset()

    # --- life

    async def start(self) -> None:
        """Starts MCP servers, opens senders and makes the agents ready, all in the background."""
        # What goes on for as long as the process is no part of the request that it was started for.
        with nowhere():
            if self.mcp is not None:
                await self.mcp.start()
            if self.settings.bus_configured:
                self._begin(self._open_senders(), "open senders")
            if "agents" in self.settings.roles:
                self._begin(self.reconcile(), "first reconcile")
        if self._watched is None:
            self._watched = Watched(self.kernel.breakers.circuits, self.kernel.backlog)

    async def close(self, grace: float = 10.0) -> None:
        """Lets running turns and tool calls go on for up to `grace` seconds; what is left goes on elsewhere."""
        self._watched = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.kernel.close(grace)
        if self.mcp is not None:
            await self.mcp.close()
        await self._secrets.close()
        await self._bus.close()
        await self.foundry.close()
        await self._account.close()
        await self._functions_account.close()
        if self._credential is not None:
            await self._credential.close()

    async def reconcile(self) -> None:
        """Reads the registries and makes every enabled agent ready in Foundry; one that fails does not stop others.

        Agents that left the registry are removed from Foundry, see `aos.agents.departures`.
        """
        await self.directory.reload()
        registry = await self.directory.registry()
        await self._look_at_deployments(registry)
        for problem in registry.problems:
            log.error("agent registry %s: %s", problem.pointer, problem.detail)
        try:
            made = await self.directory.look_up([entry.agent_id for entry in registry.enabled])
        except AosError as error:
            # Then each of them would find the same; they are made ready when they are needed.
            log.warning("the agents cannot be made ready yet: %s", error.detail)
            return
        waiting: dict[str, list[str]] = {}
        for entry in registry.enabled:
            try:
                await self.directory.bind(entry.agent_id)
            except TransientError as error:
                waiting.setdefault(error.detail, []).append(entry.agent_id)
            except AosError as error:
                log.error("agent %s cannot be made ready: %s", entry.agent_id, error.detail)
        for why, agents in waiting.items():
            log.info("not ready yet: %s: %s", ", ".join(agents), why)
        if self._departures is not None:
            await self._departures.look(made - {ROUTER})

    async def sweep(self) -> None:
        """Looks after turns that a dead process left behind, and after deadlines."""
        await self.kernel.sweep()
        await self.requests.sweep()
        await self.workflows.sweep()

    # --- views

    async def health(self) -> dict[str, Any]:
        """The body of `GET health`."""
        findings = await self._health.findings()
        registry = await self._registry_or_none()
        ids = sorted(entry.agent_id for entry in registry.enabled) if registry is not None else []
        status = worst(findings)
        checks = {
            name: {"status": finding.level, "since": finding.since}
            | ({"detail": finding.detail} if finding.detail else {})
            for name, finding in findings.items()
        }
        return {
            "status": status,
            "runtime": self._kind.runtime,
            "active_agents": len(ids),
            "agent_ids": ids,
            "roles": sorted(self.settings.roles),
            "checks": checks,
        }

    async def agent_list(self) -> dict[str, Any]:
        """The body of `GET agents`: the good entries, and what is wrong with the others."""
        registry = await self.directory.registry()
        agents = [self._view(entry.agent_id, registry) for entry in registry.entries.values()]
        problems = [
            {"pointer": problem.pointer, "detail": problem.detail, "agent_id": problem.agent_id}
            for problem in registry.problems
        ]
        return {"agents": agents, "problems": problems, "generation": self.directory.generation}

    async def agent(self, agent_id: str) -> dict[str, Any]:
        """The body of `GET agents/{agent_id}`."""
        await self.directory.entry(agent_id)
        view = self._view(agent_id, await self.directory.registry())
        return view | {"counters": asdict(await self._counters.of(agent_id))}

    async def agent_status(self, agent_id: str) -> dict[str, Any]:
        """The body of `GET agents/{agent_id}/status`."""
        entry = await self.directory.entry(agent_id)
        status, detail, bound = "disabled", None, None
        if entry.enabled:
            try:
                bound = await self.directory.bind(agent_id)
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
            "generation": self.directory.generation,
            "type": self._kind.__name__,
            "runtime": self._kind.runtime,
            "lora_adapter": entry.domain_knowledge.domain,
            "deployment": self._wanted_deployment(entry),
        }
        self.kernel.look_around()
        circuit = self.kernel.breakers.of(view["deployment"]).circuit
        view["circuit"] = {
            "state": circuit.state,
            "failures": circuit.failures,
            "retry_after_seconds": math.ceil(circuit.retry_after),
        }
        if bound is not None:
            if bound.ref.deployment != view["deployment"]:
                view |= {"deployment": bound.ref.deployment, "fallback": True}
            view |= {
                "foundry_agent_id": f"{bound.ref.name}:{bound.ref.version}",
                "tools": [*bound.tools.names, *bound.served.names],
            }
        if detail is not None:
            view["detail"] = detail
        if entry.agent_type == "perpetual" or "schedule" in entry.metadata:
            view |= await self.schedules.heartbeat(entry)
        return view | {"counters": asdict(await self._counters.of(agent_id))}

    async def mcp_servers(self) -> dict[str, Any]:
        """The body of `GET mcp/servers`: as registered, running or not, and why not."""
        registry = (await self._servers.current()).value
        states = {status.server_id: status for status in await self._board.all()}
        servers = [server_view(entry, states.get(entry.server_id)) for entry in registry.entries.values()]
        problems = [{"pointer": problem.pointer, "detail": problem.detail} for problem in registry.problems]
        return {"servers": servers, "problems": problems}

    async def mcp_server_status(self, name: str) -> dict[str, Any]:
        """The body of `GET mcp/servers/{server_id}/status`; takes an id or a name.

        Raises:
            UnknownServer: The registry has no good entry for it.
        """
        registry = (await self._servers.current()).value
        entry = registry.find(name) or (await self._servers.refresh()).value.find(name)
        if entry is None:
            raise UnknownServer(f"There is no MCP server {name!r}; there are: {', '.join(registry.entries) or 'none'}.")
        states = {status.server_id: status for status in await self._board.all()}
        desired = (await self._board.desired()).get(entry.server_id, Desired())
        listed = await self._catalogue.get(entry.server_id)
        trips = await self._trips.all() if self._trips is not None else ()
        trip = next((trip for trip in trips if trip.name == f"{KIND} {entry.server_id}"), None)
        return status_view(entry, states.get(entry.server_id), desired, listed, breaker_view(trip, time.time()))

    def _view(self, agent_id: str, registry: AgentRegistry) -> dict[str, Any]:
        entry = registry.entries[agent_id]
        agent = self._kind.from_entry(entry)
        return agent_view(
            entry,
            deployment=agent.deployment(self.settings.model_deployment),
            kind=type(agent).__name__,
            runtime=agent.runtime,
        )

    # --- approvals

    async def approvals(self, listed: Listed, after: str) -> dict[str, Any]:
        """The body of `GET approvals`: a page of the calls that wait for a person, or that were decided."""
        records, following = await self._approvals.page(listed, after)
        return {"items": [approval_view(record) for record in records], "next": following}

    async def decide(self, approval_id: str, wanted: ApprovalDecision, by: str) -> dict[str, Any]:
        """Decides about a call that waits and returns it as `GET approvals` shows it."""
        decision = Decision(approval_id, wanted.decision == "approve", by, wanted.reason)
        operation = await self.kernel.decide(decision)
        call = parked_call(operation, approval_id)
        assert call is not None  # noqa: S101 - else the kernel had raised `UnknownApproval`
        record = approval_record(operation, call)
        if record.approval.state != "pending":
            # The outbox does the same; the caller's next look should show it.
            await self._approvals.put(record)
        return approval_view(record)

    # --- checks

    def _checks(self) -> dict[str, Check]:
        checks = {
            "storage": Check(self._check_storage, "unhealthy"),
            "service_bus": Check(self._check_bus),
            "mcp_servers": Check(self._check_servers),
        }
        if "agents" in self.settings.roles:
            checks |= {
                "agent_registry": Check(self._check_registry),
                "foundry" if self.settings.use_foundry else "model": Check(self._check_foundry),
                "deployments": Check(self._check_deployments),
            }
        return checks

    async def _check_storage(self) -> str | None:
        if not self.settings.storage_configured:
            return (
                f"{STORAGE} is not set: the registries are read from the files beside the app, and no message is "
                "accepted because conversations have no place."
            )
        await self.store.locate("health")
        return None

    async def _check_bus(self) -> str | None:
        if not self.settings.bus_configured:
            return f"{SERVICE_BUS} is not set: no message is received, no tool can be called."
        await self._bus.prepare(AGENT_COMMANDS)
        problems = self._bus_problems() if self._bus_problems is not None else []
        return "; ".join(problems) or None

    async def _check_foundry(self) -> str | None:
        self.kernel.look_around()
        await self.foundry.check()
        circuits = [
            f"{circuit.name} is left alone (tried again in {circuit.retry_after:.0f} s): {circuit.reason}"
            for circuit in self.kernel.breakers.not_closed()
        ]
        return "; ".join(circuits) or None

    async def _check_deployments(self) -> str | None:
        registry = await self._registry_or_none()
        notes: list[str] = []
        for entry in registry.enabled if registry is not None else ():
            bound, wanted = self.directory.bound(entry.agent_id), self._wanted_deployment(entry)
            if bound is not None and bound.ref.deployment != wanted:
                notes.append(f"{entry.agent_id} thinks with {bound.ref.deployment}: there is no deployment {wanted}")
            elif wanted in self._missing_deployments:
                notes.append(f"{entry.agent_id}: the project has no deployment {wanted}")
        return "; ".join(notes[:10]) or None

    async def _check_registry(self) -> str | None:
        registry = await self.directory.registry()
        stale = [live.problem for live in (self._agents, self._servers) if live.problem is not None]
        bad = [f"{problem.pointer}: {problem.detail}" for problem in registry.problems]
        return "; ".join([*stale, *bad][:10]) or None

    async def _check_servers(self) -> str | None:
        listed = await self.mcp_servers()
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
        return "; ".join([*down, *drift[:10]]) or None

    def _wanted_deployment(self, entry: AgentEntry) -> str:
        return self._kind.from_entry(entry).deployment(self.settings.model_deployment)

    async def _look_at_deployments(self, registry: AgentRegistry) -> None:
        """Compares what the agents think with to what the project has: one request for all of them."""
        if self._deployments is None:
            return
        try:
            names = await self._deployments.names()
        except AosError as error:
            log.warning("the deployments cannot be looked at: %s", error.detail)
            return
        wanted = {entry.agent_id: self._wanted_deployment(entry) for entry in registry.enabled}
        self._missing_deployments = frozenset(wanted.values()) - names
        for agent_id, deployment in wanted.items():
            bound = self.directory.bound(agent_id)
            if bound is not None and (bound.ref.deployment == deployment) == (deployment in self._missing_deployments):
                # Its deployment came, or went.
                self.directory.unbind(agent_id)

    async def _registry_or_none(self) -> AgentRegistry | None:
        try:
            return await self.directory.registry()
        except AosError:
            # The check of the registry says what is wrong.
            return None

    # --- inside

    def _source(self, container: str, file: Path) -> RegistrySource:
        if self.settings.storage_configured:
            return BlobSource(self._account, container, file.name)
        return FileSource(file)

    async def _send(self, messages: Sequence[Outbound]) -> None:
        await self._bus.send(messages)

    async def _open_senders(self) -> None:
        await self._bus.prepare(MCP_REQUESTS, MCP_RESPONSES, AGENT_COMMANDS)

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, AosError):
            log.warning("%s: %s", task.get_name(), error.detail)
        elif error is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
