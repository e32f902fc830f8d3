"""The MCP side: runs the servers of the registry, and carries out the requests that arrive for them over the bus.

A server is running where `mcp-requests` is consumed. The registry says which servers there are; a changed entry gets a
new connection while calls on the old one end in their own time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pydantic import ValidationError

from aos.errors import AosError, TransientError
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.points import reached
from aos.kernel.trips import TripBoard
from aos.kernel.types import ReplyAddress
from aos.mcp.answers import Answers, answer, failure
from aos.mcp.calls import ToolCalls
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.circuits import ServerCircuits
from aos.mcp.errors import (
    NotTakingRequests,
    ParamsInvalid,
    RequestFailed,
    ServerOff,
    UnknownServer,
)
from aos.mcp.hosted import HostedServer
from aos.mcp.ledger import Ledger, Running
from aos.mcp.pins import ToolPins
from aos.mcp.secrets import SecretSource
from aos.mcp.status import HEARTBEAT, Desired, ServerStatus, ServerStatusBoard
from aos.mcp.tools import ToolInfo
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import (
    MCP_COMMANDS,
    MCP_REQUESTS,
    EnvelopeInvalid,
    ReadResourceParams,
    ServerCommand,
    ToolRequest,
    ToolResponseBody,
    parse_body,
)
from aos.messaging.incoming import Incoming, put_off, reason, taken_up
from aos.messaging.replies import parked, reply_address
from aos.registry.live import Loaded
from aos.registry.mcp_servers import ServerEntry, ServerRegistry
from aos.telemetry.instruments import Watched

log = logging.getLogger("aos.mcp")

LOOK_EVERY = 15.0
"""Seconds after which registry and commands are looked at, if no request had them looked at before."""
LAST_ANSWERS = 10.0
"""Seconds to record and send the answers of calls that ended with their servers."""
GRACE = 20.0
"""Seconds that calls have to end when their server is replaced or the process stops."""


class Registry(Protocol):
    """`aos.registry.live.LiveRegistry` of MCP servers."""

    async def current(self) -> Loaded[ServerRegistry]: ...

    async def refresh(self) -> Loaded[ServerRegistry]: ...

    async def reload(self) -> Loaded[ServerRegistry]: ...


class McpServers:
    """The MCP servers of this process.

    Args:
        registry: Which servers there are; followed while it changes.
        send: Puts messages on the bus.
        pins: The approved tool definitions; None: none are kept, and what a server lists is used.
        trips: Where it is told which servers are left alone because their calls fail.
        private_networks: Whether HTTP servers may lie at private addresses.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        catalogue: ToolCatalogue,
        board: ServerStatusBoard,
        send: Callable[[Sequence[Outbound]], Awaitable[None]],
        claim_check: ClaimCheck,
        secrets: SecretSource,
        clock: Clock | None = None,
        pins: ToolPins | None = None,
        trips: TripBoard | None = None,
        private_networks: bool = False,
    ) -> None:
        self._registry = registry
        self._pins = pins
        self._catalogue = catalogue
        self._board = board
        self._send = send
        self._claim_check = claim_check
        self._secrets = secrets
        self._private_networks = private_networks
        self._clock = clock or SystemClock()
        self._answers = Answers(send, claim_check)
        self._circuits = ServerCircuits(self._clock, trips)
        self._watched: Watched | None = None
        self._calls = ToolCalls(self, ledger, self._clock, self._circuits)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self._servers: dict[str, HostedServer] = {}
        self._generation: str | None = None
        self._registered: frozenset[str] = frozenset()
        self._desired: dict[str, Desired] | None = None
        self._applying = asyncio.Lock()
        self._written: dict[str, ServerStatus] = {}
        self._wake = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    # --- life

    async def start(self) -> None:
        """Begins to start the servers that start by themselves; returns before they are up."""
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend(), name="MCP servers")
            self._watched = Watched(self._circuits.circuits)

    async def close(self, grace: float = GRACE) -> None:
        """Takes no more requests, gives the running ones `grace` seconds to end, and stops the servers.

        A call that does not end in time is recorded and answered as one of unknown outcome.
        """
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        for server in self._servers.values():
            self._retire(server, 0.0)
        while self._tasks:
            await asyncio.wait(self._tasks.values())
        # Their calls have failed by now; what is left is to say so.
        try:
            async with asyncio.timeout(LAST_ANSWERS):
                await self._idle.wait()
        except TimeoutError:
            log.error("%d requests were not answered; they will be delivered again", self._active)
        with _logged("the states of MCP servers could not be written"):
            await self._report()
        self._watched = None
        await self._circuits.close()

    def statuses(self) -> list[ServerStatus]:
        """The servers as they stand in this process, by id."""
        return [self._servers[server_id].status(self._owner) for server_id in sorted(self._servers)]

    # --- the bus

    async def receive(self, incoming: Incoming) -> None:
        """Handles a message of `mcp-requests` or `mcp-server-commands`.

        Returns when it is answered, or parked, or was put off by sending a copy of it to be delivered later; raises
        only if nothing of that worked, so that the broker delivers it again.
        """
        try:
            body = await self._claim_check.unpack(incoming.body)
            if incoming.entity == MCP_REQUESTS:
                await self._request(incoming if body is incoming.body else replace(incoming, body=body))
            else:
                await self.handle_command(parse_body(ServerCommand, body))
        except TransientError as error:
            copy = put_off(incoming, MCP_COMMANDS)
            copy = replace(copy, delay=max(copy.delay, error.retry_after or 0.0))
            log.warning(
                "message %s of %s put off for %.0f s: %s", incoming.message_id, incoming.entity, copy.delay, error
            )
            await self._send([await self._answers.packed(copy)])
        except AosError as error:
            log.warning("message %s of %s refused: %s", incoming.message_id, incoming.entity, error.detail)
            message_id = incoming.message_id or uuid.uuid4().hex
            await self._send([parked(incoming.body, message_id, incoming.entity, reason(error), error.detail)])

    async def _request(self, incoming: Incoming) -> None:
        try:
            request = parse_body(ToolRequest, incoming.body)
        except EnvelopeInvalid as error:
            await self._answers.refuse(incoming, error)
            raise
        await self.handle(
            request,
            message_id=incoming.message_id,
            correlation_id=incoming.correlation_id,
            reply_to=incoming.reply_to,
            reply_to_session_id=incoming.reply_to_session_id,
        )

    async def handle(
        self,
        request: ToolRequest,
        *,
        message_id: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        reply_to_session_id: str | None = None,
    ) -> None:
        """Carries out a request and sends the answer; a duplicate of one that is at work comes back later.

        Raises:
            TransientError: Nothing was done that cannot be done again: storage, the bus or the registry is
                unavailable, or this process is shutting down.
        """
        if self._closing:
            raise NotTakingRequests("This process is shutting down.")
        self._active += 1
        self._idle.clear()
        try:
            try:
                address = reply_address(reply_to, correlation_id, message_id, reply_to_session_id)
            except EnvelopeInvalid as error:
                log.warning("request %s: %s", request.request_id, error.detail)
                await self._answers.send(request, failure(request, ParamsInvalid(error.detail)), None)
                return
            try:
                done = await self._carry_out(request, address)
            except RequestFailed as error:
                done = failure(request, error)
            if isinstance(done, bytes):
                reached("before-answer")
                await self._answers.send(request, done, address)
                reached("after-answer")
            elif done is not None:
                incoming = Incoming(
                    MCP_REQUESTS,
                    request.model_dump_json().encode(),
                    message_id,
                    correlation_id,
                    reply_to,
                    reply_to_session_id,
                )
                delay = max(done.until - self._clock.now(), 0.5)
                await self._send([await self._answers.packed(put_off(incoming, MCP_COMMANDS, delay))])
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def handle_command(self, command: ServerCommand) -> None:
        """Carries out a command of queue `mcp-server-commands`.

        Raises:
            EnvelopeInvalid: Params are missing or wrong.
            UnknownServer: It names a server that is not registered.
            TransientError: As `handle`.
        """
        if command.command == "redeliver":
            await self.receive(taken_up(command.params, (MCP_REQUESTS, MCP_COMMANDS)))
            return
        if command.command == "reload_registry":
            await self._loaded(self._registry.reload())
            if self._pins is not None:
                with _logged("the approved definitions of tools could not be read"):
                    await self._pins.current(fresh=True)
            await self.sync()
            self._wake.set()
            return
        if not command.server_id:
            raise EnvelopeInvalid(f"/server_id: {command.command} needs the server that it is for")
        entry = await self.entry(command.server_id)
        wanted = await self._board.ask(
            entry.server_id, stopped=command.command == "stop", restart=command.command == "restart"
        )
        self._desired = {**(await self._asked()), entry.server_id: wanted}
        await self.sync(force=True)

    async def _carry_out(self, request: ToolRequest, address: ReplyAddress | None) -> bytes | Running | None:
        if request.method == "call_tool":
            return await self._calls.run(request, address.entity if address else None)
        entry = await self.entry(request.server_id)
        server = await self.server(entry.server_id)
        if request.method == "list_tools":
            tools = await server.tools(fresh=True)
            return answer(request, ToolResponseBody(tools=[_wire(tool) for tool in tools.tools if not tool.changed]))
        if request.method == "list_resources":
            return answer(request, ToolResponseBody(resources=await server.connection.resources()))
        try:
            params = ReadResourceParams.model_validate(request.params)
        except ValidationError as error:
            raise ParamsInvalid(f"/uri: {error.errors()[0]['msg']}") from None
        return answer(request, ToolResponseBody(content=await server.connection.read_resource(params.uri)))

    # --- the servers

    async def entry(self, name: str) -> ServerEntry:
        """The registry's entry of a server, by id or name.

        Raises:
            UnknownServer: Also a registry that was just read has none.
            NotTakingRequests: There is no registry yet.
        """
        registry = (await self._loaded(self._registry.current())).value
        found = registry.find(name)
        if found is None:
            registry = (await self._loaded(self._registry.refresh())).value
            found = registry.find(name)
        if found is None:
            known = ", ".join(sorted(registry.entries)[:20])
            raise UnknownServer(f"There is no MCP server {name!r}; the registry has: {known or 'none'}.")
        return found

    async def server(self, server_id: str) -> HostedServer:
        """A server as it runs here, by id.

        Raises:
            ServerOff: It is disabled, or was stopped by a command.
            UnknownServer: It has just been removed.
        """
        if self._closing:
            raise NotTakingRequests("This process is shutting down.")
        await self.sync()
        if (found := self._servers.get(server_id)) is not None:
            return found
        entry = await self.entry(server_id)
        if not entry.enabled:
            raise ServerOff(f"MCP server {server_id} is disabled in the registry: set enabled to true.")
        if (await self._asked()).get(server_id, Desired()).stopped:
            raise ServerOff(f"MCP server {server_id} was stopped by a command; send it start.")
        raise NotTakingRequests(f"MCP server {server_id} is not set up here yet.")

    async def sync(self, *, force: bool = False) -> None:
        """Follows the registry and the commands: starts, replaces and stops connections.

        Args:
            force: Look also if the registry did not change.
        """
        loaded = await self._loaded(self._registry.current())
        if self._closing or (loaded.generation == self._generation and not force):
            return
        async with self._applying:
            await self._apply(loaded)

    async def _apply(self, loaded: Loaded[ServerRegistry]) -> None:
        registry, asked = loaded.value, await self._asked()
        wanted = {entry.server_id: entry for entry in registry.enabled}
        for server_id, server in list(self._servers.items()):
            entry, desired = wanted.get(server_id), asked.get(server_id, Desired())
            if entry is None or desired.stopped:
                del self._servers[server_id]
                self._retire(server, GRACE)
                log.info("MCP server %s is stopped: %s", server_id, "by a command" if entry else "not in the registry")
            elif entry.fingerprint != server.entry.fingerprint or desired.restarts != server.restarts_asked:
                self._retire(server, GRACE)
                self._servers[server_id] = self._new(entry, desired)
                log.info("MCP server %s is started anew", server_id)
        for server_id, entry in wanted.items():
            desired = asked.get(server_id, Desired())
            if server_id not in self._servers and not desired.stopped:
                self._servers[server_id] = self._new(entry, desired)
        self._generation = loaded.generation
        self._registered = frozenset(registry.entries)
        self._wake.set()

    async def _asked(self) -> dict[str, Desired]:
        """What operators asked for; nothing starts before that is known, because it may be to be stopped."""
        return await self._look() if self._desired is None else self._desired

    async def _look(self) -> dict[str, Desired]:
        known = self._desired
        found = await self._board.desired()
        if self._desired is None or self._desired is known:
            self._desired = found
        # Else a command came meanwhile, which may not be in what was read.
        return self._desired

    def _new(self, entry: ServerEntry, desired: Desired) -> HostedServer:
        server = HostedServer(
            entry,
            secrets=self._secrets,
            catalogue=self._catalogue,
            clock=self._clock,
            on_change=self._wake.set,
            restarts_asked=desired.restarts,
            pins=self._pins,
            private_networks=self._private_networks,
        )
        if entry.auto_start:
            server.connection.start()
        return server

    def _retire(self, server: HostedServer, grace: float) -> None:
        self._begin(server.connection.close(grace), f"end of MCP server {server.entry.server_id} {id(server)}")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs something beside the requests; `close` waits for it."""
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task.get_name(), None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def _loaded(self, look: Awaitable[Loaded[ServerRegistry]]) -> Loaded[ServerRegistry]:
        try:
            return await look
        except TransientError:
            raise
        except AosError as error:
            raise NotTakingRequests(f"There is no registry of MCP servers: {error.detail}", retry_after=5.0) from error

    # --- what goes on beside the requests

    async def _tend(self) -> None:
        """Follows registry and commands, lists the tools of new sessions, and reports; on change and as heartbeat."""
        while True:
            with _logged("the commands to MCP servers could not be read"):
                await self._look()
            with _logged("the registry of MCP servers could not be applied"):
                await self.sync(force=True)
            if self._pins is not None:
                with _logged("the approved definitions of tools could not be read"):
                    await self._pins.current()
            self._wake.clear()
            for server in self._servers.values():
                if server.connection.state == "running" and server.listing_is_old:
                    name = f"tools of MCP server {server.entry.server_id}"
                    if name not in self._tasks:
                        self._begin(self._list(server), name)
            with _logged("the states of MCP servers could not be written"):
                await self._report()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._wake.wait()

    async def _list(self, server: HostedServer) -> None:
        with _logged(f"the tools of MCP server {server.entry.server_id} could not be listed"):
            await server.tools()
            self._wake.set()

    async def _report(self) -> None:
        """Writes the states that changed, or were last written a heartbeat ago."""
        now = self._clock.now()
        statuses = {status.server_id: status for status in self.statuses()}
        for server_id in [known for known in self._written if known not in statuses]:
            if server_id in self._registered:
                end = {"state": "stopped", "since": now, "heartbeat_at": now, "last_error": None}
                await self._board.write(self._written[server_id].model_copy(update=end))
            else:
                await self._board.remove(server_id)
            del self._written[server_id]
        for server_id, status in statuses.items():
            known = self._written.get(server_id)
            if (
                known is None
                or now - known.heartbeat_at >= HEARTBEAT
                or known.model_copy(update={"heartbeat_at": status.heartbeat_at}) != status
            ):
                await self._board.write(status)
                self._written[server_id] = status


def _wire(tool: ToolInfo) -> dict[str, Any]:
    """A tool as MCP lists it."""
    return {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "annotations": {"readOnlyHint": tool.read_only, "idempotentHint": tool.idempotent},
    }


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Work that is done again in the next round: what goes wrong is logged."""
    try:
        yield
    except AosError as error:
        log.warning("%s: %s", what, error.detail)
    except Exception:
        # Whatever it is, the next round must come.
        log.exception("%s", what)
