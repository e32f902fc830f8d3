"""Whether the deployments that the agents think with exist: one request to the project for all of them."""

from __future__ import annotations

import logging

from aos.agents.directory import AgentDirectory
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.agents.runtimes import ModelNames
from aos.errors import AosError
from aos.registry.agents import AgentEntry, AgentRegistry

log = logging.getLogger("aos.agents")

NAMED = 10
"""Agents that are named at once as being without their deployment."""


class AgentDeployments:
    """Compares what the agents of the registry want to think with to what there is.

    Args:
        project: Lists the deployments of the project; None where there is no project.
        base: Name of the deployment without an adapter.
    """

    def __init__(
        self, directory: AgentDirectory, project: ModelNames | None, kind: type[PurposeDrivenAgent], base: str
    ) -> None:
        self._directory = directory
        self._project = project
        self._kind = kind
        self._base = base
        self._missing: frozenset[str] = frozenset()

    def wanted(self, entry: AgentEntry) -> str:
        """The deployment of the agent's own adapter."""
        return self._kind.from_entry(entry).deployment(self._base)

    async def look(self, registry: AgentRegistry) -> None:
        """Learns which are missing; an agent whose deployment came, or went, is bound anew."""
        if self._project is None:
            return
        try:
            names = await self._project.names()
        except AosError as error:
            log.warning("the deployments cannot be looked at: %s", error.detail)
            return
        wanted = {entry.agent_id: self.wanted(entry) for entry in registry.enabled}
        self._missing = frozenset(wanted.values()) - names
        for agent_id, deployment in wanted.items():
            bound = self._directory.bound(agent_id)
            if bound is not None and (bound.ref.deployment == deployment) == (deployment in self._missing):
                self._directory.unbind(agent_id)

    def problems(self, registry: AgentRegistry) -> str | None:
        """Which agents are without their own deployment, as far as is known; None when all is well."""
        notes: list[str] = []
        for entry in registry.enabled:
            bound, wanted = self._directory.bound(entry.agent_id), self.wanted(entry)
            if bound is not None and bound.ref.deployment != wanted:
                notes.append(f"{entry.agent_id} thinks with {bound.ref.deployment}: there is no deployment {wanted}")
            elif wanted in self._missing:
                notes.append(f"{entry.agent_id}: the project has no deployment {wanted}")
        return "; ".join(notes[:NAMED]) or None
