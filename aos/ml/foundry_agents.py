"""Which agent answers a message: found again by the hash of its definition, or made once; never one per call."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar
from weakref import WeakValueDictionary

from aos.errors import FoundryRefused
from aos.foundry.clients import FoundryClients
from aos.foundry.deployments import Deployments
from aos.foundry.faults import foundry_errors
from aos.kernel.clock import Clock
from aos.ml.errors import InvalidModelRequest

T = TypeVar("T")
log = logging.getLogger("aos.ml")

FOUNDRY_TOOLS = {
    "code_interpreter": "code_interpreter",
    "data_analysis": "code_interpreter",
    "visualization": "code_interpreter",
    "statistical_modeling": "code_interpreter",
}
"""Tools by the names that callers use, and as the service calls them."""
REMEMBERED = 1000
DEPLOYMENT_KNOWN_FOR = 60.0
"""Seconds after which a deployment may have come or gone."""
_DEPLOYMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class AgentDefinition:
    """What makes an agent; two messages with equal definitions share one."""

    deployment: str
    instructions: str
    tools: tuple[str, ...]
    temperature: float
    top_p: float

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as a response refers to it; without a version the latest is meant."""

    name: str
    version: str | None

    @property
    def reference(self) -> dict[str, str]:
        """`agent_reference` of a response."""
        reference = {"type": "agent_reference", "name": self.name}
        return reference if self.version is None else reference | {"version": self.version}


def service_tools(names: Sequence[str]) -> tuple[str, ...]:
    """The service's tools behind the names that a caller gave, each once.

    Raises:
        InvalidModelRequest: There is no such tool.
    """
    if unknown := sorted(set(names) - FOUNDRY_TOOLS.keys()):
        raise InvalidModelRequest(
            f"tools: {', '.join(map(repr, unknown[:5]))} unknown; known: {', '.join(sorted(FOUNDRY_TOOLS))}.",
            code="unknown_tool",
        )
    return tuple(sorted({FOUNDRY_TOOLS[name] for name in names}))


class FoundryAgents:
    """The agents and deployments of a project.

    Args:
        app_name: Written into the metadata of what is made; agents without it are not used.
    """

    def __init__(self, clients: FoundryClients, app_name: str, clock: Clock) -> None:
        self._clients = clients
        self._app_name = app_name
        self._clock = clock
        self._project = Deployments(clients)
        self._agents: OrderedDict[str, Agent] = OrderedDict()
        self._deployments: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def has_deployment(self, name: str) -> bool:
        """Whether the project has a deployment of this name; remembered for a minute."""
        from azure.core.exceptions import ResourceNotFoundError

        if not _DEPLOYMENT.fullmatch(name):
            return False
        known = self._deployments.get(name)
        if known is not None and known[1] > self._clock.now():
            return known[0]
        with foundry_errors(f"finding deployment {name}"):
            try:
                await self._clients.project.deployments.get(name)
                exists = True
            except ResourceNotFoundError:
                exists = False
        self._deployments[name] = exists, self._clock.now() + DEPLOYMENT_KNOWN_FOR
        _forget_oldest(self._deployments)
        return exists

    async def ensure(self, definition: AgentDefinition, label: str) -> Agent:
        """The agent of this definition.

        Args:
            label: What its name begins with, for people.

        Raises:
            FoundryUnavailable, FoundryRefused: From the service; `deployment_not_found` names those that exist.
        """
        key = definition.hash
        if (known := self._agents.get(key)) is not None:
            self._agents.move_to_end(key)
            return known
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if (known := self._agents.get(key)) is None:
                name = _name(self._app_name, label, key)
                known = self._agents[key] = await self._find(name, key) or await self._make(name, key, definition)
                _forget_oldest(self._agents)
        return known

    def forget(self, definition: AgentDefinition) -> None:
        """The agent turned out to be gone: look again when it is next needed."""
        self._agents.pop(definition.hash, None)

    async def tools_of(self, agent: Agent) -> tuple[str, ...]:
        """The kinds of tools that an agent has."""
        with foundry_errors(f"finding agent {agent.name}"):
            if agent.version is None:
                found = (await self._clients.project.agents.get(agent.name)).versions.latest
            else:
                found = await self._clients.project.agents.get_version(agent.name, agent.version)
            return tuple(str(tool["type"]) for tool in found.definition.get("tools") or ())

    async def check(self) -> None:
        """Asks the service for its deployments.

        Raises:
            FoundryUnavailable, FoundryRefused: It cannot be reached, or refuses the sign-in.
        """
        await self._project.check()

    async def _find(self, name: str, key: str) -> Agent | None:
        from azure.core.exceptions import ResourceNotFoundError

        with foundry_errors(f"finding agent {name}"):
            try:
                latest = (await self._clients.project.agents.get(name)).versions.latest
            except ResourceNotFoundError:
                return None
            metadata = latest.metadata or {}
            if metadata.get("aos_app") != self._app_name or metadata.get("aos_hash") != key:
                raise FoundryRefused(
                    f"The Foundry project has an agent {name!r} that AOS did not make; AOS does not touch it. "
                    "Delete it, or choose another AOS_APP_NAME.",
                    code="agent_name_taken",
                )
            return Agent(name, str(latest.version))

    async def _make(self, name: str, key: str, definition: AgentDefinition) -> Agent:
        from azure.ai.projects.models import CodeInterpreterTool, PromptAgentDefinition, Tool

        await self._project.require(definition.deployment)
        tools: list[Tool] = [CodeInterpreterTool() for tool in definition.tools if tool == "code_interpreter"]
        prompt = PromptAgentDefinition(
            model=definition.deployment,
            instructions=definition.instructions,
            tools=tools or None,
            temperature=definition.temperature,
            top_p=definition.top_p,
        )
        metadata = {"aos_app": self._app_name, "aos_hash": key}
        with foundry_errors(f"creating agent {name}"):
            made = await self._clients.project.agents.create_version(name, definition=prompt, metadata=metadata)
            agent = Agent(name, str(made.version))
        log.info("made agent %s version %s on %s", name, agent.version, definition.deployment)
        return agent


def _name(app_name: str, label: str, key: str) -> str:
    """At most 63 letters, digits and hyphens, ending in a letter or digit; equal only for equal definitions."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{app_name}-{label}")[:40].strip("-")
    return f"{readable}-{key[:16]}".lstrip("-")


def _forget_oldest(known: OrderedDict[str, T]) -> None:
    while len(known) > REMEMBERED:
        known.popitem(last=False)
