"""The composition root: builds the operating system from its settings, starts and stops it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from aos.agents.departures import Departures
from aos.agents.deployments import AgentDeployments
from aos.agents.desired import DesiredStates
from aos.agents.directory import AgentDirectory
from aos.agents.foundry_agent import PurposeDrivenAgentFoundry
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.agents.runtimes import open_runtime
from aos.approvals import ApprovalBoard, ApprovalDecision, ApprovalOutlet, Listed
from aos.checks import Checks
from aos.commands import Commands
from aos.config import Settings
from aos.conversations import Conversations
from aos.errors import AosError, TransientError
from aos.foundry.provisioning import scope_of
from aos.functions.account import function_account
from aos.functions.collecting import FunctionReplies
from aos.functions.outlet import FunctionOutlet
from aos.identity import identity
from aos.intake import Intake
from aos.kernel.clock import SystemClock
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.operations import approval_record, parked_call
from aos.kernel.types import Decision
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.key_vault import open_secrets
from aos.mcp.ledger import TableLedger
from aos.mcp.pins import ToolPins
from aos.mcp.results import ToolResults
from aos.mcp.servers import McpServers
from aos.mcp.status import ServerStatusBoard
from aos.messaging.bus import Bus, Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import AGENT_COMMANDS, MCP_REQUESTS, MCP_RESPONSES
from aos.outlet import BusOutlet
from aos.registry.agents import parse_agents
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import parse_servers
from aos.registry.source import BlobSource, FileSource, RegistrySource
from aos.reports import AgentReports, ServerReports
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
from aos.views import approval_view
from aos.workflows import WorkflowRunner

log = logging.getLogger("aos.system")

AGENT_REGISTRY = "agent_registry.json"
SERVER_REGISTRY = "mcp_server_registry.json"
SWEEP_PATIENCE = 5.0
"""Seconds for which one sweep goes on with further turns: most of them wait for somebody, and take next to no time."""


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
        self._credential = identity(settings) if settings.needs_identity else None
        self._account = StorageAccount(settings, self._credential)
        payloads = Payloads(self._account)
        claim_check = ClaimCheck(payloads if settings.storage_configured else None)
        self._bus = Bus(settings, self._credential)
        opened = open_runtime(settings, self._account, self._credential, clock)
        self.foundry = opened.port
        kind: type[PurposeDrivenAgent] = PurposeDrivenAgentFoundry if settings.use_foundry else PurposeDrivenAgent
        self._agents = LiveRegistry(
            self._source(settings.agent_container, folder / AGENT_REGISTRY), parse_agents, clock
        )
        self._servers = LiveRegistry(
            self._source(settings.mcp_container, folder / SERVER_REGISTRY), parse_servers, clock
        )
        values = Payloads(self._account, STATE_CONTAINER)
        self._functions_account = function_account(settings, self._account, self._credential)
        function_queues = Queues(self._functions_account, payloads)
        catalogue = ToolCatalogue(self._account, values)
        board = ServerStatusBoard(self._account)
        desired = DesiredStates(self._account)
        self.directory = AgentDirectory(
            self._agents,
            self._servers,
            catalogue,
            self.foundry,
            self._send,
            settings.model_deployment,
            kind=kind,
            desired=desired,
            queue_uri=self._functions_account.queue_uri if settings.queues_configured else None,
            make_queue=self._functions_account.queue,
            runtime=settings.foundry_api if settings.use_foundry else "custom",
        )
        self._deployments = AgentDeployments(self.directory, opened.deployments, kind, settings.model_deployment)
        counters = Counters(self._account)
        lease = settings.lease_seconds
        self.store = TableConversations(self._account, values, counters=counters, first_look=lease * 7 / 6)
        self._approvals = ApprovalBoard(self._account, values)
        trips = TableTrips(self._account) if settings.storage_configured else None
        self.kernel = Kernel(
            store=self.store,
            foundry=self.foundry,
            agents=self.directory,
            outlet=FunctionOutlet(
                ApprovalOutlet(BusOutlet(self._send, claim_check), self._approvals), function_queues, self._send
            ),
            board=trips,
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
        self.schedules = Schedules(self.kernel, self.store, self.directory)
        self.agents = AgentReports(self.directory, self._deployments, self.kernel, self.schedules, counters, kind)
        self.servers = ServerReports(self._servers, board, catalogue, trips)
        self.checks = Checks(
            settings,
            kind=kind,
            store=self.store,
            bus=self._bus,
            kernel=self.kernel,
            foundry=self.foundry,
            directory=self.directory,
            deployments=self._deployments,
            servers=self.servers,
            trips=trips,
            registries=(self._agents, self._servers),
            bus_problems=bus_problems,
        )
        self.requests = RequestDesk(
            router=self.router,
            workflows=self.workflows,
            kernel=self.kernel,
            intake=self.intake,
            agents=self.agents,
            checks=self.checks,
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
        self._secrets = open_secrets(settings.key_vault, self._credential, clock)
        self.mcp: McpServers | None = None
        if "mcp" in settings.roles:
            self.mcp = McpServers(
                registry=self._servers,
                ledger=TableLedger(self._account, values, lease=lease),
                catalogue=catalogue,
                board=board,
                send=self._send,
                claim_check=claim_check,
                pins=ToolPins(self._account, settings.mcp_container) if settings.storage_configured else None,
                trips=trips,
                secrets=self._secrets,
                private_networks=settings.mcp_private_networks,
            )
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: Watched | None = None

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
        await self._deployments.look(registry)
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
        await self.kernel.sweep(patience=SWEEP_PATIENCE)
        await self.requests.sweep()
        await self.workflows.sweep()

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
