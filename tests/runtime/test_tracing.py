from __future__ import annotations

import pytest

from runtime.tracing import trace_of

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
