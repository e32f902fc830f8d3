"""Refusals as the Foundry service words them: ``{"error": {"code", "message", "type", "param"}}``."""

from __future__ import annotations

import math

from pydantic import JsonValue

_TYPES = {401: "authentication_error", 404: "not_found_error", 409: "conflict_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused.

    ``status`` is the HTTP status, ``code`` and ``message`` what both SDKs show, ``param`` the field at fault,
    ``retry_after`` seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, JsonValue]:
        """The error object of the wire."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"code": self.code, "message": self.message, "type": kind, "param": self.param}}


def retry_headers(retry_after: float | None) -> dict[str, str]:
    """When to come back: ``Retry-After`` in whole seconds and ``retry-after-ms``, which the openai client prefers."""
    if retry_after is None:
        return {}
    return {"Retry-After": str(math.ceil(retry_after)), "retry-after-ms": str(round(retry_after * 1000))}


def not_found(what: str, name: str) -> ApiError:
    """404 for a resource that is not there."""
    return ApiError(404, "not_found", f"{what} '{name}' not found.")
