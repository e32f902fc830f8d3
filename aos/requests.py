"""Queue `aos-requests`: what other applications ask of AOS as a whole. Nothing waits in here.

A query of an agent becomes an operation, a call of a tool a record; their answers are sent by whoever brings them to
their end. What writes is recorded with its answer, so that the same `message_id` again gets the same answer; what only
reads is simply answered again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from aos.agents.directory import time_limit
from aos.errors import AosError, OperationConflict, TransientError, UnknownEntity
from aos.intake import Intake, ask_text, derive_operation_id, fingerprint_of
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.kernel import Kernel
from aos.kernel.types import ConversationKey, Message, ReplyAddress
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import MCP_REQUESTS, EnvelopeInvalid, ToolRequest, ToolResponse, parse_body, parse_value
from aos.messaging.incoming import Incoming, origin, reason
from aos.messaging.refusals import parked_incoming, postponed
from aos.messaging.replies import undeliverable
from aos.messaging.requests import (
    AGENT_QUERY,
    ERROR,
    AgentQuery,
    AgentStatus,
    Envelope,
    McpCall,
    StorageKey,
    StorageList,
    StorageValue,
    WorkflowId,
    answer,
    answer_address,
    request_key,
)
from aos.registry.live import Loaded
from aos.registry.mcp_servers import ServerEntry, ServerRegistry
from aos.routing import Router
from aos.storage.requests import RequestRecord, RequestRecords
from aos.storage.shared import Shared, SharedContainers
from aos.workflows import WorkflowRequest, WorkflowRunner, derive_workflow_id

log = logging.getLogger("aos.requests")

Payload = TypeVar("Payload", bound=BaseModel)

RECORDED = frozenset({AGENT_QUERY, "aos.workflow.execute", "aos.mcp.call", "aos.storage.set", "aos.storage.delete"})
"""Answered from what is there when they come again, however late."""
LONGEST_DETAIL = 4096
"""Characters of an error that are told; what is wrong with a body may be found in many places."""
SWEEP = 50
"""Calls of which a sweep reads the rows at once."""
PATIENCE = 5.0
"""Seconds for which one sweep goes on with further ones; the next one goes on from there."""
AT_ONCE = 8
"""Of them at the same time."""


class RequestUnsupported(AosError):
    code = "unsupported_message_type"
    title = "AOS does not know this type of request."


class RequestExpired(AosError):
    code = "expired"
    title = "The request came too late."


class ServerUnknown(AosError):
    code = "unknown_server"
    title = "No MCP server has this id."


class Agents(Protocol):
    """`aos.reports.AgentReports`: the bodies are those of the HTTP routes."""

    async def list(self) -> dict[str, Any]: ...

    async def status(self, agent_id: str) -> dict[str, Any]: ...


class HealthReport(Protocol):
    """`aos.checks.Checks`: the body is that of the HTTP route."""

    async def report(self) -> dict[str, Any]: ...


class Servers(Protocol):
    """`aos.registry.live.LiveRegistry` of MCP servers."""

    async def current(self) -> Loaded[ServerRegistry]: ...

    async def refresh(self) -> Loaded[ServerRegistry]: ...


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that can be answered.

    Attributes:
        key: Names it for ever.
        packed: The body as it was sent.
    """

    envelope: Envelope
    address: ReplyAddress
    incoming: Incoming
    packed: bytes
    key: str

    @property
    def message_type(self) -> str:
        return self.envelope.header.message_type

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.message_type, self.envelope.payload)

    def payload(self, model: type[Payload]) -> Payload:
        return parse_value(model, self.envelope.payload, "/payload")


class RequestDesk:
    """Answers requests.

    Args:
        send: Puts messages on the bus.
    """

    def __init__(
        self,
        *,
        kernel: Kernel,
        intake: Intake,
        agents: Agents,
        checks: HealthReport,
        servers: Servers,
        records: RequestRecords,
        shared: SharedContainers,
        claim_check: ClaimCheck,
        send: Callable[[Sequence[Outbound]], Awaitable[None]],
        workflows: WorkflowRunner,
        router: Router,
        clock: Clock | None = None,
    ) -> None:
        self._workflows = workflows
        self._router = router
        self._kernel = kernel
        self._intake = intake
        self._agents = agents
        self._checks = checks
        self._servers = servers
        self._records = records
        self._shared = shared
        self._claim_check = claim_check
        self._send = send
        self._clock = clock or SystemClock()
        self._swept = ""
        self._handlers: dict[str, Callable[[_Request], Awaitable[None]]] = {
            AGENT_QUERY: self._query,
            "aos.agent.list": self._list,
            "aos.agent.status": self._status,
            "aos.workflow.execute": self._execute,
            "aos.workflow.status": self._workflow_status,
            "aos.workflow.cancel": self._workflow_cancel,
            "aos.mcp.call": self._mcp_call,
            "aos.storage.get": self._get,
            "aos.storage.set": self._set,
            "aos.storage.delete": self._delete,
            "aos.storage.list": self._keys,
            "aos.system.health": self._health,
            "aos.system.ping": self._ping,
        }

    # --- in

    async def receive(self, incoming: Incoming) -> None:
        """Handles a message of `aos-requests`.

        Returns when it is answered, or taken up, or parked, or was put off by sending a copy of it to be delivered
        later; raises only if nothing of that worked, so that the broker delivers it again.
        """
        packed = incoming
        try:
            incoming = replace(incoming, body=await self._claim_check.unpack(incoming.body))
            await self._handle(incoming, packed.body)
        except TransientError as error:
            await self._send([await postponed(packed, error, self._claim_check)])
        except AosError as error:
            await self._refuse(incoming, error)

    async def _handle(self, incoming: Incoming, packed: bytes) -> None:
        envelope = parse_body(Envelope, incoming.body)
        address = answer_address(incoming)
        assert address is not None  # noqa: S101 - a valid header names its source
        request = _Request(envelope, address, incoming, packed, request_key(envelope.header))
        handler = self._handlers.get(request.message_type)
        if handler is None:
            supported = ", ".join(self._handlers)
            raise RequestUnsupported(
                f"/header/message_type: {request.message_type!r} is not supported. Supported: {supported}."
            )
        if request.message_type not in RECORDED and self._late(request):
            raise self._expired(request)
        await handler(request)

    async def add_response(self, response: ToolResponse) -> None:
        """The answer to a call of a tool goes to who asked for it; a repeated one, or one too late, sends what was
        recorded again."""
        record = await self._records.look(response.request_id)
        if record is None:
            log.debug("response %s belongs to no request", response.request_id)
            return
        if record.answer is None:
            body = response.response
            if body.error is not None:
                error = {"code": body.error.code, "title": "The tool was not called.", "detail": body.error.message}
                told, kind = {**error, "retryable": body.error.retryable, "message_type": record.message_type}, ERROR
            else:
                told, kind = {"server_id": response.server_id, "result": body.result}, "aos.mcp.result"
            record = await self._close(record, kind, told)
        await self._deliver(record)

    async def sweep(self) -> None:
        """Gives up calls whose answer did not come in time, and sends answers that a dead process did not.

        One that cannot be sent now, as when the queue of who asked is full, holds no other one up.

        Raises:
            TransientError: Storage is down; the next sweep goes on from there.
        """
        now = self._clock.now()
        gate = asyncio.Semaphore(AT_ONCE)

        async def look(row: str) -> None:
            async with gate:
                try:
                    await self._give_up(row)
                except TransientError as error:
                    log.warning("the answer of request %s waits: %s", row, error.detail)
                except Exception:
                    log.exception("request %s", row)

        while True:
            due = await self._records.due(now, SWEEP, self._swept)
            await asyncio.gather(*map(look, due))
            # What could not be sent stays where it is: the next ones must not wait until it can.
            self._swept = due[-1] if len(due) == SWEEP else ""
            if not self._swept or self._clock.now() >= now + PATIENCE:
                return

    async def _give_up(self, row: str) -> None:
        record = await self._records.of_due(row)
        if record is None:
            await self._records.forget_due(row)
            return
        if record.answer is None:
            told = {
                "code": "timeout",
                "title": "The tool did not answer in time.",
                "detail": "It may or may not have run; find out before asking for it again.",
                "retryable": False,
                "message_type": record.message_type,
            }
            record = await self._close(record, ERROR, told)
        await self._deliver(record)

    # --- agents

    async def _query(self, request: _Request) -> None:
        query, header = request.payload(AgentQuery), request.envelope.header
        now, attempt = self._clock.now(), request.incoming.replay
        source = header.source.lower()
        operation_id = derive_operation_id("requests", source, query.agent_id or "", header.message_id)
        fingerprint = fingerprint_of(query.agent_id, query.message, query.context, query.conversation_id)
        known = None
        if query.agent_id is None or self._late(request):
            known = await self._kernel.known(operation_id, fingerprint)
        if known is None and self._late(request):
            raise self._expired(request)
        conversation_id = query.conversation_id or f"c_{operation_id[3:]}"
        agent_id, routing = query.agent_id, None
        if agent_id is None and known is not None:
            agent_id, routing = known.agent_id, known.routing
        elif agent_id is None:
            agent_id, routing = await self._router.choose(query.message, conversation_id)
        message = Message(
            operation_id,
            ask_text(query.message, query.context),
            now,
            now + self._kernel.options.turn,
            attempt=attempt,
            event_type=request.message_type,
            reply_to=request.address,
            origin=origin(request.incoming, request.packed),
            routing=routing,
        )
        key = ConversationKey(agent_id, conversation_id)
        await self._intake.take(key, message, fingerprint, fresh=query.conversation_id is None and attempt == 1)

    async def _list(self, request: _Request) -> None:
        await self._answer(request, "aos.agent.list.response", await self._agents.list())

    async def _status(self, request: _Request) -> None:
        wanted = request.payload(AgentStatus)
        status = await self._agents.status(wanted.agent_id)
        await self._answer(request, "aos.agent.status.response", status)

    # --- workflows

    async def _execute(self, request: _Request) -> None:
        """Begins a workflow; whoever brings it to its end sends the answer."""
        wanted, header = request.payload(WorkflowRequest), request.envelope.header
        workflow_id = wanted.workflow_id or derive_workflow_id(f"requests {header.source.lower()}", header.message_id)
        if self._late(request) and not await self._workflows.known(workflow_id):
            raise self._expired(request)
        await self._workflows.begin(wanted.workflow, workflow_id, request.address)

    async def _workflow_status(self, request: _Request) -> None:
        run = await self._workflows.status(request.payload(WorkflowId).workflow_id)
        await self._answer(request, "aos.workflow.status.response", await self._workflows.view(run))

    async def _workflow_cancel(self, request: _Request) -> None:
        wanted = request.payload(WorkflowId)
        run = await self._workflows.cancel(wanted.workflow_id, request.envelope.header.source)
        await self._answer(request, "aos.workflow.cancel.response", await self._workflows.view(run))

    # --- tools

    async def _mcp_call(self, request: _Request) -> None:
        call = request.payload(McpCall)
        record = await self._known(request)
        if record is None:
            server = await self._server(call.server_id)
            record = await self._open(request, self._clock.now() + time_limit(server))
        if record.answer is not None:
            await self._deliver(record)
            return
        # Sent twice it is one call: the ledger knows the id.
        params = {"tool_name": call.tool_name, "tool_params": call.tool_params}
        wanted = ToolRequest(request_id=request.key, server_id=call.server_id, method="call_tool", params=params)
        message = Outbound(
            MCP_REQUESTS,
            await self._claim_check.pack(wanted.model_dump_json().encode(), "messages"),
            request.key,
            correlation_id=request.key,
            subject=call.server_id,
        )
        await self._send([message])

    async def _server(self, name: str) -> ServerEntry:
        server = (await self._servers.current()).value.find(name) or (await self._servers.refresh()).value.find(name)
        if server is None:
            raise ServerUnknown(f"/payload/server_id: the registry has no MCP server {name[:100]!r}.")
        return server

    # --- storage

    async def _get(self, request: _Request) -> None:
        wanted = request.payload(StorageKey)
        container = self._shared.container(wanted.container)
        found = await self._shared.get(container, wanted.key)
        told = _stored("get", container, wanted.key, found)
        await self._answer(request, "aos.storage.result", told)

    async def _keys(self, request: _Request) -> None:
        wanted = request.payload(StorageList)
        container = self._shared.container(wanted.container)
        keys, following = await self._shared.list(container, wanted.prefix, wanted.after)
        told = {"operation": "list", "container": container, "success": True, "keys": keys, "next": following}
        await self._answer(request, "aos.storage.result", told)

    async def _set(self, request: _Request) -> None:
        wanted = request.payload(StorageValue)
        container = self._shared.container(wanted.container)

        async def write() -> dict[str, Any]:
            kept = await self._shared.set(container, wanted.key, wanted.value)
            return _stored("set", container, wanted.key, replace(kept, value=None))

        await self._once(request, write)

    async def _delete(self, request: _Request) -> None:
        wanted = request.payload(StorageKey)
        container = self._shared.container(wanted.container)

        async def remove() -> dict[str, Any]:
            deleted = await self._shared.delete(container, wanted.key)
            told = {"operation": "delete", "container": container, "key": wanted.key}
            return {**told, "success": True, "deleted": deleted}

        await self._once(request, remove)

    async def _once(self, request: _Request, work: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        """Does what has an effect, unless it was done for this request before."""
        record = await self._known(request) or await self._open(request, None)
        if record.answer is None:
            record = await self._close(record, "aos.storage.result", await work())
        await self._deliver(record)

    # --- the system

    async def _health(self, request: _Request) -> None:
        await self._answer(request, "aos.system.health.response", await self._checks.report())

    async def _ping(self, request: _Request) -> None:
        await self._answer(request, "aos.system.pong", {"echo": request.envelope.payload})

    # --- records

    def _late(self, request: _Request) -> bool:
        """Whether its time is over. What an operator replays is wanted now."""
        return request.incoming.replay == 1 and request.envelope.header.expired(self._clock.now())

    def _expired(self, request: _Request) -> RequestExpired:
        header = request.envelope.header
        sent = header.timestamp.isoformat(timespec="seconds")
        return RequestExpired(f"It was sent at {sent} and had ttl_seconds {header.ttl_seconds}; send it again.")

    async def _known(self, request: _Request) -> RequestRecord | None:
        """The record of the same request, if it was taken up before."""
        record = await self._records.look(request.key)
        if record is None:
            if self._late(request):
                raise self._expired(request)
            return None
        return self._same(record, request)

    async def _open(self, request: _Request, gives_up: float | None) -> RequestRecord:
        wanted = RequestRecord(request.key, request.fingerprint, request.message_type, request.address, gives_up)
        return self._same(await self._records.open(wanted), request)

    def _same(self, record: RequestRecord, request: _Request) -> RequestRecord:
        if record.fingerprint != request.fingerprint:
            raise OperationConflict(
                f"/header/message_id: {request.envelope.header.message_id!r} was used before with another request; use "
                "a new one."
            )
        return replace(record, address=request.address)

    async def _close(self, record: RequestRecord, message_type: str, told: Mapping[str, Any]) -> RequestRecord:
        message = answer(record.address, f"{record.key}.reply", message_type, told, self._clock.now())
        return replace(await self._records.close(record, message.body, message_type), address=record.address)

    async def _deliver(self, record: RequestRecord) -> None:
        """Sends a recorded answer. Sent twice, it carries the same id."""
        assert record.answer is not None  # noqa: S101 - only answered records come here
        address = record.address
        message = Outbound(
            address.entity,
            record.answer,
            f"{record.key}.reply",
            correlation_id=address.correlation_id,
            session_id=address.session_id,
            subject=record.answer_type,
        )
        await self._reply(message)
        await self._records.done(record)

    # --- out

    async def _answer(self, request: _Request, message_type: str, told: Mapping[str, Any]) -> None:
        """Answers what only reads."""
        await self._reply(answer(request.address, f"{request.key}.reply", message_type, told, self._clock.now()))

    async def _reply(self, message: Outbound) -> None:
        message = replace(message, body=await self._claim_check.pack(message.body, "messages"))
        try:
            await self._send([message])
        except UnknownEntity as error:
            log.warning("answer %s parked: %s", message.message_id, error.detail)
            await self._send([undeliverable(message, error.detail)])

    async def _refuse(self, incoming: Incoming, error: AosError) -> None:
        """Answers with the error and parks the message: delivering it again would change nothing."""
        log.warning("request %s refused: %s", incoming.message_id, error.detail)
        try:
            address = answer_address(incoming)
        except EnvelopeInvalid:
            address = None
        if address is not None:
            told: dict[str, Any] = {"code": error.code, "title": error.title, "detail": error.detail[:LONGEST_DETAIL]}
            if isinstance(error, RequestUnsupported):
                told["supported"] = list(self._handlers)
            name = incoming.message_id or address.correlation_id or uuid.uuid4().hex
            refusal = answer(address, f"{name}.refused", ERROR, told | {"retryable": False}, self._clock.now())
            try:
                await self._send([refusal])
            except UnknownEntity as unknown:
                log.warning("nobody is told that request %s was refused: %s", incoming.message_id, unknown.detail)
        why = "MessageIdReused" if isinstance(error, OperationConflict) else reason(error)
        await self._send([await parked_incoming(incoming, why, error.detail, self._claim_check)])


def _stored(operation: str, container: str, key: str, found: Shared | None) -> dict[str, Any]:
    told: dict[str, Any] = {"operation": operation, "container": container, "key": key}
    if found is None:
        error = {"code": "not_found", "title": "Nothing is stored under this key.", "detail": f"{container}/{key}"}
        return {**told, "success": False, "error": error}
    told |= {"success": True, "size": found.size, "etag": found.etag}
    return told if operation == "set" else {**told, "data": found.value}
