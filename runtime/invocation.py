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

from runtime.auth import Authorizer, Credentials
from runtime.encoding import Answer, encode, encode_problem
from runtime.lifecycle import RETRY_AFTER_SECONDS, Lifecycle, NotReady
from runtime.messages import BusMessage, Caller, CallerKind, Headers, Request, TimerTick
from runtime.problems import Problem, internal, not_ready, too_large
from runtime.routes_registry import BusRoute, Route, TimerRoute

log = logging.getLogger("runtime.invocation")

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
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
        try:
            try:
                answer = encode(await self._handle(route, inbound))
            except Problem as problem:
                answer = encode_problem(problem, inbound.request_id)
        except Exception:
            log.exception("%s %s failed [request %s]", inbound.method, route.name, inbound.request_id)
            answer = encode_problem(internal(), inbound.request_id)
        answer.headers[REQUEST_ID_HEADER] = inbound.request_id
        return answer

    def refuse(self, problem: Problem, request_id: str) -> Answer:
        """The answer to a request that reaches no route."""
        answer = encode_problem(problem, request_id)
        answer.headers[REQUEST_ID_HEADER] = request_id
        return answer

    async def ready(self) -> None:
        """Wait for the application, however long it takes to start."""
        await self._lifecycle.ensure_within(None)

    async def bus(self, route: BusRoute, message: BusMessage, *, patience_seconds: float | None) -> None:
        """Hand a message to its handler. What the handler raises is raised, for the binding to abandon the message.

        An application that cannot start is waited for so many seconds (None: for ever) before `NotReady`: abandoned
        messages come back at once, and would use up their deliveries within seconds.
        """
        app = await self._lifecycle.ensure_within(patience_seconds)
        await call(route.handler, dataclasses.replace(message, app=app))

    async def timer(self, route: TimerRoute, tick: TimerTick) -> None:
        """Hand a tick to its handler. Raises what the handler raises, or `NotReady`."""
        app = await self._lifecycle.ensure()
        await call(route.handler, dataclasses.replace(tick, app=app))

    async def _handle(self, route: Route, inbound: Inbound) -> object:
        credentials = Credentials(inbound.headers, inbound.query, inbound.peer)
        caller = await self._authorizer.authorize(route.auth_level, credentials)
        declared = inbound.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > route.max_body_bytes):
            raise too_large(route.max_body_bytes)
        body = await inbound.read_body(route.max_body_bytes)
        app = await self._ready_app(caller)
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
            raise not_ready(reason, RETRY_AFTER_SECONDS) from error


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
