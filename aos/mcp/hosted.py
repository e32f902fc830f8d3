"""A server that this process runs: its connection, and what it listed over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aos.kernel.clock import Clock
from aos.mcp.catalogue import FRESH, ToolCatalogue
from aos.mcp.connections import McpConnection
from aos.mcp.errors import UnknownTool
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
        private_networks: bool = False,
    ) -> None:
        self.entry = entry
        self.restarts_asked = restarts_asked
        self.connection = McpConnection(entry, secrets, clock, on_change, private_networks=private_networks)
        self._catalogue = catalogue
        self._clock = clock
        self._listing: ServerTools | None = None
        self._listed_in = 0
        self._validators: dict[str, Validator] = {}
        self._listing_lock = asyncio.Lock()

    @property
    def listing_is_old(self) -> bool:
        """Whether the session is a new one since the last listing, or that was long ago."""
        return (
            self._listing is None
            or self._listed_in != self.connection.session
            or self._clock.now() - self._listing.listed_at >= FRESH
        )

    async def tools(self, *, fresh: bool = False) -> ServerTools:
        """The server's tools, with the annotations that hold; every listing goes into the catalogue.

        Args:
            fresh: Ask the server even if the listing is a recent one.

        Raises:
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
            listed = await self._catalogue.put(await self.connection.tools())
            if listing is None or listing.hash != listed.hash:
                self._validators.clear()
                self._compare(listed)
            self._listing, self._listed_in = listed, session
            return listed

    async def tool(self, name: str) -> ToolInfo:
        """A tool by name. Raises as `tools`, and `UnknownTool`."""
        tools = await self.tools()
        if (found := _find(tools, name)) is None and self._clock.now() - tools.listed_at >= LOOK_AGAIN:
            tools = await self.tools(fresh=True)
            found = _find(tools, name)
        if found is None:
            known = ", ".join(sorted(tool.name for tool in tools.tools)[:20])
            raise UnknownTool(f"MCP server {self.entry.server_id} has no tool {name!r}; it has: {known or 'none'}.")
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
            heartbeat_at=self._clock.now(),
            owner=owner,
        )

    def _compare(self, listed: ServerTools) -> None:
        """Says where the server is not what its entry declares; the server is what counts."""
        for declared in self.entry.tools:
            found = _find(listed, declared.name)
            if found is None:
                log.warning("MCP server %s lacks the declared tool %s", self.entry.server_id, declared.name)
            elif found.input_schema != declared.input_schema:
                log.warning(
                    "tool %s of MCP server %s has another input schema than declared",
                    declared.name,
                    self.entry.server_id,
                )


def _find(tools: ServerTools, name: str) -> ToolInfo | None:
    return next((tool for tool in tools.tools if tool.name == name), None)
