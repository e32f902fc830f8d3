"""`aos.kernel.observing.Observer` with OpenTelemetry: turns and model steps as spans and metrics, ids for logs.

A turn is a span `invoke_agent {agent}`, a model step below it `chat {deployment}`, with the attributes of the GenAI
semantic conventions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, use_span

from aos.kernel.observing import UNHEARD, Answered
from aos.kernel.types import ConversationKey, Message, ModelReply, Operation, ToolOutput, Turn
from aos.telemetry import content, instruments
from aos.telemetry.harmless import error_type, harmless
from aos.telemetry.places import TurnTracer, below, place_of, within
from aos.telemetry.work import Work, narrow, working

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes

_API = ("opentelemetry.trace", "opentelemetry.metrics")
"""Providers from these modules record nothing."""


class TurnObserver:
    """Observes the turns of this process, if telemetry is set up when it is made; else it knows ids for logs alone.

    Args:
        provider: `gen_ai.provider.name`: who answers model steps.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
        self._turns = TurnTracer(tracers)
        self._recording = any(not type(known).__module__.startswith(_API) for known in (tracers, meters))

    def place(self, *, called: bool = False) -> str:
        here = trace.get_current_span().get_span_context()
        if not here.is_valid and not self._recording:
            return ""
        with harmless():
            tracer = self._turns
            if not here.is_valid and tracer.chooses:
                # Nobody asked for it, such as a schedule: the trace begins here.
                span = tracer.tracer.start_span("accept", kind=SpanKind.INTERNAL)
                span.end()
                here = span.get_span_context()
            if here.is_valid:
                return below(here, chooses=tracer.chooses, called=called).text
        return ""

    def conversation(self, key: ConversationKey) -> AbstractContextManager[None]:
        return working(Work(key.agent_id, key.conversation_id), traced=self._recording)

    def turn(self, message: Message) -> None:
        narrow(message.operation_id)
        if message.trace and self._recording:
            with harmless():
                place = place_of(message.trace)
                if place is not None:
                    # `conversation` sets back what was before.
                    contexts.attach(within(place.turn))

    def started(self, key: ConversationKey, message: Message, at: float) -> None:
        if not self._recording:
            return
        with harmless():
            instruments.QUEUE_DELAY.record(max(0.0, at - message.accepted_at), {"gen_ai.agent.id": key.agent_id})

    def model_step(
        self, key: ConversationKey, turn: Turn, text: str | None, outputs: Sequence[ToolOutput]
    ) -> AbstractContextManager[Answered]:
        return self._model_step(key, turn, text, outputs) if self._recording else UNHEARD

    @contextmanager
    def _model_step(
        self, key: ConversationKey, turn: Turn, text: str | None, outputs: Sequence[ToolOutput]
    ) -> Iterator[Answered]:
        step = _Step(self._turns, self._provider, key, turn)
        if step.recorded and content.captured():
            with harmless():
                step.span.set_attribute("gen_ai.input.messages", content.input_messages(text, outputs))
        try:
            with use_span(step.span, record_exception=False, set_status_on_exception=False):
                yield step.answered
        except BaseException as error:
            step.end(error)
            raise
        step.end(None)

    def ended(self, operation: Operation) -> None:
        if self._recording:
            with harmless():
                self._ended(operation)

    def _ended(self, operation: Operation) -> None:
        labels = {"gen_ai.agent.id": operation.agent_id, "aos.status": operation.status}
        duration = max(0.0, operation.updated_at - operation.created_at)
        instruments.TURNS.add(1, labels)
        instruments.TURN_DURATION.record(duration, labels)
        place, tracer = place_of(operation.trace), self._turns
        if place is None or not tracer.chooses:
            return
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": self._provider,
            "gen_ai.agent.id": operation.agent_id,
            "gen_ai.agent.name": operation.agent_id,
            "gen_ai.conversation.id": operation.conversation_id,
            "gen_ai.usage.input_tokens": operation.usage.input_tokens,
            "gen_ai.usage.output_tokens": operation.usage.output_tokens,
            "aos.operation_id": operation.operation_id,
            "aos.status": operation.status,
            "aos.attempt": operation.attempt,
            "aos.tool_calls": len(operation.tool_calls),
        }
        if operation.agent_version:
            attributes["gen_ai.agent.version"] = operation.agent_version
        if operation.model:
            attributes["gen_ai.response.model"] = operation.model
        if operation.usage.adopted:
            attributes["aos.adopted_steps"] = operation.usage.adopted
        if operation.error is not None:
            attributes["error.type"] = operation.error.code
        above = place.parent
        if place.call is not None:
            called = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": f"ask_{operation.agent_id}",
                "gen_ai.tool.type": "function",
                "aos.status": operation.status,
            }
            if operation.parent is not None:
                called["gen_ai.tool.call.id"] = operation.parent.request_id
            self._write(f"execute_tool ask_{operation.agent_id}", place.call, above, operation, called)
            above = place.call
        self._write(f"invoke_agent {operation.agent_id}", place.turn, above, operation, attributes)

    def _write(
        self, name: str, span: SpanContext, above: SpanContext, operation: Operation, attributes: Attributes
    ) -> None:
        """A span that began when the operation was accepted and ends with it."""
        tracer = self._turns
        if span != above:
            tracer.choose(span.span_id)
        try:
            written = tracer.tracer.start_span(
                name,
                context=within(above),
                kind=SpanKind.INTERNAL,
                attributes=attributes,
                start_time=int(operation.created_at * 1e9),
            )
        finally:
            tracer.choose(0)
        if operation.error is not None:
            written.set_status(StatusCode.ERROR, operation.error.code)
        written.end(int(operation.updated_at * 1e9))


class _Step:
    """One request to the model."""

    def __init__(self, tracer: TurnTracer, provider: str, key: ConversationKey, turn: Turn) -> None:
        self._began = time.perf_counter()
        deployment = turn.agent.deployment
        self._labels: dict[str, str] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": deployment,
        }
        attributes: Attributes = {
            **self._labels,
            "gen_ai.agent.id": key.agent_id,
            "gen_ai.agent.name": key.agent_id,
            "gen_ai.conversation.id": key.conversation_id,
            "aos.operation_id": turn.message.operation_id,
            "aos.step": turn.step,
        }
        self.span: Span = trace.INVALID_SPAN
        with harmless():
            self.span = tracer.tracer.start_span(f"chat {deployment}", kind=SpanKind.CLIENT, attributes=attributes)
        self.recorded = self.span.is_recording()

    def answered(self, reply: ModelReply) -> None:
        with harmless():
            self._answered(reply)

    def _answered(self, reply: ModelReply) -> None:
        if reply.model:
            self._labels["gen_ai.response.model"] = reply.model
        for kind, tokens in (("input", reply.usage.input_tokens), ("output", reply.usage.output_tokens)):
            instruments.TOKEN_USAGE.record(tokens, {**self._labels, "gen_ai.token.type": kind})
        if self.recorded:
            finish = "length" if reply.truncated else "tool_calls" if reply.calls else "stop"
            self.span.set_attribute("gen_ai.usage.input_tokens", reply.usage.input_tokens)
            self.span.set_attribute("gen_ai.usage.output_tokens", reply.usage.output_tokens)
            self.span.set_attribute("gen_ai.response.finish_reasons", [finish])
            if reply.model:
                self.span.set_attribute("gen_ai.response.model", reply.model)
            if content.captured():
                self.span.set_attribute("gen_ai.output.messages", content.output_messages(reply, finish))

    def end(self, error: BaseException | None) -> None:
        with harmless():
            if error is not None:
                self._labels["error.type"] = error_type(error)
                self.span.set_attribute("error.type", error_type(error))
                self.span.set_status(StatusCode.ERROR, error_type(error))
            instruments.MODEL_DURATION.record(time.perf_counter() - self._began, self._labels)
            self.span.end()
