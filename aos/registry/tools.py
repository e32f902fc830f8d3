"""The two registries together: does every tool that an agent refers to exist?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from aos.registry.agents import AgentEntry, AgentRegistry
from aos.registry.mcp_servers import ServerEntry, ServerRegistry
from aos.registry.problems import RegistryProblem

_SHOWN = 10
_EXPLAINED = 50
"""Names for which what is like them is looked for; it takes milliseconds each, and one name may stand in all agents."""


def check_tools(agents: AgentRegistry, servers: ServerRegistry) -> AgentRegistry:
    """Checks the tool references of the agents against the MCP servers.

    A reference to a server that is not registered, or to a tool that its server does not declare, makes the agent bad.
    A server that declares no tools is not held to it: what it has is known when it runs. For a disabled agent, and for
    a reference to a disabled server, the same findings are warnings: the agent stays known as what it is, and a
    server may be switched off for a while.

    Returns:
        The registry without the bad agents, with what was found added to its problems and warnings.
    """
    good: dict[str, AgentEntry] = {}
    problems = list(agents.problems)
    warnings = list(agents.warnings)
    known: dict[tuple[str, str], str] = {}
    for agent_id, agent in agents.entries.items():
        faults, cautions = _check(agent, agents.pointers.get(agent_id, ""), servers, known)
        warnings.extend(cautions)
        if agent.enabled and faults:
            problems.extend(faults)
        else:
            warnings.extend(faults)
            good[agent_id] = agent
    return replace(agents, entries=MappingProxyType(good), problems=tuple(problems), warnings=tuple(warnings))


def _check(
    agent: AgentEntry, where: str, servers: ServerRegistry, known: dict[tuple[str, str], str]
) -> tuple[list[RegistryProblem], list[RegistryProblem]]:
    """`known`: what is wrong with tools that agents before this one referred to."""
    faults: list[RegistryProblem] = []
    cautions: list[RegistryProblem] = []
    for index, reference in enumerate(agent.mcp_tools):
        here = f"{where}/mcp_tools/{index}"
        server = servers.find(reference.server_name)
        if server is None:
            name = (reference.server_name, "")
            if name not in known:
                known[name] = _unknown_server(reference.server_name, servers, alike=len(known) < _EXPLAINED)
            faults.append(RegistryProblem(f"{here}/server_name", known[name], agent_id=agent.agent_id))
            continue
        if server.tools and server.tool(reference.tool_name) is None:
            name = (server.server_id, reference.tool_name)
            if name not in known:
                known[name] = _unknown_tool(reference.tool_name, server, alike=len(known) < _EXPLAINED)
            faults.append(RegistryProblem(f"{here}/tool_name", known[name], agent_id=agent.agent_id))
        elif not server.enabled:
            detail = f"The MCP server {server.server_id!r} is disabled: the tool cannot be used until it is enabled."
            cautions.append(RegistryProblem(f"{here}/server_name", detail, agent_id=agent.agent_id))
    return faults, cautions


def _unknown_tool(name: str, server: ServerEntry, *, alike: bool) -> str:
    listed = _listed(name, [tool.name for tool in server.tools], alike=alike)
    return f"The MCP server {server.server_id!r} declares no tool {name!r}; it has {listed}."


def _unknown_server(name: str, servers: ServerRegistry, *, alike: bool) -> str:
    if (bad := next((p for p in servers.problems if p.server_id == name), None)) is not None:
        return f"The entry of the MCP server {name!r} is wrong, at {bad.pointer}: {bad.detail}"
    if not servers.names:
        return f"There is no MCP server {name!r}: the MCP server registry has no good entries."
    return f"There is no MCP server {name!r}; there is {_listed(name, servers.names, alike=alike)}."


def _listed(name: str, known: Iterable[str], *, alike: bool) -> str:
    """The known names, those like `name` first if wanted."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, names, n=3) if alike else []
    ordered = [*close, *(other for other in names if other not in close)]
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(map(repr, ordered[:_SHOWN])) + more
