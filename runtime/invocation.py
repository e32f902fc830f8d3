"""The one way from a request to a handler and back, shared by every binding, so that they answer alike."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from opentelemetry.trace import SpanKind

from runtime.auth import Authorizer, Credentials
from runtime.compression import compressed
from runtime.encoding import Answer, encode, encode_problem
from runtime.lifecycle import Lifecycle, NotReady
from runtime.messages import BusMessage, Caller, CallerKind, Headers, Request, StorageMessage, TimerTick
from runtime.problems import Problem, internal, not_ready, too_large, unsupported_media
from runtime.routes import BusRoute, Route, StorageQueueRoute, TimerRoute
from runtime.tracing import TRACERESPONSE, Trace, served, trace_of, unseen

log = logging.getLogger("runtime.invocation")

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_JSON = re.compile(r"application/([a-z0-9!#$&^_.+-]+\+)?json")
_SCOPE_PARAMETER = re.compile(r"\{([^}]*)\}")
ArgumentT = TypeVar("ArgumentT")


@dataclass(frozen=True, slots=True)
class Inbound:
    """An HTTP request as a binding received it. `read_body(limit)` raises a 413 `Problem` beyond `limit` bytes."""

    method: str
    url: str
    path: str
    headers: Headers
    query: Mapping[str, str]
    read_body: Callable[[int], Awaitable[bytes]]
    route_params: Mapping[str, str] = field(default_factory=dict)
    peer: str | None = None
    request_id: str = ""


class Invoker:
    """Runs handlers: authorize, bound the body, have the application ready, call, encode."""

    def __init__(self, lifecycle: Lifecycle, authorizer: Authorizer) -> None:
        self._lifecycle = lifecycle
        self._authorizer = authorizer

    async def http(self, route: Route, inbound: Inbound) -> Answer:
        """The answer to a request; every error is a problem document. Only cancellation is raised."""
        attributes = {"http.request.method": str(inbound.method), "http.route": route.path, "url.path": inbound.path}
        with served(f"{inbound.method} {route.path}", SpanKind.SERVER, inbound.headers, attributes) as serving:
            answer = await self._answer(route, inbound, serving.trace)
            serving.answered(answer.status)
        return answer

    async def _answer(self, route: Route, inbound: Inbound, trace: Trace) -> Answer:
        try:
            try:
                answer = encode(await self._handle(route, inbound, trace))
                if route.sensitive:
                    answer.headers["cache-control"] = "no-store"  # whatever else the handler says
                answer = await compressed(answer, inbound.headers.get("accept-encoding", ""))
            except Problem as problem:
                answer = encode_problem(problem, inbound.request_id, trace.trace_id)
        except Exception:
            log.exception("%s %s failed [request %s]", inbound.method, route.name, inbound.request_id)
            answer = encode_problem(internal(), inbound.request_id, trace.trace_id)
        return _named(answer, inbound.request_id, trace)

    def refuse(self, problem: Problem, request_id: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a request, of these headers, that reaches no route."""
        trace = trace_of(headers)
        return _named(encode_problem(problem, request_id, trace.trace_id), request_id, trace)

    async def ready(self) -> None:
        """Wait for the application, however long it takes to start."""
        await self._lifecycle.ensure_within(None)

    async def bus(self, route: BusRoute, message: BusMessage, *, patience_seconds: float | None) -> None:
        """Hand a message to its handler. What the handler raises is raised, for the binding to abandon the message.

        An application that cannot start is waited for so many seconds (None: for ever) before `NotReady`: abandoned
        messages come back at once, and would use up their deliveries within seconds.
        """
        # The binding's own message, which nobody has seen yet: a copy of it would cost more than the rest of this.
        object.__setattr__(message, "app", await self._lifecycle.ensure_within(patience_seconds))
        if unseen(message.application_properties):
            await call(route.handler, message)
            return
        attributes: dict[str, str | int] = {
            "messaging.system": "servicebus",
            "messaging.destination.name": message.entity,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.message.id": message.message_id or "",
            "messaging.servicebus.message.delivery_count": message.delivery_count,
        }
        with served(f"process {message.entity}", SpanKind.CONSUMER, message.application_properties, attributes):
            await call(route.handler, message)

    async def storage(
        self, route: StorageQueueRoute, message: StorageMessage, *, patience_seconds: float | None
    ) -> None:
        """Hand a message of a storage queue to its handler; otherwise as `bus`."""
        app = await self._lifecycle.ensure_within(patience_seconds)
        await call(route.handler, dataclasses.replace(message, app=app))

    async def timer(self, route: TimerRoute, tick: TimerTick) -> None:
        """Hand a tick to its handler. Raises what the handler raises, or `NotReady`."""
        app = await self._lifecycle.ensure()
        await call(route.handler, dataclasses.replace(tick, app=app))

    async def _handle(self, route: Route, inbound: Inbound, trace: Trace) -> object:
        credentials = Credentials(inbound.headers, inbound.query, inbound.peer)
        scopes = [_scope(template, inbound.route_params) for template in route.scopes]
        caller = await self._authorizer.authorize(route.auth_level, credentials, scopes)
        declared = inbound.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > route.max_body_bytes):
            raise too_large(route.max_body_bytes)
        if route.parameters:
            from runtime.parameters import check_parameters

            check_parameters(route, inbound.route_params, inbound.query, inbound.headers)
        body = await inbound.read_body(route.max_body_bytes)
        if body:
            _check_format(route, inbound.headers)
        app = await self._ready_app(caller) if route.needs_app else None
        request = Request(
            method=inbound.method,
            url=inbound.url,
            path=inbound.path,
            headers=inbound.headers,
            query=inbound.query,
            route_params=inbound.route_params,
            body=body,
            app=app,
            request_id=inbound.request_id,
            traceparent=trace.traceparent,
            caller=caller,
        )
        return await call(route.handler, request)

    async def _ready_app(self, caller: Caller) -> object:
        try:
            return await self._lifecycle.ensure()
        except NotReady as error:
            # The reason may name hosts and settings: not for everyone.
            known = caller.kind is not CallerKind.ANONYMOUS
            reason = error.reason if known else "The log holds the reason."
            raise not_ready(reason, error.retry_after_seconds) from error


def _named(answer: Answer, request_id: str, trace: Trace) -> Answer:
    answer.headers[REQUEST_ID_HEADER] = request_id
    answer.headers[TRACERESPONSE] = trace.traceparent
    return answer


def _scope(template: str, parameters: Mapping[str, str]) -> str:
    return _SCOPE_PARAMETER.sub(lambda found: parameters.get(found[1], ""), template)


def _check_format(route: Route, headers: Headers) -> None:
    """415 for a body that is coded (RFC 9110 section 15.5.16), or, where a model is expected, that is not JSON."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise unsupported_media("Bodies are taken as they are, without a coding.", {"Accept-Encoding": "identity"})
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Without a type it may be guessed (RFC 9110 section 8.3); the parser refuses what is no JSON.
    if route.request_model is not None and media_type and not _JSON.fullmatch(media_type):
        raise unsupported_media("This route takes application/json.", {"Accept": "application/json"})


async def call(handler: Callable[[ArgumentT], object], argument: ArgumentT) -> object:
    """Call an async handler in the loop, a sync one in a thread."""
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        result = handler(argument)
    else:
        result = await asyncio.to_thread(handler, argument)
    return await result if inspect.isawaitable(result) else result


def request_id(headers: Mapping[str, str], fallback: str | None = None) -> str:
    """The caller's `x-request-id` if it is safe to log and send back, else `fallback`, else a new one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else fallback or uuid.uuid4().hex
