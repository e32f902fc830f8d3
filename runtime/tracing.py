"""Which trace a request belongs to: W3C Trace Context, with or without a telemetry SDK."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

TRACEPARENT = "traceparent"
TRACERESPONSE = "traceresponse"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a trace: 32 and 16 hexadecimal digits, and the flags."""

    trace_id: str
    span_id: str
    flags: str = "00"

    @property
    def traceparent(self) -> str:
        """As a header value (version 00)."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def trace_of(headers: Mapping[str, str]) -> Trace:
    """A new place in the caller's trace, or in a new one if `traceparent` is missing or invalid (section 3.2.2)."""
    found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, "").strip())
    span_id = secrets.token_hex(8)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return Trace(secrets.token_hex(16), span_id)
    if not found[2].strip("0") or not found[3].strip("0"):
        return Trace(secrets.token_hex(16), span_id)
    return Trace(found[2], span_id, found[4])
