"""An HTTP exchange over ASGI: a request into `Inbound`, an `Answer` out to the client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.responses import Response as PlainResponse
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from runtime.encoding import Answer
from runtime.invocation import Inbound, Invoker, request_id
from runtime.messages import Headers
from runtime.problems import Problem, not_found, too_large
from runtime.router import Router
from runtime.routes import Route

log = logging.getLogger("runtime.asgi")

BODY_TIMEOUT_SECONDS = 60.0
MAX_QUERY_PARAMETERS = 1000
STALLED_SECONDS = 60.0
"""How long one piece of a stream may wait for its client to read."""


class StalledClientError(Exception):
    """The client of a stream stopped reading."""


class HttpEndpoint:
    """The ASGI application behind the prefix: finds the route, invokes it, sends the answer."""

    def __init__(self, routes: Iterable[Route], invoker: Invoker, prefix: str) -> None:
        self._router = Router(routes)
        self._invoker = invoker
        self._prefix = f"/{prefix.strip('/')}/".casefold() if prefix.strip("/") else "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "HTTP only"})
            return
        headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        correlation = request_id(headers)
        try:
            route, inbound = self._find(scope, receive, headers, correlation)
        except Problem as problem:
            answer = self._invoker.refuse(problem, correlation, headers)
        else:
            answer = await self._invoker.http(route, inbound)
        await _send(answer, correlation, scope, receive, send)

    def _find(self, scope: Scope, receive: Receive, headers: Headers, correlation: str) -> tuple[Route, Inbound]:
        method: str = scope["method"]
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        path = raw_path.decode("latin-1")
        if not path.casefold().startswith(self._prefix):
            raise not_found(path)
        try:
            route, parameters = self._router.find(method, path[len(self._prefix) :])
        except Problem as problem:
            raise (not_found(path) if problem.status == 404 else problem) from None
        query_string: bytes = scope["query_string"]
        client = scope.get("client")
        inbound = Inbound(
            method=method,
            url=_url(scope, headers, path, query_string),
            path=path,
            headers=headers,
            query=_query(query_string),
            read_body=lambda limit: _read_body(receive, limit),
            route_params=parameters,
            peer=client[0] if client else None,
            request_id=correlation,
        )
        return route, inbound


async def _read_body(receive: Receive, limit: int) -> bytes:
    """The body, as long as it stays within `limit` bytes: no more than that is ever held."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "client_disconnected", detail="The connection closed before the body ended.")
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        detail = f"The body did not arrive within {BODY_TIMEOUT_SECONDS:.0f} s."
        raise Problem(408, "body_timeout", detail=detail, headers={"Connection": "close"}) from None


async def _send(answer: Answer, correlation: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = answer.headers
    if scope["method"] == "HEAD":
        if answer.stream is None and answer.status not in (204, 304):
            headers.setdefault("content-length", str(len(answer.body)))
        await _close(answer.stream)
        response = PlainResponse(b"", answer.status, headers)
        if answer.stream is not None and "content-length" not in headers:
            del response.headers["content-length"]  # nobody knows it (RFC 9110 section 8.6)
        await response(scope, receive, send)
    elif answer.stream is None:
        await PlainResponse(answer.body, answer.status, headers)(scope, receive, send)
    else:
        try:
            await StreamingResponse(answer.stream, answer.status, headers)(scope, receive, _bounded(send))
        except ClientDisconnect:
            log.debug("the client left a streamed answer [request %s]", correlation)
        except StalledClientError:
            log.warning("the client of a streamed answer does not read it: given up [request %s]", correlation)
            raise
        except Exception:
            # The status has been sent: all that is left is to cut the connection, so that no half passes for a whole.
            log.exception("a streamed answer broke off [request %s]", correlation)
            raise
        finally:
            await _close(answer.stream)


def _bounded(send: Send) -> Send:
    async def within(message: Message) -> None:
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)
        except TimeoutError:
            # Not itself: a TimeoutError is an OSError, by which servers say that the client left.
            raise StalledClientError from None

    return within


async def _close(stream: AsyncIterator[bytes] | None) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        with contextlib.suppress(RuntimeError):  # still running: its own cancellation closes it
            await close()


def _query(query_string: bytes) -> Mapping[str, str]:
    if not query_string:
        return {}
    try:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_PARAMETERS)
    except ValueError as error:
        raise Problem(400, "invalid_query", detail=f"{error}.") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        query[name] = f"{query[name]},{value}" if name in query else value
    return query


def _url(scope: Scope, headers: Headers, path: str, query_string: bytes) -> str:
    server = scope.get("server") or ("localhost", None)
    host = headers.get("host") or (f"{server[0]}:{server[1]}" if server[1] else server[0])
    query = "?" + query_string.decode("latin-1") if query_string else ""
    return f"{scope.get('scheme', 'http')}://{host}{path}{query}"
