"""`mcp_server_registry.json`: which MCP servers exist, how they are started or reached, which tools they declare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from aos.registry.document import decode
from aos.registry.entries import Finding, Flag, Id, JsonObject, Name, RegistryModel, Text, parse_entries
from aos.registry.problems import RegistryProblem
from aos.registry.schemas import schema_fault
from aos.registry.server_limits import ServerLimits, server_limits, server_limits_faults

ServerType = Literal["stdio", "sse", "streamable_http", "websocket"]

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
"""A token of RFC 9110 section 5.6.2."""
Argument = Annotated[str, Field(max_length=8192, pattern=r"^[^\x00]*$")]
HeaderValue = Annotated[str, Field(max_length=8192, pattern=r"^[^\x00\r\n]*$")]

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]{0,127})\}")
"""`${NAME}`: a value that the registry names but does not hold."""
_SPACES = re.compile(r"[\s\x00-\x1f\x7f]")


class ToolDeclaration(RegistryModel):
    """A tool that the server is expected to have. `input_schema` is a JSON Schema of type object."""

    name: Name
    description: Text = ""
    input_schema: JsonObject


class ResourceDeclaration(RegistryModel):
    """A resource that the server is expected to have."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    name: Name
    description: Text = ""
    mime_type: Annotated[str, Field(max_length=256)] | None = None


class ServerEntry(RegistryModel):
    """One MCP server.

    `env` and `headers` may name secrets as `${NAME}`, `url` an address that differs from one environment to the next;
    they are resolved where the server is started, not here.
    `timeout_seconds` bounds one attempt of a tool call, `max_retries` counts the attempts after the first. `pin_tools`:
    a tool whose definition changes is not used until somebody approves it.
    """

    server_id: Id
    server_name: Name
    server_type: ServerType = "stdio"
    command: Argument | None = None
    args: Annotated[tuple[Argument, ...], Field(max_length=256)] = ()
    env: Annotated[dict[VariableName, Argument], Field(max_length=256)] = Field(default_factory=dict)
    url: Annotated[str, Field(max_length=2048)] | None = None
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=256)] = Field(default_factory=dict)
    tools: Annotated[tuple[ToolDeclaration, ...], Field(max_length=1024)] = ()
    resources: Annotated[tuple[ResourceDeclaration, ...], Field(max_length=1024)] = ()
    enabled: Flag = True
    auto_start: Flag = True
    pin_tools: Flag = True
    timeout_seconds: Annotated[float, Field(strict=True, gt=0, le=3600)] = 30
    max_retries: Annotated[int, Field(strict=True, ge=0, le=10)] = 3
    metadata: JsonObject = Field(default_factory=dict)
    """`limits` in it bounds the server, see `aos.registry.server_limits.ServerLimits`."""

    @property
    def limits(self) -> ServerLimits:
        """What `metadata.limits` says, and the defaults."""
        return server_limits(self.metadata)

    def tool(self, name: str) -> ToolDeclaration | None:
        """The declared tool of this name."""
        return next((tool for tool in self.tools if tool.name == name), None)

    def faults(self) -> Iterator[Finding]:
        match self.server_type:
            case "stdio":
                if not (self.command or "").strip():
                    yield ("command",), "It is required for server_type stdio: the program that runs the server."
            case "websocket":
                yield (
                    ("server_type",),
                    "MCP's SDK no longer has the websocket transport: use streamable_http with the server's url.",
                )
            case _:
                if not (self.url or "").startswith("${") and (fault := url_fault(self.url)) is not None:
                    yield ("url",), fault
        yield from server_limits_faults(self.metadata)
        first: dict[str, int] = {}
        for index, tool in enumerate(self.tools):
            if first.setdefault(tool.name, index) != index:
                yield (
                    ("tools", index, "name"),
                    f"The tool {tool.name!r} is declared at /tools/{first[tool.name]} already.",
                )
            if (wrong := schema_fault(tool.input_schema)) is not None:
                at, detail = wrong
                yield ("tools", index, "input_schema", *at), detail


@dataclass(frozen=True, slots=True)
class ServerRegistry:
    """A parsed registry of MCP servers.

    Attributes:
        entries: The good entries by server id, also the disabled ones, in the order of the document.
        problems: What makes entries bad; those are not in `entries`.
        warnings: What is odd but does no harm.
        pointers: Where each good entry stands in the document, by server id: `/servers/0`.
        names: The server id behind each name and each id.
    """

    version: str
    entries: Mapping[str, ServerEntry]
    problems: tuple[RegistryProblem, ...] = ()
    warnings: tuple[RegistryProblem, ...] = ()
    pointers: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> ServerEntry | None:
        """The server with this `server_name` or `server_id`; no two servers share either."""
        server_id = self.names.get(name)
        return None if server_id is None else self.entries[server_id]

    @property
    def enabled(self) -> tuple[ServerEntry, ...]:
        return tuple(entry for entry in self.entries.values() if entry.enabled)


def parse_servers(document: bytes) -> ServerRegistry:
    """Parses `mcp_server_registry.json`.

    Ids and names share one space, because agents may refer to a server by either: a good entry whose id or name is
    taken by an earlier good one is a problem.

    Raises:
        RegistryInvalid: The document as a whole cannot be read.
    """
    raw = decode(document, "servers")
    parsed = parse_entries(raw, ServerEntry, "server_id")
    entries: dict[str, ServerEntry] = {}
    pointers: dict[str, str] = {}
    names: dict[str, str] = {}
    for where, entry in parsed.good:
        own = {"server_id": entry.server_id, "server_name": entry.server_name}
        taken = [
            RegistryProblem(
                f"{where}/{key}", f"{name!r} is taken by {pointers[names[name]]}.", server_id=entry.server_id
            )
            for key, name in own.items()
            if name in names
        ]
        if taken:
            parsed.problems.extend(taken)
            continue
        entries[entry.server_id], pointers[entry.server_id] = entry, where
        names.update(dict.fromkeys(own.values(), entry.server_id))
    return ServerRegistry(
        raw.version,
        MappingProxyType(entries),
        tuple(parsed.problems),
        tuple(parsed.warnings),
        MappingProxyType(pointers),
        MappingProxyType(names),
    )


def url_fault(url: str | None) -> str | None:
    """What is wrong with the address of an HTTP server; None if nothing is."""
    if not url:
        return "It is required for this server_type: the http or https address of the server."
    remedy = "use an address such as https://tools.example.com/mcp"
    if _SPACES.search(url):
        return f"It contains blanks or control characters: {remedy}."
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        return f"It is not an http or https address: {remedy}."
    if parts.username is not None or parts.password is not None:
        return "It contains credentials: put them into `headers`, as `${NAME}`."
    return None
