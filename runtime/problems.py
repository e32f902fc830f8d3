"""Errors as HTTP answers: RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

PROBLEM_MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault in a request body: an RFC 6901 JSON pointer into what the caller sent, and what is wrong there."""

    pointer: str
    detail: str


class Problem(Exception):
    """An error that the caller is told about, as `application/problem+json` (RFC 9457).

    `status` is the HTTP status, `code` a stable snake_case word for programs, `title` a short sentence that is the
    same for every occurrence, `detail` what happened this time and what to do about it. `errors` lists faulty fields,
    `headers` are added to the answer (`Retry-After`, `Allow`). None of it may hold internals or secrets.
    """

    def __init__(
        self,
        status: int,
        code: str,
        title: str | None = None,
        detail: str | None = None,
        *,
        errors: Iterable[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.title = title if title is not None else HTTPStatus(status).phrase
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        super().__init__(f"{status} {code}: {detail or self.title}")

    def document(self, request_id: str, trace_id: str = "") -> dict[str, object]:
        """The JSON members of the answer; all from `code` to `trace_id` and `errors` are extensions (RFC 9457
        section 3.2)."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "request_id": request_id,
        }
        if trace_id:
            document["trace_id"] = trace_id
        if self.detail is not None:
            document["detail"] = self.detail
        if self.errors:
            document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in self.errors]
        return document


class InvalidJson(Problem, ValueError):
    """The body is not JSON. Also a `ValueError`, which is what `azure.functions.HttpRequest.get_json` raises."""

    def __init__(self, detail: str) -> None:
        super().__init__(400, "invalid_json", "The body is not valid JSON", detail)


KEY_CHALLENGE = 'Key realm="functions"'


def unauthorized(detail: str, *challenges: str, code: str = "unauthorized") -> Problem:
    """401 with the challenges that RFC 9110 section 11.6.1 requires."""
    return Problem(401, code, detail=detail, headers={"WWW-Authenticate": ", ".join(challenges or (KEY_CHALLENGE,))})


def forbidden(code: str, detail: str) -> Problem:
    """403: the caller is known, and not allowed."""
    return Problem(403, code, detail=detail)


def not_found(path: str) -> Problem:
    """404 for a path that no route matches."""
    return Problem(404, "route_not_found", "No such route", f"Nothing is served at {path}.")


def method_not_allowed(method: str, allowed: Iterable[str]) -> Problem:
    """405 with the `Allow` header that RFC 9110 section 15.5.6 requires."""
    allow = ", ".join(sorted(allowed))
    detail = f"{method} is not supported here; use one of: {allow}."
    return Problem(405, "method_not_allowed", detail=detail, headers={"Allow": allow})


def too_large(limit: int) -> Problem:
    """413: the body is longer than the route's `max_body_bytes`."""
    return Problem(413, "body_too_large", "The body is too large", f"The limit of this route is {limit} bytes.")


def unsupported_media(detail: str, headers: Mapping[str, str]) -> Problem:
    """415: the body is in a format, or a coding, that the route does not take."""
    return Problem(415, "unsupported_media_type", detail=detail, headers=headers)


def invalid_parameters(errors: Iterable[FieldError]) -> Problem:
    """400: parameters of the path, the query or the headers do not fit; `pointer` is `/query/name`."""
    return Problem(400, "invalid_parameters", "The parameters are not valid", errors=errors)


def invalid(errors: Iterable[FieldError]) -> Problem:
    """422: the body is JSON, but not what the route expects."""
    return Problem(422, "invalid_body", "The body does not match the schema", errors=errors)


def not_ready(detail: str, retry_after_seconds: int) -> Problem:
    """503: the application could not be initialised; the next request tries again."""
    headers = {"Retry-After": str(retry_after_seconds)}
    return Problem(503, "not_ready", "The application is not ready", detail, headers=headers)


def internal() -> Problem:
    """500 without internals: the log has them, under the request id."""
    return Problem(500, "internal_error", "Internal error", "The log holds the cause under this request id.")
