"""One supervised connection per MCP server, shared by all calls.

The SDK's client must be entered and left by the same task, so each connection has one task that owns it: it opens the
session, waits for its end, and opens the next one, after a pause that grows while that fails. A server that hangs is
found out by a ping: after a call that had no answer in time, and now and then while there are no calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from aos.errors import AosError
from aos.kernel.clock import Clock
from aos.mcp.errors import (
    ServerBusy,
    ServerDied,
    ServerNotConfigured,
    ServerReplyInvalid,
    ServerUnavailable,
    ToolTimeout,
)
from aos.mcp.faults import Asked, refused_by_http
from aos.mcp.link import ATTEMPT, Attempt, Link
from aos.mcp.pace import Pace
from aos.mcp.secrets import SecretSource
from aos.mcp.tools import ServerTools, ToolInfo
from aos.mcp.transport import open_target

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

    from aos.registry.mcp_servers import ServerEntry

log = logging.getLogger("aos.mcp")

T = TypeVar("T")

State = Literal["idle", "starting", "running", "failed", "not_configured", "stopped"]

START_SECONDS = 30.0
"""For starting a server and shaking hands with it."""
END_SECONDS = 8.0
"""For saying goodbye to a server, which may hang: longer than a child is given to end by itself."""
LIST_SECONDS = 30.0
"""For all pages of a listing, and for reading a resource."""
PING_EVERY = 60.0
"""Seconds after which a server without calls is asked whether it lives."""
PING_SECONDS = 10.0
"""For the answer to that; a server of which nothing at all is heard in that time is given up."""
LAST_WORD = 1.0
"""Seconds that a call has to end by itself after its session did."""
PATIENCE = 5.0
"""Seconds that a call waits for the next attempt to open the connection; if that is further away, it fails at once."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
STEADY = 60.0
"""Seconds after which a session counts as having worked: the next pause is short again."""
PAGES = 100


@dataclass(frozen=True, slots=True)
class _Session:
    """An open session and the link that it goes over."""

    client: Client
    link: Link

    async def call_tool(self, name: str, params: dict[str, Any]) -> CallToolResult:
        """By the short way, if the transport has one."""
        if self.link.calls is None:
            return await self.client.call_tool(name, params)
        return await self.link.calls.call_tool(self.client, name, params)


class McpConnection:
    """The connection to one server; opened by `start`, or by the first call.

    Args:
        entry: How to start or reach the server.
        secrets: Resolves `${NAME}` in the entry.
        on_change: Is told after every change of `state`.
        private_networks: Whether HTTP servers may lie at private addresses.

    Attributes:
        state: `idle` until it is first needed, `starting` until the handshake, `failed` (or `not_configured`) while it
            waits for the next attempt, `stopped` once it is closed.
        since: Time of the last change of `state`, in seconds since the epoch.
        last_error: Why the last session ended, or could not be opened; None if there was nothing wrong.
        restarts: Sessions opened after the first.
    """

    def __init__(
        self,
        entry: ServerEntry,
        secrets: SecretSource,
        clock: Clock,
        on_change: Callable[[], None] | None = None,
        *,
        private_networks: bool = False,
    ) -> None:
        self.entry = entry
        self.state: State = "idle"
        self.since = clock.now()
        self.last_error: str | None = None
        self.restarts = 0
        self._secrets = secrets
        self._clock = clock
        self._on_change = on_change
        self._private_networks = private_networks
        self._task: asyncio.Task[None] | None = None
        self._session: _Session | None = None
        self._listed: _Session | None = None
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()
        self._draining = False
        self._calls = 0
        self._failures = 0
        self._sessions = 0
        self._next_attempt = 0.0
        self._limits = entry.limits
        self._turns = asyncio.Semaphore(self._limits.concurrent_calls)
        self._pace = Pace(self._limits.calls_per_second)
        self._waiting = 0
        self._probe: asyncio.Task[None] | None = None
        self._given_up: set[asyncio.Task[Any]] = set()

    @property
    def session(self) -> int:
        """Counts the sessions; a new number means that the server may have changed."""
        return self._sessions

    def start(self) -> None:
        """Opens the connection in the background; does nothing if that is under way."""
        if self._task is None and not self._draining:
            name = f"connection to MCP server {self.entry.server_id}"
            self._task = asyncio.create_task(self._supervise(), name=name)

    async def close(self, grace: float = 0.0) -> None:
        """Ends the session and its server; it cannot be opened again.

        Args:
            grace: Seconds that calls in flight have to end; after that they fail with `ServerDied`.
        """
        self._draining = True
        async with self._changed:
            self._changed.notify_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace), self._changed:
                await self._changed.wait_for(lambda: self._calls == 0)
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task})
            self._task.result()
            self._task = None
        await asyncio.gather(*self._given_up, return_exceptions=True)
        await self._become("stopped")

    # --- calls

    async def ready(self, timeout: float = START_SECONDS) -> None:
        """Waits until the session is open, starting it if need be.

        Raises:
            ServerNotConfigured: The entry cannot be carried out here.
            ServerUnavailable: It could not be opened in time.
        """
        await self._open(timeout)

    async def call_tool(self, name: str, params: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Calls a tool.

        Args:
            timeout: Seconds for the tool's work; opening the connection and waiting for a turn may take as long again.

        Returns:
            MCP's CallToolResult in wire form; `isError` says that the tool failed.

        Raises:
            ServerNotConfigured, ServerUnavailable: Before the call was sent, also where the tools could not be listed.
            ServerDied, ToolTimeout, ServerReplyInvalid: After it was sent, so that its effect is unknown.
            ServerRefused: The server answered with a protocol error.
        """

        sent = False

        async def call(session: _Session) -> dict[str, Any]:
            nonlocal sent
            if self._listed is not session:
                # Else the SDK lists them after the call, and what goes wrong then would be taken for the tool's answer.
                await self._list(session)
            sent = True
            result = await session.call_tool(name, params)
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

        try:
            return await self._ask(f"tool {name}", call, timeout)
        except (ServerDied, ToolTimeout, ServerReplyInvalid) as error:
            if sent:
                raise
            raise ServerUnavailable(f"{error.detail} It was to list its tools: {name} was not called.") from None

    async def tools(self) -> ServerTools:
        """The server's tools, from all pages. Raises as `call_tool`."""
        tools = await self._ask("tools/list", self._list, LIST_SECONDS)
        return ServerTools(server_id=self.entry.server_id, tools=tools, listed_at=self._clock.now())

    async def _list(self, session: _Session) -> tuple[ToolInfo, ...]:
        found: list[ToolInfo] = []
        cursor: str | None = None
        for _ in range(PAGES):
            page = await session.client.list_tools(cursor=cursor)
            found += map(_tool_info, page.tools)
            cursor = page.next_cursor
            if cursor is None:
                self._listed = session
                return tuple(found)
        raise ServerReplyInvalid(f"MCP server {self.entry.server_id} lists more than {PAGES} pages of tools.")

    async def resources(self) -> list[dict[str, Any]]:
        """The server's resources in wire form; none if it does not offer any. Raises as `call_tool`."""

        async def call(session: _Session) -> list[dict[str, Any]]:
            client = session.client
            found: list[dict[str, Any]] = []
            cursor: str | None = None
            if client.server_capabilities.resources is None:
                return found
            for _ in range(PAGES):
                page = await client.list_resources(cursor=cursor)
                found += [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in page.resources]
                cursor = page.next_cursor
                if cursor is None:
                    return found
            raise ServerReplyInvalid(f"MCP server {self.entry.server_id} lists more than {PAGES} pages of resources.")

        return await self._ask("resources/list", call, LIST_SECONDS)

    async def read_resource(self, uri: str) -> list[dict[str, Any]]:
        """The contents of a resource in wire form. Raises as `call_tool`."""

        async def call(session: _Session) -> list[dict[str, Any]]:
            result = await session.client.read_resource(uri)
            return [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in result.contents]

        return await self._ask(f"resource {uri}", call, LIST_SECONDS)

    async def _ask(self, what: str, call: Callable[[_Session], Coroutine[Any, Any, T]], timeout: float) -> T:
        await self._take_turn(timeout)
        try:
            session = await self._open(START_SECONDS)
            self._calls += 1
            try:
                return await self._request(what, call, session, timeout)
            finally:
                self._calls -= 1
                if self._draining and not self._calls:
                    async with self._changed:
                        self._changed.notify_all()
        finally:
            self._turns.release()

    async def _request(
        self, what: str, call: Callable[[_Session], Coroutine[Any, Any, T]], session: _Session, timeout: float
    ) -> T:
        attempt = Attempt()
        asked = Asked(self.entry.server_id, what, session.link, attempt, self._limits.message_bytes)
        token = ATTEMPT.set(attempt)
        # In the caller's own task, except over HTTP: one for the call and one for the end of the session cost more than
        # a call over a pipe.
        limit = asyncio.timeout(timeout)

        def ending() -> None:
            # When the session ends, the SDK answers the request itself, and in a moment.
            if not limit.expired():
                soon = asyncio.get_running_loop().time() + LAST_WORD
                limit.reschedule(min(soon, limit.when() or soon))

        try:
            async with limit:
                session.link.on_end.add(ending)
                try:
                    return await (self._apart(call(session)) if session.link.calls is None else call(session))
                finally:
                    # Before the limit is over: what is found out below may end the session.
                    session.link.on_end.discard(ending)
        except TimeoutError:
            if session.link.ended.is_set():
                raise asked.died() from None
            self._suspect(session)
            raise asked.late(timeout) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if session.link.ended.is_set() and task is not None and not task.cancelling():
                # Cancelled with the session, by the SDK and not by our caller.
                raise asked.died() from None
            raise
        except Exception as error:
            if (failed := asked.failed(error)) is None:
                raise
            if attempt.status == 401 and self._calls == 1:
                # The next session reads the secrets again: they may have been replaced. Others may still be at work.
                session.link.end("it does not accept our credentials any more")
            # Not its cause: that may hold secrets, which are masked in what we say.
            raise failed from None
        finally:
            ATTEMPT.reset(token)

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits something in a task of its own, so that giving it up takes no time.

        The SDK first tells the server of it, for which it allows 5 s, and a server that hangs takes no messages.
        """
        task = asyncio.create_task(work, name=f"request to MCP server {self.entry.server_id}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.cancel()
                self._given_up.add(task)
                task.add_done_callback(self._given_up.discard)
            raise

    # --- hanging

    def _suspect(self, session: _Session) -> None:
        """Asks the server whether it lives; ends the session if nothing at all is heard of it."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ping(session), name=f"ping of MCP server {self.entry.server_id}")

    async def _ping(self, session: _Session) -> None:
        from mcp import MCPError

        heard = session.link.heard
        try:
            async with asyncio.timeout(PING_SECONDS):
                # A server of the newest protocol does not know it, and says so: which is an answer.
                await self._apart(session.client.session.send_ping())
        except TimeoutError:
            if session.link.heard == heard:
                session.link.end(f"it hangs: no answer to a ping within {PING_SECONDS:g} s")
        except (MCPError, RuntimeError):
            # It answered, or the session ended meanwhile.
            return

    async def _watch(self, session: _Session) -> None:
        """Stays until the session ends or is to be closed; asks a quiet server now and then whether it lives."""
        while not (session.link.ended.is_set() or self._closing.is_set()):
            heard = session.link.heard
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_EVERY):
                    await _first(session.link.ended, self._closing)
                    return
            # While calls are under way, their own time-outs find out.
            if not self._calls and session.link.heard == heard:
                self._suspect(session)

    async def _take_turn(self, timeout: float) -> None:
        if self._waiting >= self._limits.waiting_calls and self._turns.locked():
            raise ServerBusy(f"{self._waiting} calls wait for MCP server {self.entry.server_id} already.")
        self._waiting += 1
        try:
            if self._pace.free and not self._turns.locked():
                await self._turns.acquire()  # at once, so that nothing has to be timed
            else:
                await self._await_turn(timeout)
        except TimeoutError:
            raise ServerBusy(
                f"MCP server {self.entry.server_id} had no turn for another call within {timeout:g} s; it works on "
                f"{self._limits.concurrent_calls} at a time{self._pace}."
            ) from None
        finally:
            self._waiting -= 1

    async def _await_turn(self, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await self._turns.acquire()
            try:
                await self._pace.wait()
            except BaseException:
                self._turns.release()
                raise

    async def _open(self, timeout: float) -> _Session:
        """The open session; waits for one attempt to open it."""
        if self._session is not None and not (self._draining or self._session.link.ended.is_set()):
            return self._session
        self.start()
        failures = self._failures
        try:
            async with asyncio.timeout(timeout), self._changed:
                while True:
                    if self._draining:
                        raise ServerUnavailable(f"MCP server {self.entry.server_id} is being stopped.")
                    if self._session is not None and not self._session.link.ended.is_set():
                        return self._session
                    self._raise_if_hopeless(failures)
                    await self._changed.wait()
        except TimeoutError:
            raise ServerUnavailable(f"MCP server {self.entry.server_id} did not start within {timeout:g} s.") from None

    def _raise_if_hopeless(self, failures: int) -> None:
        pause = self._next_attempt - self._clock.now()
        why = self.last_error or f"MCP server {self.entry.server_id} does not run."
        if self.state == "not_configured":
            raise ServerNotConfigured(why)
        if self._failures == failures and (self.state != "failed" or pause <= PATIENCE):
            return
        raise ServerUnavailable(why, retry_after=max(0.0, pause))

    # --- the task that owns the session

    async def _supervise(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            opened_at = self._clock.now()
            await self._become("starting")
            sessions = self._sessions
            error = await self._serve()
            if self._closing.is_set():
                break
            worked = self._sessions > sessions
            if worked and self._clock.now() - opened_at >= STEADY:
                pause = FIRST_PAUSE
            # A session that worked is opened again at once: only the second death in a row waits.
            wait = 0.0 if worked and pause == FIRST_PAUSE else pause * random.uniform(0.8, 1.2)  # noqa: S311
            pause = min(pause * 2, LONGEST_PAUSE)
            self._next_attempt = self._clock.now() + wait
            if not worked:
                self._failures += 1
            self.last_error = error.detail
            log.warning("%s; next attempt in %.1f s", error.detail, wait)
            await self._become("not_configured" if isinstance(error, ServerNotConfigured) else "failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._closing.wait()

    async def _serve(self) -> AosError:
        """Opens a session and stays until it ends; returns why it did."""
        from mcp import Client

        server = f"MCP server {self.entry.server_id}"
        link = Link()
        opened = False
        attempt = Attempt()
        ATTEMPT.set(attempt)
        try:
            async with asyncio.timeout(START_SECONDS) as limit:
                transport = await open_target(self.entry, self._secrets, link, private_networks=self._private_networks)
                async with Client(transport, cache=None) as client:
                    limit.reschedule(None)
                    opened = True
                    self._session = session = _Session(client, link)
                    if self._sessions:
                        self.restarts += 1
                    self._sessions += 1
                    self.last_error = None
                    await self._become("running")
                    await self._watch(session)
                    # To end a session is a request, too (MCP specification, streamable HTTP, session management).
                    limit.reschedule(asyncio.get_running_loop().time() + END_SECONDS)
        except AosError as error:
            return error
        except TimeoutError:
            if not opened:
                return ServerUnavailable(f"{server} did not start within {START_SECONDS:g} s.")
            log.warning("%s did not let its session be ended within %g s", server, END_SECONDS)
        except Exception as error:
            # The transports raise groups of whatever their tasks met; none of it may end the supervision.
            if not opened and (refused := refused_by_http(server, attempt)) is not None:
                return refused
            reason = _innermost(error)
            verb = "failed" if opened else "could not be started"
            return ServerUnavailable(
                f"{server} {verb}: {link.reason or link.mask(f'{type(reason).__name__}: {reason}')[:500]}"
            )
        finally:
            link.end()
            self._session = self._listed = None
            left = [*self._given_up, *([self._probe] if self._probe is not None else [])]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        return ServerDied(f"{server} ended{f': {link.reason}' if link.reason else ''}")

    async def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.since = self._clock.now()
            if self._on_change is not None:
                self._on_change()
        async with self._changed:
            self._changed.notify_all()


def _tool_info(tool: Tool) -> ToolInfo:
    hints = tool.annotations
    return ToolInfo(
        name=tool.name,
        description=tool.description or "",
        input_schema=tool.input_schema,
        read_only=bool(hints and hints.read_only_hint),
        idempotent=bool(hints and hints.idempotent_hint),
    )


async def _first(*events: asyncio.Event) -> None:
    """Waits until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error
