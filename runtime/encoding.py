"""What a handler returned, as an HTTP answer."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import BaseModel
from pydantic_core import to_json

from runtime.messages import Response
from runtime.problems import PROBLEM_MEDIA_TYPE, Problem

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # token, RFC 9110 section 5.6.2


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer on the wire: header names in lower case; `stream`, if there is one, instead of `body`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None


@runtime_checkable
class HttpResponseLike(Protocol):
    """The shape of `azure.functions.HttpResponse`, which handlers may return without this module importing it."""

    @property
    def status_code(self) -> int: ...
    @property
    def mimetype(self) -> str: ...
    @property
    def charset(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def get_body(self) -> bytes: ...


def encode(result: object) -> Answer:
    """`result` as an answer.

    None is 204; dict, list and pydantic model are JSON; str is text; bytes are bytes; `Response` and
    `azure.functions.HttpResponse` say for themselves. Raises `TypeError` for anything else.
    """
    if result is None:
        return Answer(204)
    if isinstance(result, Response):
        return _encode_response(result)
    if isinstance(result, (dict, list, BaseModel, str, bytes)):
        body, media_type = _encode_body(result)
        return Answer(200, {"content-type": media_type}, body)
    if isinstance(result, HttpResponseLike):
        headers = _checked_headers(result.headers.items())
        headers.setdefault("content-type", _with_charset(result.mimetype, result.charset))
        return Answer(result.status_code, headers, result.get_body())
    remedy = "return dict, list, str, bytes, a pydantic model, None or runtime.Response"
    if isinstance(result, tuple):
        remedy = "for a status or headers return runtime.Response(status, body, headers)"
    raise TypeError(f"a handler returned {type(result).__name__}; {remedy}")


def encode_problem(problem: Problem, request_id: str, trace_id: str = "") -> Answer:
    """`problem` as application/problem+json (RFC 9457)."""
    headers = {**_checked_headers(problem.headers.items()), "content-type": PROBLEM_MEDIA_TYPE}
    return Answer(problem.status, headers, to_json(problem.document(request_id, trace_id)))


def _encode_response(response: Response) -> Answer:
    headers = _checked_headers(response.headers.items())
    body, media_type = b"", BYTES
    if response.body is not None:
        body, media_type = _encode_body(response.body)
    elif response.stream is None:
        media_type = ""
    chosen = response.media_type or headers.get("content-type") or media_type
    if chosen:
        headers["content-type"] = chosen
    return Answer(response.status, headers, body, response.stream)


def _encode_body(body: object) -> tuple[bytes, str]:
    if isinstance(body, bytes):
        return body, BYTES
    if isinstance(body, str):
        return body.encode(), TEXT
    if isinstance(body, (list, BaseModel, Mapping)):
        # JSON has no NaN (RFC 8259 section 6): null, as JavaScript's JSON.stringify has it.
        value = dict(body) if isinstance(body, Mapping) else body
        return to_json(value, by_alias=True, inf_nan_mode="null"), JSON
    raise TypeError(f"a response body must be bytes, str, dict, list or a pydantic model, not {type(body).__name__}")


def _with_charset(mimetype: str, charset: str) -> str:
    return f"{mimetype}; charset={charset}" if mimetype.startswith("text/") else mimetype


def _checked_headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in items:
        if not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise ValueError(f"header {name!r} has a name or value that HTTP cannot carry (RFC 9110 section 5.5)")
        headers[name.lower()] = value
    return headers
