"""Which trace a request or message belongs to: W3C Trace Context, and a span of OpenTelemetry where an SDK is set up.

Only `opentelemetry-api` is used. Without an SDK no span is made, and the caller's trace is passed on all the same.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer

TRACEPARENT = "traceparent"
TRACERESPONSE = "traceresponse"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_tracer = trace.get_tracer("runtime")


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


def watched() -> bool:
    """Whether anybody sees spans: an SDK is set up."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def unseen(carrier: Mapping[str, object]) -> bool:
    """Whether nobody would see a span around what is handled, and it names no trace that would have to be passed on."""
    return TRACEPARENT not in carrier and not watched() and not trace.get_current_span().get_span_context().is_valid


def trace_of(headers: Mapping[str, str]) -> Trace:
    """A new place in the caller's trace, or in a new one if `traceparent` is missing or invalid (section 3.2.2)."""
    known = _callers(headers.get(TRACEPARENT, ""))
    span_id = secrets.token_hex(8)
    return Trace(secrets.token_hex(16), span_id) if known is None else Trace(known.trace_id, span_id, known.flags)


def _callers(value: str) -> Trace | None:
    """The place that a valid `traceparent` names."""
    found = _TRACEPARENT.fullmatch(value.strip())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    if not found[2].strip("0") or not found[3].strip("0"):
        return None
    return Trace(found[2], found[3], found[4])


class Served:
    """A request or message while it is handled."""

    def __init__(self, span: Span, headers: Mapping[str, str]) -> None:
        self._span = span
        self._headers = headers

    @cached_property
    def trace(self) -> Trace:
        """Its place, for what it calls and for its sender."""
        if not self._span.is_recording():
            return trace_of(self._headers)
        here = self._span.get_span_context()
        return Trace(f"{here.trace_id:032x}", f"{here.span_id:016x}", f"{here.trace_flags & 0xFF:02x}")

    def answered(self, status: int) -> None:
        """An HTTP request was answered with this status."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)


def served(
    name: str,
    kind: SpanKind,
    carrier: Mapping[str, object],
    attributes: Mapping[str, str | int],
    *,
    tracer: Tracer = _tracer,
) -> AbstractContextManager[Served]:
    """A span around the handling of a request or message, below the one that its `traceparent` names.

    Where the host has a span for it already, this one is internal to the host's, so that nothing counts twice; a host's
    span of another trace is linked.
    """
    value = carrier.get(TRACEPARENT, "")
    headers = {TRACEPARENT: value} if isinstance(value, str) else {}
    known = _callers(headers.get(TRACEPARENT, ""))
    parent = None if known is None else _span_context(known)
    host = trace.get_current_span().get_span_context()
    if parent is None and not host.is_valid and tracer is _tracer and not watched():
        return nullcontext(Served(trace.INVALID_SPAN, headers))  # nothing to write, and nothing to pass on
    return _spanned(tracer, name, kind, parent, host, headers, attributes)


@contextmanager
def _spanned(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    parent: SpanContext | None,
    host: SpanContext,
    headers: Mapping[str, str],
    attributes: Mapping[str, str | int],
) -> Iterator[Served]:
    context, links = contexts.get_current(), []
    if host.is_valid:
        kind = SpanKind.INTERNAL
    if parent is not None and not (host.is_valid and host.trace_id == parent.trace_id):
        context = trace.set_span_in_context(NonRecordingSpan(parent))
        links = [Link(host)] if host.is_valid else []
    span = tracer.start_span(name, context=context, kind=kind, attributes=attributes, links=links)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield Served(span, headers)
    except BaseException as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        span.end()


def _span_context(known: Trace) -> SpanContext:
    return SpanContext(int(known.trace_id, 16), int(known.span_id, 16), True, TraceFlags(int(known.flags, 16)))
