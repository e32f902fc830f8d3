"""A server that this process runs: its connection, and what it listed over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from aos.kernel.clock import Clock
from aos.mcp.catalogue import FRESH, ToolCatalogue
from aos.mcp.connections import McpConnection
from aos.mcp.drift import Drift, bounded, compared, tidied
from aos.mcp.errors import LockInvalid, ToolChanged, UnknownTool
from aos.mcp.pins import ToolPins
from aos.mcp.schema import check_arguments, compile_schema
from aos.mcp.secrets import SecretSource
from aos.mcp.status import ServerStatus
from aos.mcp.tools import ServerTools, ToolInfo

if TYPE_CHECKING:
    from jsonschema_rs import Validator

    from aos.registry.mcp_servers import ServerEntry

log = logging.getLogger("aos.mcp")

LOOK_AGAIN = 10.0
"""Seconds after a listing before a tool that it lacks makes us list again."""


class HostedServer:
    """One entry of the registry and its connection.

    Attributes:
        restarts_asked: How many restarts an operator had asked for when it was made.
        drift: Where the last listing is not what was declared, or approved.
    """

    def __init__(
        self,
        entry: ServerEntry,
        *,
        secrets: SecretSource,
        catalogue: ToolCatalogue,
        clock: Clock,
        on_change: Callable[[], None],
        restarts_asked: int = 0,
        pins: ToolPins | None = None,
        private_networks: bool = False,
    ) -> None:
        self.entry = entry
        self.restarts_asked = restarts_asked
        self.connection = McpConnection(entry, secrets, clock, on_change, private_networks=private_networks)
        self.drift: tuple[Drift, ...] = ()
        self._catalogue = catalogue
        self._pins = pins if entry.pin_tools else None
        self._pinned = ""
        self._clock = clock
        self._listing: ServerTools | None = None
        self._listed_in = 0
        self._validators: dict[str, Validator] = {}
        self._listing_lock = asyncio.Lock()

    @property
    def listing_is_old(self) -> bool:
        """Whether session or approved definitions are new since the last listing, or that was long ago."""
        return (
            self._listing is None
            or (self._pins is not None and self._pinned != self._pins.version(self.entry.server_id))
            or self._listed_in != self.connection.session
            or self._clock.now() - self._listing.listed_at >= FRESH
        )

    async def tools(self, *, fresh: bool = False) -> ServerTools:
        """The server's tools, with the annotations that hold; every listing goes into the catalogue.

        Args:
            fresh: Ask the server even if the listing is a recent one.

        Raises:
            LockInvalid: It is not known which definitions are approved.
            ServerNotConfigured, ServerUnavailable, ServerDied, ToolTimeout, ServerRefused, ServerReplyInvalid: The
                server did not list them.
            StorageUnavailable: The catalogue could not be written.
        """
        asked_at = self._clock.now()
        await self.connection.ready()
        async with self._listing_lock:
            listing = self._listing
            if listing is not None and not self.listing_is_old and (not fresh or listing.listed_at >= asked_at):
                return listing
            session = self.connection.session
            listed = await self._recorded(await self.connection.tools())
            if listing is None or listing.hash != listed.hash:
                self._validators.clear()
            self._listing, self._listed_in = listed, session
            return listed

    async def _recorded(self, raw: ServerTools) -> ServerTools:
        """The listing as it holds, written to the catalogue."""
        listed, found = tidied(raw)
        if self._pins is not None:
            try:
                listed = await self._pins.hold(listed)
            except LockInvalid as error:
                self._found([Drift(kind="lock", detail=error.detail)])
                raise
            self._pinned = self._pins.version(self.entry.server_id)
        listed = await self._catalogue.put(listed, approved=self._pins is not None)
        self._found([*found, *compared(self.entry, listed)])
        return listed

    async def tool(self, name: str) -> ToolInfo:
        """A tool by name. Raises as `tools`, and `UnknownTool`, `ToolChanged`."""
        tools = await self.tools()
        if (found := _find(tools, name)) is None and self._clock.now() - tools.listed_at >= LOOK_AGAIN:
            tools = await self.tools(fresh=True)
            found = _find(tools, name)
        if found is None:
            known = ", ".join(sorted(tool.name for tool in tools.tools)[:20])
            raise UnknownTool(f"MCP server {self.entry.server_id} has no tool {name!r}; it has: {known or 'none'}.")
        if found.changed:
            raise ToolChanged(changed(self.entry.server_id, name))
        return found

    def check(self, tool: ToolInfo, arguments: dict[str, Any]) -> None:
        """Compares the arguments of a call with the tool's schema.

        Raises:
            ParamsInvalid: They do not fit.
            SchemaUnusable: The schema is not valid.
        """
        validator = self._validators.get(tool.name)
        if validator is None:
            validator = self._validators[tool.name] = compile_schema(self.entry.server_id, tool)
        check_arguments(validator, arguments)

    def status(self, owner: str) -> ServerStatus:
        """The server as it stands."""
        connection = self.connection
        return ServerStatus(
            server_id=self.entry.server_id,
            server_name=self.entry.server_name,
            state=connection.state,
            since=connection.since,
            last_error=connection.last_error,
            restarts=connection.restarts,
            tools=None if self._listing is None else len(self._listing.tools),
            drift=self.drift,
            heartbeat_at=self._clock.now(),
            owner=owner,
        )

    def _found(self, findings: Iterable[Drift]) -> None:
        drift = bounded(findings)
        for finding in set(drift).difference(self.drift):
            log.warning("MCP server %s: %s %s: %s", self.entry.server_id, finding.kind, finding.tool, finding.detail)
        self.drift = drift


def changed(server_id: str, tool: str) -> str:
    """What is said of a tool that is not what was approved."""
    return (
        f"The definition of tool {tool!r} of MCP server {server_id} has changed since it was approved. Look at it with "
        f"`python -m aos tools diff {server_id} {tool}`; `python -m aos tools approve {server_id} {tool}` allows it."
    )


def _find(tools: ServerTools, name: str) -> ToolInfo | None:
    return next((tool for tool in tools.tools if tool.name == name), None)
