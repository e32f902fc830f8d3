"""Whom an agent may ask: its `connected_agents`, against the other entries of the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from aos.registry.problems import RegistryProblem, suggest

EXPLAINED = 50
"""Unknown agents for which one that is named alike is looked for; among thousands of agents that takes long."""


class Asking(Protocol):
    """What is looked at of an agent's entry."""

    @property
    def agent_id(self) -> str: ...

    @property
    def enabled(self) -> bool: ...

    @property
    def connected_agents(self) -> Sequence[str]: ...


Entry = TypeVar("Entry", bound=Asking)


def check_connected(
    entries: Mapping[str, Entry], pointers: Mapping[str, str], problems: Sequence[RegistryProblem]
) -> tuple[dict[str, Entry], list[RegistryProblem], list[RegistryProblem]]:
    """Checks that every connected agent exists.

    An id that stands nowhere in the registry makes the agent bad (a warning if it is disabled). One whose own entry is
    bad or disabled is a warning: the agent stays, and is offered that one again once it is mended. Agents may name each
    other in a circle: a message that would go round is refused when it happens.

    Args:
        pointers: Where each entry stands in the document.
        problems: What made other entries bad.

    Returns:
        The entries without the bad ones, the new problems, and the new warnings.
    """
    broken = {problem.agent_id: problem for problem in problems if problem.agent_id is not None}
    known = [*entries, *broken]
    unknown: dict[str, str] = {}
    good: dict[str, Entry] = {}
    found: list[RegistryProblem] = []
    warnings: list[RegistryProblem] = []
    for agent_id, entry in entries.items():
        faults, cautions = _check(entry, pointers.get(agent_id, ""), entries, broken, known, unknown)
        warnings += cautions
        if faults and entry.enabled:
            found += faults
        else:
            warnings += faults
            good[agent_id] = entry
    return good, found, warnings


def _check(
    entry: Asking,
    where: str,
    entries: Mapping[str, Asking],
    broken: Mapping[str, RegistryProblem],
    known: Sequence[str],
    unknown: dict[str, str],
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
            if other not in unknown:
                alike = suggest(other, known) if len(unknown) < EXPLAINED else ""
                unknown[other] = f"There is no agent {other!r}.{alike}"
            faults.append(RegistryProblem(here, unknown[other], agent_id=entry.agent_id))
    return faults, cautions
