"""Turns in the kernel's world of virtual time, watched by the real SDK."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode

from aos.errors import FoundryRefused
from aos.kernel.types import (
    AgentRef,
    ConversationKey,
    Failure,
    FunctionCall,
    Message,
    ModelReply,
    Operation,
    ToolOutput,
    Turn,
    Usage,
)
from aos.telemetry.content import CAPTURE
from aos.telemetry.observer import TurnObserver
from aos.telemetry.places import Place, place_of, traceparent, traceparent_of, within

KEY = ConversationKey("ceo", "main")
NAMED = f"00-{'a' * 32}-{'b' * 16}-01"
TURN = Turn(Message("op_1", "what is said", 0.0, 600.0), AgentRef("ceo", "3", "hash", "llama-ceo"))
REPLY = ModelReply("the answer", (FunctionCall("call_1", "book", '{"sum": 7}'),), Usage(11, 5, 16), "llama-ceo", "i1")


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = (span for span in spans.get_finished_spans() if span.name == name)
    return found


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


def point(meters: InMemoryMetricReader, name: str, **labels: str) -> Any:
    data = meters.get_metrics_data()
    assert data is not None
    found = [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
        if labels.items() <= dict(point.attributes or {}).items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def operation(**more: Any) -> Operation:
    return Operation("op_1", "ceo", "main", "completed", 100.0, 130.5, usage=Usage(20, 9, 29), **more)


def test_a_turn_is_one_span_whose_id_its_steps_knew_before(spans: InMemorySpanExporter) -> None:
    observer = TurnObserver("microsoft.foundry")
    with trace.get_tracer("test").start_as_current_span("request") as request:
        kept = observer.place()
    with observer.conversation(KEY):
        observer.turn(Message("op_1", "hello", 0.0, 600.0, trace=kept))
        with observer.model_step(KEY, TURN, "what is said", ()) as answered:
            answered(REPLY)
    assert trace.get_current_span() is trace.INVALID_SPAN
    # By another process, which has nothing but what was stored.
    TurnObserver("microsoft.foundry").ended(operation(trace=kept))
    turn, step = named(spans, "invoke_agent ceo"), named(spans, "chat llama-ceo")
    assert turn.context is not None
    assert turn.parent is not None
    assert step.parent is not None
    assert turn.parent.span_id == request.get_span_context().span_id
    assert step.parent.span_id == turn.context.span_id
    assert {span.context.trace_id for span in (turn, step) if span.context} == {request.get_span_context().trace_id}
    assert (turn.start_time, turn.end_time) == (100_000_000_000, 130_500_000_000)
    assert attributes(turn)["gen_ai.operation.name"] == "invoke_agent"
    assert attributes(turn)["gen_ai.usage.input_tokens"] == 20


def test_a_model_step_has_the_attributes_of_the_conventions(spans: InMemorySpanExporter) -> None:
    with TurnObserver("microsoft.foundry").model_step(KEY, TURN, None, ()) as answered:
        answered(REPLY)
    found = dict(attributes(named(spans, "chat llama-ceo")))
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "microsoft.foundry",
        "gen_ai.request.model": "llama-ceo",
        "gen_ai.response.model": "llama-ceo",
        "gen_ai.agent.id": "ceo",
        "gen_ai.agent.name": "ceo",
        "gen_ai.conversation.id": "main",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "aos.operation_id": "op_1",
        "aos.step": 1,
    }


def test_a_step_that_fails_says_with_which_code_and_nothing_else(spans: InMemorySpanExporter) -> None:
    def step() -> None:
        with TurnObserver("openai").model_step(KEY, TURN, "what is said", ()):
            raise FoundryRefused("the model read: what is said", code="content_filter")

    with pytest.raises(FoundryRefused):
        step()
    span = named(spans, "chat llama-ceo")
    assert attributes(span)["error.type"] == "content_filter"
    assert (span.status.status_code, span.events) == (StatusCode.ERROR, ())
    assert "what is said" not in span.to_json()


@pytest.mark.parametrize("switch", ["", "false", "NO_CONTENT", "EVENT_ONLY"])
def test_content_is_not_recorded(spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv(CAPTURE, switch)
    with TurnObserver("openai").model_step(KEY, TURN, "what is said", (ToolOutput("c0", "a result"),)) as answered:
        answered(REPLY)
    told = named(spans, "chat llama-ceo").to_json()
    assert not any(text in told for text in ("what is said", "a result", "the answer", "sum"))


@pytest.mark.parametrize("switch", ["true", "SPAN_ONLY", "span_and_event"])
def test_content_is_recorded_on_request(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv(CAPTURE, switch)
    with TurnObserver("openai").model_step(KEY, TURN, "said " * 9000, (ToolOutput("c0", "a result"),)) as answered:
        answered(REPLY)
    found = attributes(named(spans, "chat llama-ceo"))
    result, said = json.loads(found["gen_ai.input.messages"])
    assert result == {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c0", "response": "a result"}]}
    assert len(said["parts"][0]["content"]) < 8300
    (answer,) = json.loads(found["gen_ai.output.messages"])
    assert answer["finish_reason"] == "tool_calls"
    assert [part["type"] for part in answer["parts"]] == ["text", "tool_call"]


def test_metrics_have_the_values_of_the_turn(meters: InMemoryMetricReader) -> None:
    observer = TurnObserver("metered")
    key = ConversationKey("metered", "main")
    observer.started(key, Message("op_1", "hello", 100.0, 700.0), 102.5)
    with observer.model_step(key, TURN, None, ()) as answered:
        answered(REPLY)
    failed = Operation("op_1", "metered", "main", "failed", 100.0, 130.5, error=Failure("timeout", "", ""))
    observer.ended(failed)
    agent = {"gen_ai.agent.id": "metered"}
    assert point(meters, "aos.turn.queue_delay", **agent).sum == 2.5
    assert point(meters, "aos.turns", **agent, **{"aos.status": "failed"}).value == 1
    assert point(meters, "aos.turn.duration", **agent).sum == 30.5
    provider = {"gen_ai.provider.name": "metered"}
    assert point(meters, "gen_ai.client.token.usage", **provider, **{"gen_ai.token.type": "input"}).sum == 11
    assert point(meters, "gen_ai.client.token.usage", **provider, **{"gen_ai.token.type": "output"}).sum == 5
    assert point(meters, "gen_ai.client.operation.duration", **provider).count == 1


def test_a_trace_that_is_not_sampled_is_not_written(spans: InMemorySpanExporter) -> None:
    observer = TurnObserver("openai")
    caller = SpanContext(0xA, 0xB, True)
    token = contexts.attach(within(caller))
    kept = observer.place()
    contexts.detach(token)
    assert kept.endswith("-00 000000000000000b")
    observer.ended(operation(trace=kept))
    assert spans.get_finished_spans() == ()


def test_without_a_caller_the_trace_begins_at_acceptance(spans: InMemorySpanExporter) -> None:
    kept = TurnObserver("openai").place()
    accept = named(spans, "accept")
    place = place_of(kept)
    assert place is not None
    assert accept.context is not None
    assert place.parent.span_id == accept.context.span_id
    assert (place.turn.trace_id, place.turn.trace_flags) == (accept.context.trace_id, accept.context.trace_flags)
    assert traceparent_of(kept) == traceparent(place.turn)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "00-0-0-0",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'g' * 32}-{'1' * 16}-01",
        f"{NAMED} x",
        f"{NAMED} {' '.join(['1' * 16] * 3)}",
    ],
)
def test_what_is_no_place_is_none(text: str) -> None:
    assert place_of(text) is None
    # Nor does it disturb a turn.
    observer = TurnObserver("openai")
    with observer.conversation(KEY):
        observer.turn(Message("op_1", "hello", 0.0, 600.0, trace=text))


def test_a_place_survives_being_stored() -> None:
    turn, parent = (SpanContext(5, span_id, True, trace.TraceFlags(1)) for span_id in (7, 9))
    call = SpanContext(5, 11, True, trace.TraceFlags(1))
    for place in (Place(turn, parent), Place(parent, parent), Place(turn, parent, call)):
        assert place_of(place.text) == place


def test_telemetry_that_breaks_does_not_break_the_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the exporter is out of order")

    observer = TurnObserver("openai")
    for what in ("TURNS.add", "TOKEN_USAGE.record", "QUEUE_DELAY.record", "MODEL_DURATION.record"):
        monkeypatch.setattr(f"aos.telemetry.instruments.{what}", broken)
    monkeypatch.setattr(observer._turns.tracer, "start_span", broken)
    with caplog.at_level(logging.WARNING, "aos.telemetry"):
        observer.place()
        observer.started(KEY, TURN.message, 1.0)
        with observer.model_step(KEY, TURN, "x", ()) as answered:
            answered(REPLY)
        observer.ended(operation())
    said = [record.getMessage() for record in caplog.records if record.name == "aos.telemetry"]
    assert said == ["telemetry failed"] * 6
