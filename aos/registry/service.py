"""What entries leave to the service, against what the runtime in use can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from aos.registry.agents import AgentEntry, AgentRegistry
from aos.registry.entries import Finding
from aos.registry.problems import RegistryProblem, json_pointer

Runtime = Literal["threads", "responses", "custom"]
"""Both generations of the Foundry Agent Service, by setting `FOUNDRY_API`, and the custom runtime."""


def check_service(registry: AgentRegistry, runtime: Runtime) -> AgentRegistry:
    """Checks `delegation` of agents and `execution` of their Azure Functions.

    Connected agents are run by the threads generation alone. Such an agent may have no functions that AOS would have to
    run, and no connected agents of its own ("How to use connected agents", limitations; learn.microsoft.com). Azure
    Functions are called by both generations.

    Returns:
        The registry without the bad agents, with what was found added to its problems; of disabled agents to its
        warnings.
    """
    good: dict[str, AgentEntry] = {}
    problems, warnings = list(registry.problems), list(registry.warnings)
    for agent_id, entry in registry.entries.items():
        where = registry.pointers.get(agent_id, "")
        found = [
            RegistryProblem(where + json_pointer(*at), detail, agent_id=agent_id)
            for at, detail in _faults(entry, registry.entries, runtime)
        ]
        if found and entry.enabled:
            problems += found
        else:
            warnings += found
            good[agent_id] = entry
    return replace(registry, entries=MappingProxyType(good), problems=tuple(problems), warnings=tuple(warnings))


def _faults(entry: AgentEntry, entries: Mapping[str, AgentEntry], runtime: Runtime) -> Iterator[Finding]:
    if runtime == "custom":
        for index, function in enumerate(entry.azure_functions):
            if function.execution == "service":
                yield (
                    ("azure_functions", index, "execution"),
                    'The custom runtime has no service that calls functions: leave it at "aos".',
                )
    if entry.delegation == "aos" or not entry.connected_agents:
        return
    if runtime != "threads":
        yield (
            ("delegation",),
            'Only the threads generation of Foundry runs connected agents itself: leave it at "aos", which works '
            "everywhere, or run on FOUNDRY_API=threads.",
        )
        return
    for index, name in enumerate(entry.connected_agents):
        other = entries.get(name)
        if other is None or not other.enabled:
            continue
        if keys := _of_aos(other):
            yield (
                ("connected_agents", index),
                f"The service cannot run agent {name!r} as a connected one: its {' and '.join(keys)} would be called "
                'by AOS. Take them away, or leave `delegation` at "aos".',
            )


def _of_aos(entry: AgentEntry) -> list[str]:
    """Keys of the entry that hold what a connected agent of the service cannot have."""
    keys = [f"`{key}`" for key in ("mcp_tools", "connected_agents") if getattr(entry, key)]
    if any(function.execution == "aos" for function in entry.azure_functions):
        keys.append('`azure_functions` without `execution` "service"')
    return keys
