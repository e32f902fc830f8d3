"""Places in traces, as texts that are stored and sent: W3C Trace Context, and the place of a turn.

A turn is worked on by several processes, one after the other, and OpenTelemetry knows no span that moves from one to
another. So the id of the turn's span is chosen when its message is accepted, all steps name it as their parent,
wherever they run, and whoever ends the turn writes the span.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, cast

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer

TRACEPARENT = "traceparent"
"""Application property of messages, header of requests."""
NAME = "aos"
"""Of the tracer and the meter."""


class _IdGenerator(Protocol):
    """`opentelemetry.sdk.trace.id_generator.IdGenerator`, which the API does not know."""

    def generate_span_id(self) -> int: ...

    def generate_trace_id(self) -> int: ...

    def is_trace_id_random(self) -> bool: ...


class _HasIds(Protocol):
    id_generator: _IdGenerator


class _ChosenIds:
    """Gives a span the id that was chosen for it."""

    def __init__(self, others: _IdGenerator) -> None:
        self._others = others
        self.chosen = 0

    def generate_span_id(self) -> int:
        chosen, self.chosen = self.chosen, 0
        return chosen or self._others.generate_span_id()

    def generate_trace_id(self) -> int:
        return self._others.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return self._others.is_trace_id_random()


class TurnTracer:
    """Makes the spans of turns.

    Attributes:
        tracer: Of the provider that is configured.
        chooses: Whether a span can be given an id: with the SDK, not without.
    """

    def __init__(self, provider: trace.TracerProvider) -> None:
        self.provider = provider
        self.tracer: Tracer = provider.get_tracer(NAME)
        self._ids: _ChosenIds | None = None
        if hasattr(self.tracer, "id_generator"):
            # A tracer of its own: other spans of the process are not touched.
            tracer = cast("_HasIds", self.tracer)
            self._ids = _ChosenIds(tracer.id_generator)
            tracer.id_generator = self._ids

    @property
    def chooses(self) -> bool:
        return self._ids is not None

    def choose(self, span_id: int) -> None:
        """The next span of this tracer gets this id; 0: any."""
        if self._ids is not None:
            self._ids.chosen = span_id


class Place(NamedTuple):
    """The place of a turn.

    Attributes:
        turn: Of its span.
        parent: Of the span in which its message was accepted; the same where no id could be chosen.
        call: Of the call of another agent's turn that its message is: between the other two.
    """

    turn: SpanContext
    parent: SpanContext
    call: SpanContext | None = None

    @property
    def text(self) -> str:
        """As it is stored: the `traceparent` of the turn, and the ids of the parent span and of the call's, if any."""
        text = traceparent(self.turn)
        if self.turn == self.parent:
            return text
        between = "" if self.call is None else f" {self.call.span_id:016x}"
        return f"{text} {self.parent.span_id:016x}{between}"


def below(parent: SpanContext, *, chooses: bool, called: bool = False) -> Place:
    """The place of a turn whose message is accepted within a span.

    Args:
        called: The message is a call, which gets a span of its own.
    """
    if not chooses:
        return Place(parent, parent)
    return Place(_child(parent), parent, _child(parent) if called else None)


def _child(parent: SpanContext) -> SpanContext:
    return SpanContext(parent.trace_id, int.from_bytes(secrets.token_bytes(8)) or 1, True, parent.trace_flags)


def place_of(text: str) -> Place | None:
    """The place that was stored as this text; None if it is none."""
    head, *ids = text.split(" ")
    turn = span_context(head)
    if turn is None or len(ids) > 2:
        return None
    others = [span_context(f"00-{turn.trace_id:032x}-{span_id}-{turn.trace_flags:02x}") for span_id in ids]
    if None in others:
        return None
    return Place(turn, *(other for other in others if other is not None)) if others else Place(turn, turn)


def traceparent_of(text: str) -> str:
    """What a message carries that is sent for a turn with this stored place."""
    return text.partition(" ")[0]


def traceparent(context: SpanContext) -> str:
    """W3C Trace Context, section 3.2."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"


def span_context(text: str) -> SpanContext | None:
    """The span that a `traceparent` of version 00 names."""
    parts = text.split("-")
    if len(parts) != 4 or [len(part) for part in parts] != [2, 32, 16, 2] or parts[0] != "00":
        return None
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:])
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, True, TraceFlags(flags))
    return context if context.is_valid else None


@contextmanager
def nowhere() -> Iterator[None]:
    """Whatever is started within belongs to no trace."""
    token = contexts.attach(Context())
    try:
        yield
    finally:
        contexts.detach(token)


def watched() -> bool:
    """Whether anybody sees spans: an SDK is set up."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def within(context: SpanContext) -> Context:
    """A context in which this span is the current one."""
    return trace.set_span_in_context(NonRecordingSpan(context))
