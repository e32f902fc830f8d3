from __future__ import annotations

import pytest
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from runtime.tracing import served, trace_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_the_callers_trace_goes_on_under_a_new_span() -> None:
    trace = trace_of({"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert (trace.trace_id, trace.flags) == (TRACE, "01")
    assert trace.span_id != SPAN
    assert trace.traceparent == f"00-{TRACE}-{trace.span_id}-01"
    assert trace_of({"traceparent": f"cc-{TRACE}-{SPAN}-01-what-the-future-brings"}).trace_id == TRACE


@pytest.mark.parametrize(
    "value",
    ["", "nonsense", f"00-{TRACE}-{SPAN}-01-more", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
     f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01"],
)  # fmt: skip
def test_an_invalid_traceparent_begins_a_new_trace(value: str) -> None:
    trace = trace_of({"traceparent": value})
    assert trace.trace_id not in (TRACE, "0" * 32)
    assert len(trace.trace_id) == 32


def test_a_caller_is_passed_on_without_an_sdk() -> None:
    carrier = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    with served("GET x", SpanKind.SERVER, carrier, {}, tracer=trace.NoOpTracer()) as serving:
        assert trace.get_current_span().get_span_context().trace_id == int(TRACE, 16)
    assert serving.trace.trace_id == TRACE
    assert serving.trace.span_id != SPAN


async def test_the_hosts_span_is_the_parent_where_it_belongs_to_the_callers_trace() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("runtime")
    host = SpanContext(int(TRACE, 16), 0xA, True, TraceFlags(1))
    token = contexts.attach(trace.set_span_in_context(trace.NonRecordingSpan(host)))
    try:
        for trace_id in (TRACE, "c" * 32, None):
            carrier = {} if trace_id is None else {"traceparent": f"00-{trace_id}-{SPAN}-01"}
            with served("process q", SpanKind.CONSUMER, carrier, {}, tracer=tracer):
                pass
    finally:
        contexts.detach(token)
    same, other, none = exporter.get_finished_spans()
    # It has a request of its own for each of them.
    assert {span.kind for span in (same, other, none)} == {SpanKind.INTERNAL}
    assert [span.parent.span_id for span in (same, other, none) if span.parent] == [0xA, int(SPAN, 16), 0xA]
    assert [[link.context.span_id for link in span.links] for span in (same, other, none)] == [[], [0xA], []]
    provider.shutdown()
