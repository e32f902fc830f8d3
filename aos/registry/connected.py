"""Whom an agent may ask: its `connected_agents`, against the other entries of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from aos.registry.problems import RegistryProblem, suggest

if TYPE_CHECKING:
    from aos.registry.agents import AgentEntry, AgentRegistry


def check_connected(registry: AgentRegistry) -> AgentRegistry:
    """Checks that every connected agent exists.

    An id that stands nowhere in the registry makes the agent bad (a warning if it is disabled). One whose own entry is
    bad or disabled is a warning: the agent stays, and is offered that one again once it is mended. Agents may name each
    other in a circle: a message that would go round is refused when it happens.

    Returns:
        The registry without the bad agents, with what was found added to its problems and warnings.
    """
    if not any(entry.connected_agents for entry in registry.entries.values()):
        return registry
    broken = {problem.agent_id: problem for problem in registry.problems if problem.agent_id is not None}
    known = [*registry.entries, *broken]
    good: dict[str, AgentEntry] = {}
    problems, warnings = list(registry.problems), list(registry.warnings)
    for agent_id, entry in registry.entries.items():
        faults, cautions = _check(entry, registry.pointers.get(agent_id, ""), registry.entries, broken, known)
        warnings += cautions
        if faults and entry.enabled:
            problems += faults
        else:
            warnings += faults
            good[agent_id] = entry
    return replace(registry, entries=MappingProxyType(good), problems=tuple(problems), warnings=tuple(warnings))


def _check(
    entry: AgentEntry,
    where: str,
    entries: Mapping[str, AgentEntry],
    broken: Mapping[str, RegistryProblem],
    known: list[str],
) -> tuple[list[RegistryProblem], list[RegistryProblem]]:
    faults: list[RegistryProblem] = []
    cautions: list[RegistryProblem] = []
    for index, other in enumerate(entry.connected_agents):
        here = f"{where}/connected_agents/{index}"
        if other in entries:
            if not entries[other].enabled:
                detail = f"The agent {other!r} is disabled: it cannot be asked until it is enabled."
                cautions.append(RegistryProblem(here, detail, agent_id=entry.agent_id))
        elif other in broken:
            problem = broken[other]
            detail = f"The entry of the agent {other!r} is wrong, at {problem.pointer}: {problem.detail}"
            cautions.append(RegistryProblem(here, detail, agent_id=entry.agent_id))
        else:
            detail = f"There is no agent {other!r}.{suggest(other, known)}"
            faults.append(RegistryProblem(here, detail, agent_id=entry.agent_id))
    return faults, cautions
