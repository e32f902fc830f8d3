"""The agents as the registries define them now: which there are, and each made ready for a turn.

Every process looks at the registries itself (they are re-read when a copy is older than 15 s), so a changed entry is in
force everywhere within that time, without a restart and without touching agents that did not change.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aos.agents.connected import askable, connected_tools, service_agent, version_of
from aos.agents.definition import AgentDefinition
from aos.agents.desired import Desired, DesiredStates
from aos.agents.served import NOTHING, Served
from aos.errors import AgentDisabled, AgentNotReady, AgentStopped, BusUnavailable, UnknownAgent
from aos.functions.sources import function_source, service_function
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.events import PlannedCall
from aos.kernel.ports import FoundryPort, ServiceAgent
from aos.kernel.records import replace
from aos.kernel.types import AgentRef, FunctionCall, Limits
from aos.mcp.bridge import list_request
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.functions import FunctionTools, ToolSource, convert_mcp_tools_to_function_tools
from aos.mcp.hosted import changed
from aos.messaging.bus import Outbound
from aos.registry.agents import AgentEntry, AgentRegistry
from aos.registry.errors import RegistryInvalid, RegistryMissing, RegistryUnreadable
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import ServerEntry, ServerRegistry
from aos.registry.policies import tool_configuration, turn_limits
from aos.registry.service import Runtime, check_service
from aos.registry.tools import check_tools

log = logging.getLogger("aos.agents")

REFRESH = 10.0
"""Seconds between looks at the registry for an agent that it does not have."""
ASK_AGAIN = 5.0
"""Seconds between requests to list the tools of a server that has not."""
REMEMBERED = 8
"""Definitions of one agent that a process remembers for turns in work."""
ON_TOP = 90.0
"""Seconds that a tool's result may take beyond the server's own time-outs: the way over the bus, twice."""


@dataclass(frozen=True, slots=True)
class BoundAgent:
    """An agent ready to take turns; see `aos.kernel.ports.AgentBinding`."""

    agent: AgentDefinition
    ref: AgentRef
    tools: FunctionTools
    limits: Limits | None = None
    running_since: float = 0.0
    served: Served = NOTHING

    def plan(self, call: FunctionCall) -> PlannedCall:
        return self.tools.plan(call)


@dataclass(frozen=True, slots=True)
class Seen:
    """A generation of the agent registry in short: each agent's fingerprint, and whether it is enabled."""

    generation: str
    agents: Mapping[str, tuple[str, bool]]

    def since(self, before: Seen) -> dict[str, Any]:
        """What changed since another generation: agent ids by kind of change."""
        old, new = before.agents, self.agents
        return {
            "generation": self.generation,
            "added": sorted(new.keys() - old.keys()),
            "changed": sorted(
                agent_id
                for agent_id in new.keys() & old.keys()
                if new[agent_id] != old[agent_id] and (new[agent_id][1] or not old[agent_id][1])
            ),
            "disabled": sorted(
                agent_id for agent_id in new.keys() & old.keys() if old[agent_id][1] and not new[agent_id][1]
            ),
            "removed": sorted(old.keys() - new.keys()),
        }


class _Made(NamedTuple):
    """What an agent is made from; `state` changes with it."""

    state: tuple[str, ...]
    sources: list[ToolSource]
    served: Served


class AgentDirectory:
    """Implements `aos.kernel.ports.AgentDirectory` on the registries, the tool catalogue and Foundry.

    Args:
        send: Puts messages on the bus; used to ask the MCP side for tools that it has not listed yet.
        base_deployment: Setting `AZURE_AI_MODEL_DEPLOYMENT`.
        desired: What operators want of agents; without it none is ever stopped.
        queue_uri: The address of a storage queue of Azure Functions by its name.
        make_queue: Creates such a queue unless it exists: for functions that the service calls.
        runtime: Where the agents run, which decides what may be left to the service.
        kind: What the agents are on the runtime in use.
    """

    def __init__(
        self,
        agents: LiveRegistry[AgentRegistry],
        servers: LiveRegistry[ServerRegistry],
        catalogue: ToolCatalogue,
        foundry: FoundryPort,
        send: Callable[[Sequence[Outbound]], Awaitable[None]],
        base_deployment: str,
        clock: Clock | None = None,
        kind: type[AgentDefinition] = AgentDefinition,
        *,
        desired: DesiredStates | None = None,
        queue_uri: Callable[[str], str] | None = None,
        make_queue: Callable[[str], Awaitable[object]] | None = None,
        runtime: Runtime = "responses",
    ) -> None:
        self._kind = kind
        self._agents = agents
        self._servers = servers
        self._catalogue = catalogue
        self._foundry = foundry
        self._send = send
        self._base = base_deployment
        self._desired = desired
        self._queue_uri = queue_uri
        self._make_queue = make_queue
        self._runtime = runtime
        self._definitions: dict[str, dict[str, BoundAgent]] = {}
        self._clock = clock or SystemClock()
        self._view: tuple[tuple[str, str], AgentRegistry] | None = None
        self._bound: dict[str, tuple[tuple[str, ...], BoundAgent]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._refreshed = 0.0
        self._asked: dict[str, float] = {}

    async def registry(self) -> AgentRegistry:
        """The registry of agents, checked against the registry of MCP servers: bad entries are problems.

        Raises:
            AgentNotReady: One of them was never read, because its document is missing or wrong as a whole.
            TransientError: One of them was never read, for now.
        """
        try:
            agents, servers = await self._agents.current(), await self._servers.current()
        except (RegistryInvalid, RegistryMissing, RegistryUnreadable) as error:
            # Messages wait until the operator has mended it.
            raise AgentNotReady(error.detail, code=error.code) from error
        generations = (agents.generation, servers.generation)
        if self._view is None or self._view[0] != generations:
            checked = check_tools(agents.value, servers.value)
            self._view = (generations, check_service(checked, self._runtime))
            for gone in self._bound.keys() - self._view[1].entries.keys():
                # Should it come back, it may have been removed from Foundry meanwhile.
                del self._bound[gone]
        return self._view[1]

    async def entry(self, agent_id: str, *, since: float | None = None) -> AgentEntry:
        """The agent's entry.

        Args:
            since: When the message came that is for the agent; an older registry cannot tell that there is none.

        Raises:
            UnknownAgent: The registry has no good entry for it; says why if there is a bad one.
            AgentNotReady: The registry has none, but it is older than `since`.
        """
        registry = await self.registry()
        if agent_id not in registry.entries and self._clock.now() - self._refreshed > REFRESH:
            self._refreshed = self._clock.now()
            await self._agents.refresh()
            registry = await self.registry()
        entry = registry.entries.get(agent_id)
        if entry is None:
            loaded = self._agents.peek()
            if since is not None and (loaded is None or loaded.checked_at < since):
                wait = max(1.0, self._refreshed + REFRESH - self._clock.now())
                raise AgentNotReady(
                    f"The registry of agents, read before the message came, has no {agent_id!r}.", retry_after=wait
                )
            bad = [problem for problem in registry.problems if problem.agent_id == agent_id]
            if bad:
                raise UnknownAgent(f"The entry of agent {agent_id!r} is wrong: {bad[0].pointer}: {bad[0].detail}")
            known = ", ".join(sorted(registry.entries)[:50]) or "none"
            raise UnknownAgent(f"The registry has no agent {agent_id!r}. Agents: {known}.")
        return entry

    async def enabled_entry(self, agent_id: str, *, since: float | None = None) -> AgentEntry:
        """Like `entry`, for agents that may be spoken to.

        Raises:
            AgentDisabled: It is switched off in the registry.
        """
        entry = await self.entry(agent_id, since=since)
        if not entry.enabled:
            raise AgentDisabled(f"Agent {agent_id!r} has `enabled: false` in the registry.")
        return entry

    async def bind(self, agent_id: str) -> BoundAgent:
        await self.enabled_entry(agent_id)
        wanted = Desired() if self._desired is None else await self._desired.get(agent_id)
        if wanted.stopped:
            raise AgentStopped(f"Agent {agent_id!r} was stopped by an operator; command `start` starts it.")
        return await self._bind(agent_id, wanted)

    async def bound_to(self, agent_id: str, ref: AgentRef) -> BoundAgent:
        known = self._definitions.get(agent_id, {}).get(ref.definition_hash)
        if known is not None:
            return known
        return await self._bind(agent_id, Desired() if self._desired is None else await self._desired.get(agent_id))

    async def _bind(self, agent_id: str, wanted: Desired) -> BoundAgent:
        made = await self._definition(agent_id, wanted)
        known = self._bound.get(agent_id)
        if known is None or known[0] != made.state:
            async with self._locks.setdefault(agent_id, asyncio.Lock()):
                # Only a holder of the newest registry makes agents; what another process just read is newer.
                await self._agents.refresh()
                made = await self._definition(agent_id, wanted)
                known = self._bound.get(agent_id)
                if known is None or known[0] != made.state:
                    entry = await self.entry(agent_id)
                    agent = self._kind.from_entry(entry)
                    tools = convert_mcp_tools_to_function_tools(made.sources)
                    spec = made.served.into(agent.spec(self._base, tools.definitions), tools)
                    if self._make_queue is not None:
                        await asyncio.gather(*map(self._make_queue, made.served.queues))
                    ref = await self._foundry.ensure_agent(spec)
                    bound = BoundAgent(agent, ref, tools, _limits(entry), wanted.running_since, made.served)
                    known = self._bound[agent_id] = (made.state, bound)
        if known[1].ref.generation != (generation := self.generation):
            bound = replace(known[1], ref=replace(known[1].ref, generation=generation))
            known = self._bound[agent_id] = (made.state, bound)
            self._remember(bound)
        return known[1]

    async def _definition(self, agent_id: str, wanted: Desired) -> _Made:
        """What the agent is made from: a key that changes with it, and its tools."""
        entry = await self.entry(agent_id)
        sources, versions = await self._tools(entry, (await self._servers.current()).value)
        served = Served(
            tuple(service_function(f, self._queue_uri) for f in entry.azure_functions if f.execution == "service")
        )
        if entry.connected_agents:
            others = askable(entry, (await self.registry()).entries)
            if entry.delegation == "service":
                served = replace(served, agents=await self._service_agents(others))
            else:
                connected = connected_tools(entry, {other.agent_id: other for other in others})
                sources += connected
                versions.append(f"agents={version_of(connected)}")
        if served != NOTHING:
            versions.append(f"service={served.version}")
        state = (entry.fingerprint, str(wanted.running_since), str(wanted.restarts), *versions)
        return _Made(state, sources, served)

    async def _service_agents(self, others: Sequence[AgentEntry]) -> tuple[ServiceAgent, ...]:
        """Connected agents for the service: they are made first, because it knows them by their ids.

        One that is stopped is left out, because nothing else keeps the service from running it. None of them leads back
        here: `check_service` refuses agents with connected agents of their own.
        """
        found: list[ServiceAgent] = []
        for other in others:
            wanted = Desired() if self._desired is None else await self._desired.get(other.agent_id)
            if not wanted.stopped:
                bound = await self._bind(other.agent_id, wanted)
                found.append(service_agent(other, bound.ref.version))
        return tuple(found)

    def _remember(self, bound: BoundAgent) -> None:
        """Turns in work end with the definition that they began with, also when the registry has changed."""
        definitions = self._definitions.setdefault(bound.agent.agent_id, {})
        definitions.pop(bound.ref.definition_hash, None)
        definitions[bound.ref.definition_hash] = bound
        while len(definitions) > REMEMBERED:
            del definitions[next(iter(definitions))]

    @property
    def generation(self) -> str:
        """The ETag of the agent registry that is in force in this process; empty before the first look."""
        loaded = self._agents.peek()
        return "" if loaded is None else loaded.generation.strip('"')

    def bound(self, agent_id: str) -> BoundAgent | None:
        """The agent as this process last bound it."""
        known = self._bound.get(agent_id)
        return None if known is None else known[1]

    def unbind(self, agent_id: str) -> None:
        """The next `bind` looks at everything that the agent consists of again."""
        self._bound.pop(agent_id, None)

    async def forget(self, agent_id: str) -> None:
        entry = None if self._view is None else self._view[1].entries.get(agent_id)
        others = entry.connected_agents if entry is not None and entry.delegation == "service" else ()
        # It may be one of those that the service runs for it.
        for name in dict.fromkeys((agent_id, *others)):
            self._bound.pop(name, None)
            await self._foundry.forget_agent(name)

    async def absent(self, agent_ids: Collection[str]) -> frozenset[str] | None:
        """Those of the agents that the registry, as it is now, says nothing of, be it good or bad.

        Returns:
            None: It cannot be told, because the registry cannot be read, or one of its entries does not say whose it
            is.

        Raises:
            AgentNotReady, TransientError: As `registry`.
        """
        await self._agents.refresh()
        registry = await self.registry()
        if self._agents.problem is not None:
            return None
        if any(problem.agent_id is None and problem.pointer.startswith("/agents") for problem in registry.problems):
            return None
        known = registry.entries.keys() | {problem.agent_id for problem in registry.problems}
        return frozenset(agent_ids) - known

    async def remove(self, agent_id: str) -> bool:
        """Has the agent deleted in Foundry, as far as this app made it; see `FoundryPort.remove_agent`."""
        self._bound.pop(agent_id, None)
        self._definitions.pop(agent_id, None)
        return await self._foundry.remove_agent(agent_id)

    async def look_up(self, agent_ids: Collection[str]) -> frozenset[str]:
        """Prepares for many `bind`s at once; see `FoundryPort.look_up_agents`."""
        return await self._foundry.look_up_agents(agent_ids)

    async def reload(self) -> None:
        """Reads both registries now."""
        await asyncio.gather(self._agents.reload(), self._servers.reload())

    @property
    def unread(self) -> list[str]:
        """Why a registry could not be read anew; the last good copy is in use meanwhile."""
        return [problem for problem in (self._agents.problem, self._servers.problem) if problem is not None]

    def seen(self) -> Seen:
        """The agents as this process last saw them, without any look."""
        entries = {} if self._view is None else self._view[1].entries
        return Seen(
            self.generation,
            {entry.agent_id: (entry.fingerprint, entry.enabled) for entry in entries.values()},
        )

    async def _tools(self, entry: AgentEntry, servers: ServerRegistry) -> tuple[list[ToolSource], list[str]]:
        sources: list[ToolSource] = []
        versions: dict[str, str] = {}
        for reference in entry.distinct_tools:
            server = servers.find(reference.server_name)
            if server is None:
                raise UnknownAgent(f"Agent {entry.agent_id!r} uses MCP server {reference.server_name!r}: unknown.")
            if any((source.server, source.info.name) == (server.server_id, reference.tool_name) for source in sources):
                # The same tool, of a server that is once named by its id and once by its name: the first counts.
                continue
            if not server.enabled:
                # Switched off for a while: the agent goes on without its tools (the registry warns of it).
                continue
            listed = await self._catalogue.get(server.server_id)
            if listed is None:
                await self._ask_for_tools(server.server_id)
                raise AgentNotReady(
                    f"MCP server {server.server_id!r} has not listed its tools yet; GET /api/mcp/servers says why.",
                    retry_after=1.0,
                )
            versions[server.server_id] = f"{listed.hash}/{time_limit(server)}"
            info = next((tool for tool in listed.tools if tool.name == reference.tool_name), None)
            if info is None:
                names = ", ".join(tool.name for tool in listed.tools)
                raise AgentNotReady(
                    f"Agent {entry.agent_id!r} uses tool {reference.tool_name!r}, which MCP server "
                    f"{server.server_id!r} does not have. Its tools: {names}.",
                    code="unknown_tool",
                )
            if info.changed:
                raise AgentNotReady(changed(server.server_id, info.name), code="tool_changed")
            how = tool_configuration(reference.configuration)
            sources.append(
                ToolSource(
                    server.server_id,
                    info,
                    how.timeout_seconds or time_limit(server),
                    how.approves(read_only=info.read_only),
                    how.defaults,
                    how.fixed,
                    how.locked,
                )
            )
        sources += [function_source(f, self._queue_uri) for f in entry.azure_functions if f.execution == "aos"]
        return sources, [f"{server}={version}" for server, version in sorted(versions.items())]

    async def _ask_for_tools(self, server_id: str) -> None:
        now = self._clock.now()
        if now - self._asked.get(server_id, 0.0) < ASK_AGAIN:
            return
        self._asked[server_id] = now
        try:
            await self._send([list_request(server_id, f"list.{uuid.uuid4().hex}")])
        except BusUnavailable as error:
            log.warning("could not ask for the tools of %s: %s", server_id, error.detail)


def _limits(entry: AgentEntry) -> Limits | None:
    own = turn_limits(entry.metadata)
    if own is None:
        return None
    return Limits(own.model_steps, own.tool_calls, own.total_tokens, own.context_tokens, own.delegation_depth)


def time_limit(server: ServerEntry) -> float:
    """Seconds after which the result of a call is not waited for any more."""
    return server.timeout_seconds * (server.max_retries + 1) + ON_TOP
