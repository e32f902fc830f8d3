"""Calling a tool for a request: at most once, unless the tool says that twice is harmless.

The ledger comes before a tool that writes: a call is claimed, the claim is renewed while the tool works, and the
answer is recorded before it is sent. What was never sent to the server, and what may be repeated, gives its claim back,
so that the same request can be sent again. A tool that only reads is called at once and again for a duplicate: the
ledger would cost two writes, which take longer than most of such calls. One that is idempotent but writes keeps its
place in the ledger, because a late repetition would undo what was written since.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from pydantic import ValidationError

from aos.errors import AosError, Conflict, StorageUnavailable, TransientError
from aos.kernel.clock import Clock
from aos.kernel.points import reached
from aos.mcp.answers import answer, failure
from aos.mcp.circuits import ServerCircuits
from aos.mcp.errors import (
    AnswerTooLarge,
    OutcomeUnknown,
    ParamsInvalid,
    RequestFailed,
    RequestIdReused,
    ServerDied,
    ServerRefused,
    ServerReplyInvalid,
    ServerUnavailable,
    ToolTimeout,
)
from aos.mcp.hosted import HostedServer
from aos.mcp.ledger import CallKey, Claimed, Expired, Finished, Ledger, Running, Standing
from aos.mcp.tools import ToolInfo
from aos.messaging.claim_check import LARGEST
from aos.messaging.envelopes import CallToolParams, ToolRequest, ToolResponseBody
from aos.registry.mcp_servers import ServerEntry
from aos.storage.payloads import PayloadGone
from aos.telemetry.tools import Execution

log = logging.getLogger("aos.mcp")

RENEW_EVERY = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between attempts."""
WAIT_FOR_SERVER = 60.0
"""Seconds after which a server that does not come up is given up."""
RECORD_MARGIN = 5.0
"""Seconds of the lease that must be left to try again to record an answer."""
TRIES = 3


class Host(Protocol):
    """What knows the servers; both raise `RequestFailed` errors."""

    async def entry(self, name: str) -> ServerEntry:
        """The registry's entry of a server, by id or name."""
        ...

    async def server(self, server_id: str) -> HostedServer:
        """The server as it runs here."""
        ...


class ToolCalls:
    """Carries out requests of method `call_tool`."""

    def __init__(self, host: Host, ledger: Ledger, clock: Clock, circuits: ServerCircuits | None = None) -> None:
        self._host = host
        self._ledger = ledger
        self._clock = clock
        self._circuits = circuits or ServerCircuits(clock)

    async def run(self, request: ToolRequest, reply_to: str | None) -> bytes | Running | None:
        """Carries out a call, or finds out that it was.

        Returns:
            The body of the answer; or until when somebody else is at it; or None if somebody else took the call over
            and answers.

        Raises:
            RequestFailed: The call was not made, and the ledger knows nothing of it.
            TransientError: The ledger does not answer.
        """
        params = _params(request)
        entry = await self._host.entry(request.server_id)
        key = CallKey(entry.server_id, request.request_id, reply_to)
        try:
            tool = await self._tool(entry, params)
        except RequestFailed:
            # Whatever is wrong now: a call that was made before keeps its answer.
            known = await self._look(key, hash_of(request.params))
            if known is None or isinstance(known, Expired):
                raise
            return _told(known, request)
        if tool.read_only:
            return await self._answered(request, entry, tool, params)
        params_hash = hash_of(request.params)
        for _ in range(TRIES):
            standing = await self._claim(key, params_hash)
            if isinstance(standing, Expired):
                claim = await self._ledger.take_over(standing)
                if claim is None:
                    continue
                if not tool.repeatable:
                    return await self._record(claim, failure(request, _lost(tool)))
                return await self._execute(claim, request, entry, tool, params)
            if isinstance(standing, Claimed):
                return await self._execute(standing, request, entry, tool, params)
            return _told(standing, request)
        raise StorageUnavailable(f"The ledger's row of request {request.request_id} changes too fast.")

    async def _tool(self, entry: ServerEntry, params: CallToolParams) -> ToolInfo:
        """The tool, if the server runs, has it, and takes these arguments."""
        until = self._clock.now() + WAIT_FOR_SERVER
        attempt = 0
        while True:
            try:
                self._circuits.require(entry.server_id)
                server = await self._host.server(entry.server_id)
                tool = await server.tool(params.tool_name)
                server.check(tool, params.tool_params)
                return tool
            except (ServerUnavailable, ServerDied, ToolTimeout) as error:
                if attempt >= entry.max_retries or not self._worth_waiting(error, until):
                    raise
            await self._pause(attempt)
            attempt += 1

    async def _execute(
        self, claim: Claimed, request: ToolRequest, entry: ServerEntry, tool: ToolInfo, params: CallToolParams
    ) -> bytes | None:
        reached("call-claimed")
        try:
            async with self._renewed(claim):
                response = await self._outcome(request, entry, tool, params, claim)
        except Conflict:
            log.error("call %s was taken over before its tool was called", claim.key.request_id)
            return None
        except AosError as error:
            # Nothing happened, or nothing that may not happen again: the same request can come again.
            await self._release(claim)
            if isinstance(error, RequestFailed):
                return failure(request, error)
            raise
        return await self._record(claim, response)

    async def _answered(
        self, request: ToolRequest, entry: ServerEntry, tool: ToolInfo, params: CallToolParams
    ) -> bytes:
        """The answer of a tool whose calls nobody keeps."""
        try:
            return await self._outcome(request, entry, tool, params)
        except RequestFailed as error:
            return failure(request, error)

    async def _outcome(
        self,
        request: ToolRequest,
        entry: ServerEntry,
        tool: ToolInfo,
        params: CallToolParams,
        claim: Claimed | None = None,
    ) -> bytes:
        """The answer, also if it is that nobody knows what the call did."""
        try:
            with Execution(entry.server_id, tool.name, request.request_id, params.tool_params) as execution:
                result = await self._attempts(entry, tool, params, claim)
                execution.answered(result)
        except OutcomeUnknown as error:
            return failure(request, error)
        response = answer(request, ToolResponseBody(result=result))
        if len(response) > LARGEST:
            return failure(
                request, AnswerTooLarge(f"The answer has {len(response)} bytes; at most {LARGEST} are sent.")
            )
        return response

    async def _attempts(
        self, entry: ServerEntry, tool: ToolInfo, params: CallToolParams, claim: Claimed | None
    ) -> dict[str, Any]:
        until = self._clock.now() + WAIT_FOR_SERVER
        attempt = 0
        while True:
            try:
                server = await self._host.server(entry.server_id)
                if claim is not None:
                    await self._still_held(claim)
                reached("before-call")
                with self._circuits.guard(entry.server_id):
                    result = await server.connection.call_tool(
                        tool.wire_name or tool.name, params.tool_params, entry.timeout_seconds
                    )
                reached("after-call")
                return result
            except ServerRefused as error:
                if error.code == "invalid_params":
                    raise
                # An exception inside the tool: it failed, and the model should know why.
                return {"content": [{"type": "text", "text": error.detail}], "isError": True}
            except ServerReplyInvalid as error:
                if tool.repeatable:
                    raise
                raise OutcomeUnknown(f"{error.detail} The tool has probably run.") from error
            except ServerUnavailable as error:
                if attempt >= entry.max_retries or not self._worth_waiting(error, until):
                    raise
            except (ServerDied, ToolTimeout) as error:
                if not tool.repeatable:
                    raise _unrepeatable(error, tool) from error
                if attempt >= entry.max_retries:
                    raise
            await self._pause(attempt)
            attempt += 1

    def _worth_waiting(self, error: TransientError, until: float) -> bool:
        return self._clock.now() < until and (error.retry_after or 0.0) <= LONGEST_PAUSE

    async def _pause(self, attempt: int) -> None:
        await self._clock.sleep(min(FIRST_PAUSE * 2 ** min(attempt, 10), LONGEST_PAUSE))

    # --- the ledger

    async def _claim(self, key: CallKey, params_hash: str) -> Claimed | Standing:
        try:
            return await self._ledger.claim(key, params_hash)
        except PayloadGone as error:
            raise _forgotten(error) from error

    async def _look(self, key: CallKey, params_hash: str) -> Standing | None:
        try:
            return await self._ledger.look(key, params_hash)
        except PayloadGone as error:
            raise _forgotten(error) from error

    @contextlib.asynccontextmanager
    async def _renewed(self, claim: Claimed) -> AsyncIterator[None]:
        """Renews the claim until the work is done."""
        done = asyncio.Event()
        renewing = asyncio.create_task(self._renew(claim, done), name=f"lease of call {claim.key.request_id}")
        try:
            yield
        finally:
            # Not cancelled: a write that is under way must end before the next one.
            done.set()
            await renewing

    async def _renew(self, claim: Claimed, done: asyncio.Event) -> None:
        while True:
            try:
                left = max(claim.until - self._clock.now(), 1.0)
                async with asyncio.timeout(min(RENEW_EVERY, left / 3)):
                    await done.wait()
                return
            except TimeoutError:
                pass
            try:
                await self._ledger.renew(claim)
            except StorageUnavailable as error:
                log.warning("the lease of call %s was not renewed: %s", claim.key.request_id, error.detail)
            except Conflict:
                log.error("call %s was taken over while its tool worked", claim.key.request_id)
                return

    async def _still_held(self, claim: Claimed) -> None:
        """Renews a claim whose lease ran out, because this process stalled or the storage was away.

        Raises:
            Conflict: Somebody took the call over, and may have said that it was not made.
        """
        if claim.until <= self._clock.now():
            await self._ledger.renew(claim)

    async def _release(self, claim: Claimed) -> None:
        try:
            await self._ledger.release(claim)
        except StorageUnavailable as error:
            log.warning("the claim of call %s ends with its lease: %s", claim.key.request_id, error.detail)

    async def _record(self, claim: Claimed, response: bytes) -> bytes | None:
        """Records the answer for good; None if it may not be sent any more."""
        attempt = 0
        while True:
            try:
                await self._ledger.finish(claim, response)
                return response
            except Conflict:
                log.error("late result of call %s dropped: it was taken over", claim.key.request_id)
                return None
            except StorageUnavailable as error:
                if claim.until - self._clock.now() < RECORD_MARGIN:
                    # The caller should know; a duplicate will be told that the outcome is unknown.
                    log.error("the answer of call %s is sent unrecorded: %s", claim.key.request_id, error.detail)
                    return response if claim.until > self._clock.now() else None
            await self._pause(attempt)
            attempt += 1


def hash_of(params: dict[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of a request's params."""
    canonical = json.dumps(params, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _params(request: ToolRequest) -> CallToolParams:
    try:
        return CallToolParams.model_validate(request.params)
    except ValidationError as error:
        faults = [f"{''.join(f'/{part}' for part in e['loc'])}: {e['msg']}" for e in error.errors()[:10]]
        raise ParamsInvalid("; ".join(faults)) from None


def _told(standing: Standing, request: ToolRequest) -> bytes | Running:
    if isinstance(standing, Finished):
        return standing.response
    if isinstance(standing, Running):
        return standing
    raise RequestIdReused(f"request_id {request.request_id!r} was used before with other params; use a new one.")


def _lost(tool: ToolInfo) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"The process that called {tool.name} died before it recorded the outcome. The tool may or may not have run; "
        "it is not said to be repeatable, so it was not called again. Find out before asking for it again."
    )


def _unrepeatable(error: ServerDied | ToolTimeout, tool: ToolInfo) -> RequestFailed:
    detail = (
        f"{error.detail} The tool may or may not have taken effect; {tool.name} is not said to be repeatable, so it "
        "was not called again. Find out before asking for it again."
    )
    if isinstance(error, ToolTimeout):
        return OutcomeUnknown(detail, code="timeout")
    return OutcomeUnknown(detail)


def _forgotten(error: PayloadGone) -> OutcomeUnknown:
    return OutcomeUnknown(f"The call was made before, but its answer is no longer kept: {error.detail}")
