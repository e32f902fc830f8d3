"""Where a server is not what its entry says, or not what it was: said in its status and in health, never silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from aos.mcp.invisible import cleaned
from aos.mcp.tools import ServerTools, ToolInfo
from aos.registry.schemas import schema_fault

if TYPE_CHECKING:
    from aos.registry.mcp_servers import ServerEntry

DriftKind = Literal[
    "missing", "undeclared", "schema", "description", "changed", "duplicate", "invisible", "unusable", "lock"
]
LONGEST = 300
LONGEST_NAME = 128
MOST = 40
"""Findings that are kept of one server; the rest is counted."""


class Drift(BaseModel):
    """One finding.

    Attributes:
        kind: `missing`: declared, but not listed. `undeclared`: listed, but not declared. `schema`, `description`:
            declared otherwise. `changed`: not what was approved; it is not called. `duplicate`: listed twice; the first
            counts. `invisible`: characters that nobody sees were removed. `unusable`: its input schema is not valid.
            `lock`: the approved definitions cannot be read.
        tool: Its name; empty for a finding about the server.
    """

    model_config = ConfigDict(frozen=True)

    kind: DriftKind
    tool: str = ""
    detail: str


def tidied(listed: ServerTools) -> tuple[ServerTools, tuple[Drift, ...]]:
    """The listing as it may be used: without invisible characters, each name once; and what had to be done to it."""
    tools: dict[str, ToolInfo] = {}
    found: list[Drift] = []
    for raw in listed.tools:
        tool = cleaned(raw)
        if tool is not raw:
            found.append(Drift(kind="invisible", tool=tool.name, detail="It is listed with invisible characters."))
        if tool.name in tools:
            found.append(Drift(kind="duplicate", tool=tool.name, detail="It is listed twice; the first counts."))
            continue
        tools[tool.name] = tool
        if (fault := schema_fault({"type": "object", **tool.input_schema})) is not None:
            detail = f"/{'/'.join(map(str, fault[0]))}: {fault[1]}"
            found.append(Drift(kind="unusable", tool=tool.name, detail=detail[:LONGEST]))
    return listed.model_copy(update={"tools": tuple(tools.values())}), tuple(found)


def compared(entry: ServerEntry, listed: ServerTools) -> Iterator[Drift]:
    """What differs from the entry's declarations, and from what was approved.

    An entry that declares no tools is not compared.
    """
    server = entry.server_id
    for tool in listed.tools:
        if tool.changed:
            detail = f"Not what was approved: python -m aos tools diff {server} {tool.name}"
            yield Drift(kind="changed", tool=tool.name, detail=detail)
    if not entry.tools:
        return
    tools = {tool.name: tool for tool in listed.tools}
    for declared in entry.tools:
        found = tools.get(declared.name)
        if found is None:
            yield Drift(kind="missing", tool=declared.name, detail="It is declared, but the server does not list it.")
            continue
        if found.input_schema != declared.input_schema:
            yield Drift(kind="schema", tool=declared.name, detail="The server lists another input schema.")
        if declared.description and found.description != declared.description:
            yield Drift(kind="description", tool=declared.name, detail="The server lists another description.")
    for name in sorted(tools.keys() - {declared.name for declared in entry.tools}):
        yield Drift(kind="undeclared", tool=name, detail="The server lists it, but it is not declared.")


def bounded(findings: Iterable[Drift]) -> tuple[Drift, ...]:
    """At most `MOST` findings of bounded length, the last of which says how many there are more."""
    found = tuple(
        Drift(kind=each.kind, tool=each.tool[:LONGEST_NAME], detail=each.detail[:LONGEST]) for each in findings
    )
    if len(found) <= MOST:
        return found
    rest = found[MOST - 1 :]
    return (*found[: MOST - 1], Drift(kind=rest[0].kind, detail=f"There are {len(rest)} more findings."))
