"""How a server is reached: the one place that knows transports.

A stdio server is a child that gets what its entry names and little else, writes its standard error into our log, and
ends when its standard input does: so it ends with us, however we end (MCP specification 2025-11-25, lifecycle,
shutdown).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

import aos
from aos.mcp.errors import ServerNotConfigured
from aos.mcp.secrets import Resolved, SecretSource, resolve

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mcp import StdioServerParameters
    from mcp.client._transport import ReadStream, TransportStreams
    from mcp.shared.message import SessionMessage

    from aos.registry.mcp_servers import ServerEntry

log = logging.getLogger("aos.mcp")

LONGEST_LINE = 4096
"""Bytes of a line of standard error that reach the log."""
LAST_WORDS = 1.0
"""Seconds to read what is left in standard error after the server has ended."""


async def open_target(
    entry: ServerEntry, secrets: SecretSource, ended: asyncio.Event
) -> AbstractAsyncContextManager[TransportStreams]:
    """The transport to a server, for `mcp.Client`; entering it starts the server.

    Args:
        ended: Is set when the server's side of the connection ends.

    Raises:
        ServerNotConfigured: The entry cannot be carried out here; says why and what to do.
    """
    if entry.server_type != "stdio":
        raise ServerNotConfigured(
            f"MCP server {entry.server_id}: server_type {entry.server_type} is not offered here yet; use stdio."
        )
    if not entry.command:
        raise ServerNotConfigured(f"MCP server {entry.server_id}: server_type stdio needs a command.")
    environment = await resolve(entry.env, secrets, f"env of MCP server {entry.server_id}")
    return _stdio(entry, environment, ended)


@asynccontextmanager
async def _stdio(entry: ServerEntry, environment: Resolved, ended: asyncio.Event) -> AsyncIterator[TransportStreams]:
    from mcp.client.stdio import stdio_client

    parameters = _parameters(entry, environment)
    async with (
        _logged_stderr(entry.server_id, environment) as stderr,
        stdio_client(parameters, stderr) as (read, write),
    ):
        # The child has its own descriptor by now; with ours closed, its end is the end of the stream.
        stderr.close()
        yield _Watched(read, ended), write


def _parameters(entry: ServerEntry, environment: Resolved) -> StdioServerParameters:
    from mcp import StdioServerParameters

    assert entry.command is not None  # noqa: S101 - checked by open_target
    values = dict(environment.values)
    command = entry.command
    if command == "python":
        command = sys.executable
        values["PYTHONPATH"] = os.pathsep.join(import_path(values.get("PYTHONPATH")))
    # As exec does it, the program is looked for in the child's PATH.
    if shutil.which(command, path=values.get("PATH")) is None:
        raise ServerNotConfigured(
            f"MCP server {entry.server_id}: the program {entry.command!r} is not on this host. Servers that are not "
            "written in Python need the container runtime, or are reached over HTTP."
        )
    return StdioServerParameters(command=command, args=list(entry.args), env=values, encoding_error_handler="replace")


def import_path(wanted: str | None = None) -> list[str]:
    """Where a Python child finds our modules and their dependencies, whichever way this process found them.

    Args:
        wanted: The entry's own PYTHONPATH; comes first.
    """
    root = str(Path(aos.__file__).resolve().parents[1])
    own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    return list(dict.fromkeys([*(wanted.split(os.pathsep) if wanted else ()), root, *own]))


@asynccontextmanager
async def _logged_stderr(server_id: str, environment: Resolved) -> AsyncIterator[TextIO]:
    """A file whose lines go to our log with the server's id, secrets masked."""
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    copying = asyncio.create_task(_copy(reader, server_id, environment), name=f"stderr of MCP server {server_id}")
    file = os.fdopen(theirs, "w")
    try:
        yield file
    finally:
        file.close()
        # A grandchild may hold the descriptor for longer than we want to wait.
        await asyncio.wait({copying}, timeout=LAST_WORDS)
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
        transport.close()


async def _copy(reader: asyncio.StreamReader, server_id: str, environment: Resolved) -> None:
    while True:
        try:
            line = await reader.readuntil()
        except asyncio.IncompleteReadError as error:
            line = error.partial
        except asyncio.LimitOverrunError as error:
            line = await reader.read(min(error.consumed, LONGEST_LINE) or LONGEST_LINE)
        if not line and reader.at_eof():
            return
        text = environment.mask(line.decode(errors="replace")).rstrip()
        if text:
            log.info("%s: %s", server_id, text)


class _Watched:
    """A read stream that tells when it ends."""

    def __init__(self, stream: ReadStream[SessionMessage | Exception], ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    async def receive(self) -> SessionMessage | Exception:
        return await self._stream.receive()

    async def aclose(self) -> None:
        self._ended.set()
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self._stream.__anext__()
        except BaseException:
            # The end of the iteration, or of the stream in another way.
            self._ended.set()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._ended.set()
        return await self._stream.__aexit__(kind, error, trace)
