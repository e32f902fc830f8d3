"""What leaves for the bus, what tools do, and what the logs say, each in its place of the trace."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest
from mcp import MCPError
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aos.kernel.breaker import Circuit
from aos.kernel.types import ConversationKey
from aos.mcp.errors import ToolTimeout
from aos.telemetry.bus import Sending, delivered, parked
from aos.telemetry.content import CAPTURE
from aos.telemetry.instruments import Watched
from aos.telemetry.logs import Ids, JsonFormatter, TextFormatter
from aos.telemetry.observer import TurnObserver
from aos.telemetry.places import nowhere, traceparent
from aos.telemetry.tools import Execution, asking
from aos.telemetry.work import narrow
from tests.telemetry.test_observer import attributes, named, point

NAMED = f"00-{'a' * 32}-{'b' * 16}-01"


def test_a_message_carries_the_span_of_its_sending(spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("turn") as turn, Sending("mcp-requests") as sent:
        plain = sent.stamp("m1", {"aos-attempt": 2})
        of_another = sent.stamp("m2", {"traceparent": NAMED})
    first, second = (span for span in spans.get_finished_spans() if span.name == "send mcp-requests")
    assert first.context is not None
    assert second.context is not None
    assert first.parent is not None
    assert first.parent.span_id == turn.get_span_context().span_id
    assert plain == {"aos-attempt": 2, "traceparent": traceparent(first.context)}
    assert of_another == {"traceparent": f"00-{'a' * 32}-{second.context.span_id:016x}-01"}


def test_what_could_not_be_sent_is_an_error(spans: InMemorySpanExporter) -> None:
    def fail() -> None:
        with Sending("mcp-requests") as sent:
            sent.stamp("m1", {})
            raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken"):
        fail()
    assert attributes(named(spans, "send mcp-requests"))["error.type"] == "OSError"


@pytest.mark.parametrize(("result", "outcome"), [({"content": []}, "succeeded"), ({"isError": True}, "failed")])
def test_a_tool_is_executed(
    spans: InMemorySpanExporter, meters: InMemoryMetricReader, result: dict[str, object], outcome: str
) -> None:
    with Execution("ledger", f"book-{outcome}", "op_1.1.0", {"sum": "a secret"}) as execution:
        execution.answered(result)
    span = named(spans, f"execute_tool book-{outcome}")
    assert attributes(span)["gen_ai.tool.call.id"] == "op_1.1.0"
    assert "a secret" not in span.to_json()
    labels = {"aos.mcp.server": "ledger", "gen_ai.tool.name": f"book-{outcome}", "aos.outcome": outcome}
    assert point(meters, "aos.tool.calls", **labels).value == 1
    assert point(meters, "aos.tool.duration", **labels).count == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, {}),
        (ToolTimeout("too late"), {"error.type": "timeout"}),
        (OSError("a secret"), {"error.type": "OSError"}),
        (MCPError(-32602, "a secret"), {"error.type": "-32602", "rpc.response.status_code": "-32602"}),
    ],
)
def test_a_request_to_a_server_is_a_span_that_goes_with_it(
    spans: InMemorySpanExporter, error: Exception | None, told: dict[str, str]
) -> None:
    params: dict[str, object] = {"name": "book", "arguments": {"sum": 7}, "_meta": {"kept": 1}}

    with pytest.raises(type(error)) if error else nullcontext(), asking("tools/call", 7, params):
        if error:
            raise error
    span = named(spans, "MCP send tools/call book")
    assert span.kind is trace.SpanKind.CLIENT
    assert span.context is not None
    assert attributes(span) == {"mcp.method.name": "tools/call", "jsonrpc.request.id": "7", **told}
    assert "a secret" not in span.to_json()
    assert params["_meta"] == {"kept": 1, "traceparent": traceparent(span.context)}


def test_a_tool_that_times_out_and_its_arguments_on_request(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, "true")

    def late() -> None:
        with Execution("ledger", "late", "op_1.1.0", {"sum": 7}):
            raise ToolTimeout("too late")

    with pytest.raises(ToolTimeout):
        late()
    found = attributes(named(spans, "execute_tool late"))
    assert (found["error.type"], found["aos.outcome"]) == ("timeout", "timeout")
    assert found["gen_ai.tool.call.arguments"] == '{"sum": 7}'


def test_circuits_backlogs_delays_and_parked_messages_are_measured(meters: InMemoryMetricReader) -> None:
    circuit = Circuit("Deployment measured", "open", 5, 1.0, 3.0, "down")
    watched = Watched(lambda: [circuit], lambda: {"measured": 42})
    delivered("measured", datetime.now(UTC))
    delivered("unknown", None)
    parked("Measured")
    assert point(meters, "aos.circuit.state", **{"aos.circuit": "Deployment measured"}).value == 2
    assert point(meters, "aos.backlog", **{"gen_ai.agent.id": "measured"}).value == 42
    assert point(meters, "aos.bus.delivery_delay", **{"messaging.destination.name": "measured"}).sum < 60
    assert point(meters, "aos.messages.parked", **{"aos.reason": "Measured"}).value == 1
    del watched
    # A system that is gone is not shown any more.
    with pytest.raises(AssertionError):
        point(meters, "aos.backlog", **{"gen_ai.agent.id": "measured"})


def test_what_is_started_nowhere_belongs_to_no_trace() -> None:
    with trace.get_tracer("test").start_as_current_span("request") as request:
        with nowhere():
            assert not trace.get_current_span().get_span_context().is_valid
        assert trace.get_current_span() is request


def record() -> logging.LogRecord:
    made = logging.LogRecord("aos.kernel", logging.WARNING, __file__, 1, "put off: %s", ("down",), None)
    assert Ids().filter(made)
    return made


def test_logs_know_what_they_are_about() -> None:
    observer = TurnObserver("openai")
    with (
        trace.get_tracer("test").start_as_current_span("request") as request,
        observer.conversation(ConversationKey("ceo", "main")),
    ):
        narrow("op_1")
        told = json.loads(JsonFormatter().format(record()))
        line = TextFormatter().format(record())
    context = request.get_span_context()
    assert told.pop("time").startswith("20")
    assert told == {
        "level": "WARNING",
        "logger": "aos.kernel",
        "message": "put off: down",
        "operation_id": "op_1",
        "conversation_id": "main",
        "agent_id": "ceo",
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
    }
    assert line.endswith("WARNING aos.kernel: put off: down [op_1]")
    assert set(json.loads(JsonFormatter().format(record()))) == {"time", "level", "logger", "message"}


def test_a_line_of_text_stays_one_line_whatever_a_sender_put_into_it() -> None:
    forged = "1]\n2026-01-01 ERROR aos.keys: forged \x1b[2J\u2028grüße"
    made = logging.LogRecord("runtime.bus", logging.ERROR, __file__, 1, "failed [message %s]", (forged,), None)
    line = TextFormatter().format(made)
    assert line.endswith(r"failed [message 1]\n2026-01-01 ERROR aos.keys: forged \x1b[2J\u2028grüße]")
    assert line.isprintable()
