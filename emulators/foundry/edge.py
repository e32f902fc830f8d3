"""The edge of the server: every route checks, counts and answers in the same way.

In this order: an injected fault, the credential, the API version, the body (size, JSON, type), the handler.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulators.foundry.database import Order, PageQuery
from emulators.foundry.errors import ApiError, retry_headers

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_FAULTS = 1000
RECENT_CALLS = 200

# pydantic puts the tag of a discriminated union into a location; a client knows nothing of it
_UNION_TAGS = frozenset(
    ("message", "function_call", "function_call_output", "input_text", "output_text", "text", "refusal")
)

_log = logging.getLogger("emulators.foundry")
Handler = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body", bound=BaseModel)


class Fault(BaseModel):
    """An answer to give instead of the real one, the next ``times`` times a request matches."""

    model_config = ConfigDict(extra="forbid")

    status: int = Field(ge=400, le=599)
    times: int = Field(default=1, ge=1, le=1_000_000)
    retry_after: float | None = Field(default=None, ge=0, le=3600)
    path_contains: str = ""
    method: str | None = None
    code: str | None = None
    message: str = "Injected by /_emulator/faults."

    def matches(self, request: Request) -> bool:
        """Whether this fault hits the request."""
        return self.path_contains in request.url.path and self.method in (None, request.method)


_FAULT_CODES = {429: "rate_limit_exceeded", 500: "server_error", 503: "service_unavailable"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request as seen at the edge; ``at`` is Unix time in seconds."""

    method: str
    path: str
    status: int
    code: str | None
    at: float
    duration_ms: float


class Edge:
    """Builds routes, injects faults, remembers calls."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._faults: list[Fault] = []
        self._counts: Counter[str] = Counter()
        self._recent: deque[Call] = deque(maxlen=RECENT_CALLS)

    def route(self, method: str, path: str, handler: Handler, *, versioned: bool) -> Route:
        """A route below the project; ``versioned`` ones require ``?api-version=v1``."""

        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            code: str | None = None
            status = 500
            try:
                self._inject(request)
                _require_credential(request)
                if versioned:
                    _require_version(request)
                response = await handler(request)
                status = response.status_code
                return response
            except ApiError as error:
                status, code = error.status, error.code
                return error_response(error)
            except Exception:
                code = "server_error"
                _log.exception("%s %s failed", method, path)
                return error_response(ApiError(500, code, "The emulator failed; its log has the details."))
            finally:
                self._counts[f"{method} {path}"] += 1
                elapsed = (time.perf_counter() - started) * 1000
                self._recent.append(Call(method, request.url.path, status, code, time.time(), round(elapsed, 3)))

        return Route(self._prefix + path, endpoint, methods=[method])

    def _inject(self, request: Request) -> None:
        for fault in self._faults:
            if fault.matches(request):
                fault.times -= 1
                if fault.times == 0:
                    self._faults.remove(fault)
                code = fault.code or _FAULT_CODES.get(fault.status, "injected_fault")
                raise ApiError(fault.status, code, fault.message, retry_after=fault.retry_after)

    def admin_routes(self) -> list[Route]:
        """``/_emulator/faults`` (POST, GET, DELETE) and ``/_emulator/calls`` (GET, DELETE); no credential asked."""

        async def add(request: Request) -> Response:
            try:
                fault = await read_body(request, Fault)
            except ApiError as error:
                return error_response(error)
            if len(self._faults) >= MAX_FAULTS:
                return error_response(ApiError(400, "too_many_faults", f"At most {MAX_FAULTS} faults can wait."))
            self._faults.append(fault)
            return json_response(fault.model_dump(), status=201)

        async def faults(request: Request) -> Response:
            return json_response({"faults": [fault.model_dump() for fault in self._faults]})

        async def clear_faults(request: Request) -> Response:
            self._faults.clear()
            return json_response({"faults": []})

        async def calls(request: Request) -> Response:
            return json_response({"counts": dict(self._counts), "recent": [asdict(call) for call in self._recent]})

        async def clear_calls(request: Request) -> Response:
            self._counts.clear()
            self._recent.clear()
            return json_response({"counts": {}, "recent": []})

        return [
            Route("/_emulator/faults", add, methods=["POST"]),
            Route("/_emulator/faults", faults, methods=["GET"]),
            Route("/_emulator/faults", clear_faults, methods=["DELETE"]),
            Route("/_emulator/calls", calls, methods=["GET"]),
            Route("/_emulator/calls", clear_calls, methods=["DELETE"]),
        ]


def _require_credential(request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if (scheme.lower() == "bearer" and token.strip()) or request.headers.get("api-key"):
        return
    raise ApiError(
        401, "Unauthorized", "Send a credential: header 'Authorization: Bearer <token>' or 'api-key: <key>'."
    )


def _require_version(request: Request) -> None:
    version = request.query_params.get("api-version")
    if version is None:
        raise ApiError(400, "MissingApiVersionParameter", "The query parameter api-version is required: use v1.")
    if version != "v1":
        raise ApiError(400, "InvalidApiVersionParameter", f"api-version '{version}' is not supported: use v1.")


async def read_body(request: Request, model: type[Body]) -> Body:
    """Parse the body; an empty one counts as ``{}``.

    Raises:
        ApiError: 413 above `MAX_BODY_BYTES`, 400 for bad JSON or a field of the wrong shape (``param`` names it).
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise ApiError(413, "request_too_large", f"The body may have {MAX_BODY_BYTES} bytes at most.")
    try:
        return model.model_validate_json(bytes(raw) or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, "invalid_json", f"The body is no valid JSON: {first['msg']}.") from error
        param = _field_path(first["loc"])
        raise ApiError(400, "invalid_payload", f"{param or 'body'}: {first['msg']}.", param=param) from error


def _field_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for before, part in zip((None, *location), location, strict=False):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (isinstance(before, int) and part in _UNION_TAGS):
            path += f".{part}"
    return path.lstrip(".")


def page_query(request: Request) -> PageQuery:
    """``limit`` (1 to 100, default 20), ``order`` (default desc), ``after`` and ``before`` from the query string."""
    params = request.query_params
    text = params.get("limit", "20")
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= 100:
        raise ApiError(400, "invalid_payload", "limit must be an integer from 1 to 100.", param="limit")
    order: Order
    match params.get("order", "desc"):
        case "asc":
            order = "asc"
        case "desc":
            order = "desc"
        case _:
            raise ApiError(400, "invalid_payload", "order must be 'asc' or 'desc'.", param="order")
    return PageQuery(int(text), order, params.get("after"), params.get("before"))


def unknown_cursor(cursor: object) -> ApiError:
    """400 for an ``after`` or ``before`` that names nothing in the list."""
    return ApiError(400, "invalid_payload", f"after/before: '{cursor}' is not in this list.", param="after")


def list_response(data: list[dict[str, JsonValue]], *, has_more: bool) -> Response:
    """The list envelope; both pagers continue with ``after=last_id``, azure's until ``last_id`` is null."""
    first = data[0]["id"] if data else None
    last = data[-1]["id"] if data else None
    return json_response({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


def json_response(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A compact JSON answer."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(content, status, headers=dict(headers or {}), media_type="application/json")


def error_response(error: ApiError) -> Response:
    """The answer to a refused request."""
    return json_response(error.body(), status=error.status, headers=retry_headers(error.retry_after))


async def http_exception(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the service's own shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "server_error")
    return error_response(ApiError(status, code, f"{request.method} {request.url.path}: not served by this emulator."))
