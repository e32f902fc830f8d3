"""How a server is reached: the one place that knows transports.

A stdio server is a child that gets what its entry names and little else, writes its standard error into our log, and
ends with us, however we end: on Linux the kernel kills it, elsewhere its standard input ends (MCP specification
2025-11-25, lifecycle, shutdown). An HTTP server is reached over connections that `aos.mcp.egress` guards; its event
stream (`sse`, the older transport) carries messages of at most 1 MiB, which is the SDK's bound.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import urlsplit

import aos
from aos.mcp.errors import ServerNotConfigured, ServerUnavailable
from aos.mcp.link import Link, WatchedStream
from aos.mcp.secrets import Resolved, SecretSource, resolve
from aos.mcp.stdio import stdio_streams
from aos.registry.mcp_servers import url_fault

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mcp.client._transport import TransportStreams

    from aos.registry.mcp_servers import ServerEntry

log = logging.getLogger("aos.mcp")

LONGEST_LINE = 4096
"""Bytes of a line of standard error that reach the log."""
MOST_GARBAGE = 100
"""Messages in a row that are not MCP after which a connection is given up."""
LEAST_SILENCE = 300.0
"""Seconds without a byte after which an HTTP connection that waits for one is taken to be dead; more for slow tools."""
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
"""RFC 9110 section 5.5, in ASCII."""
LAST_WORDS = 1.0
"""Seconds to read what is left in standard error after the server has ended."""


async def open_target(
    entry: ServerEntry, secrets: SecretSource, link: Link, *, private_networks: bool = False
) -> AbstractAsyncContextManager[TransportStreams]:
    """The transport to a server, for `mcp.Client`; entering it starts the server, or opens the connection.

    Args:
        link: Is told what comes, and when the connection is over.
        private_networks: Whether HTTP servers may lie at private addresses.

    Raises:
        ServerNotConfigured: The entry cannot be carried out here; says why and what to do.
        ServerUnavailable: A secret, or the name of the host, cannot be looked up now.
    """
    where = f"MCP server {entry.server_id}"
    match entry.server_type:
        case "stdio":
            environment = await resolve(entry.env, secrets, f"env of {where}")
            link.mask = environment.mask
            return _stdio(entry, _command(entry, environment), environment, link)
        case "websocket":
            raise ServerNotConfigured(
                f"{where}: MCP's SDK no longer has the websocket transport: use streamable_http with the server's url."
            )
        case _:
            headers = await resolve(entry.headers, secrets, f"headers of {where}")
            for name, value in headers.values.items():
                if not _HEADER_VALUE.fullmatch(value):
                    raise ServerNotConfigured(
                        f"headers of {where}: the value of {name} has characters that no header may hold."
                    )
            address = await resolve({"url": entry.url or ""}, secrets, f"url of {where}")
            url = address.values["url"]
            if (fault := url_fault(url)) is not None:
                raise ServerNotConfigured(f"url of {where}: {fault}")
            await _look_up(where, url, private_networks)
            link.mask = Resolved({}, headers.secrets | _shown(address)).mask
            return _http(entry, url, dict(headers.values), link, private_networks)


def _shown(address: Resolved) -> frozenset[str]:
    """The secrets of an address, also in the form in which errors of HTTP and its log show the whole of it."""
    import httpx2

    return address.secrets and address.secrets | {str(httpx2.URL(address.values["url"]))}


class _Masking(logging.Filter):
    """Takes the secrets of an entry out of what is logged."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._link.mask(record.getMessage()), ()
        return True


async def _look_up(where: str, url: str, private: bool) -> None:
    """Says at once what the guard of each connection would say; see `aos.mcp.egress`."""
    from aos.mcp.egress import EgressRefused, allowed_addresses

    parts = urlsplit(url)
    assert parts.hostname is not None  # noqa: S101 - url_fault looked
    try:
        await allowed_addresses(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), private)
    except EgressRefused as error:
        raise ServerNotConfigured(f"url of {where}: {error}.") from None
    except (OSError, UnicodeError) as error:
        raise ServerUnavailable(f"url of {where}: {parts.hostname} cannot be resolved: {error}") from None


@asynccontextmanager
async def _http(
    entry: ServerEntry, url: str, headers: dict[str, str], link: Link, private: bool
) -> AsyncIterator[TransportStreams]:
    import httpx2
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamable_http_client

    from aos.mcp.egress import CONNECT_SECONDS, GuardedTransport

    largest = entry.limits.message_bytes
    # A response may be silent for as long as its tool may work; what is silent for longer is dead.
    silence = max(LEAST_SILENCE, entry.timeout_seconds + 60.0)

    def client(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(CONNECT_SECONDS, read=silence),
            transport=GuardedTransport(private=private, largest=largest),
            trust_env=False,
            auth=auth,
            event_hooks={"response": [refused] if entry.server_type == "sse" else []},
        )

    async def refused(response: httpx2.Response) -> None:
        # The SDK then stops to send, and goes on to listen: nobody would learn that no call is sent any more.
        if response.request.method == "POST" and response.is_error:
            link.end(f"it refused a message (HTTP {response.status_code})")

    async with AsyncExitStack() as stack:
        # It tells the address of every request.
        talkative, masking = logging.getLogger("httpx2"), _Masking(link)
        talkative.addFilter(masking)
        stack.callback(talkative.removeFilter, masking)
        if entry.server_type == "sse":
            streams = await stack.enter_async_context(sse_client(url, headers, httpx_client_factory=client))
        else:
            http = await stack.enter_async_context(client(headers))
            streams = await stack.enter_async_context(
                streamable_http_client(url, http_client=http, max_sse_event_size=largest)
            )
        read, write = streams
        yield WatchedStream(read, link, MOST_GARBAGE), write


@asynccontextmanager
async def _stdio(
    entry: ServerEntry, command: Sequence[str], environment: Resolved, link: Link
) -> AsyncIterator[TransportStreams]:
    from mcp.client.stdio import get_default_environment

    values = {**get_default_environment(), **environment.values}
    if entry.command == "python":
        values["PYTHONPATH"] = os.pathsep.join(import_path(values.get("PYTHONPATH")))
    largest = entry.limits.message_bytes
    async with (
        _logged_stderr(entry.server_id, environment) as stderr,
        stdio_streams(command, values, stderr, link, largest=largest, garbage=MOST_GARBAGE) as streams,
    ):
        yield streams


def _command(entry: ServerEntry, environment: Resolved) -> list[str]:
    if not entry.command:
        raise ServerNotConfigured(f"MCP server {entry.server_id}: server_type stdio needs a command.")
    command = sys.executable if entry.command == "python" else entry.command
    # As exec does it, the program is looked for in the child's PATH.
    if shutil.which(command, path=environment.values.get("PATH")) is None:
        raise ServerNotConfigured(
            f"MCP server {entry.server_id}: the program {entry.command!r} is not on this host. Servers that are not "
            "written in Python need the container runtime, or are reached over HTTP."
        )
    return [command, *entry.args]


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
    # A line that is too long comes in pieces: neither a secret nor a character may be cut in two.
    decoder, held = codecs.getincrementaldecoder("utf-8")(errors="replace"), ""
    while True:
        whole = True
        try:
            line = await reader.readuntil()
        except asyncio.IncompleteReadError as error:
            line = error.partial
        except asyncio.LimitOverrunError as error:
            line, whole = await reader.read(min(error.consumed, LONGEST_LINE) or LONGEST_LINE), False
        text = held + decoder.decode(line, final=whole)
        text, held = (environment.mask(text), "") if whole else environment.mask_begun(text)
        if text := text.rstrip():
            log.info("%s: %s", server_id, text)
        if not line and reader.at_eof():
            return
