"""Messages on the bus: each one that leaves carries its trace in the application property `traceparent`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Self

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from aos.telemetry import instruments
from aos.telemetry.harmless import error_type, harmless
from aos.telemetry.places import NAME, TRACEPARENT, span_context, traceparent, watched, within

_tracer = trace.get_tracer(NAME)


class Sending:
    """Around the sending of messages to one entity."""

    def __init__(self, entity: str) -> None:
        self._entity = entity
        self._spans: list[Span] = []

    def stamp(self, message_id: str, properties: Mapping[str, str | int]) -> Mapping[str, str | int]:
        """The properties of a message with its place in the trace: below the one that they name, or the current one."""
        with harmless():
            if not watched():
                # The trace of a caller is passed on all the same.
                here = trace.get_current_span().get_span_context()
                if TRACEPARENT in properties or not here.is_valid:
                    return properties
                return {**properties, TRACEPARENT: traceparent(here)}
            named = span_context(str(properties.get(TRACEPARENT, "")))
            span = _tracer.start_span(
                f"send {self._entity}",
                context=None if named is None else within(named),
                kind=SpanKind.PRODUCER,
                attributes={
                    "messaging.system": "servicebus",
                    "messaging.destination.name": self._entity,
                    "messaging.operation.name": "send",
                    "messaging.operation.type": "send",
                    "messaging.message.id": message_id,
                },
            )
            self._spans.append(span)
            if (context := span.get_span_context()).is_valid:
                return {**properties, TRACEPARENT: traceparent(context)}
        return properties

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        with harmless():
            for span in self._spans:
                if error is not None:
                    span.set_attribute("error.type", error_type(error))
                    span.set_status(StatusCode.ERROR)
                span.end()


def delivered(entity: str, enqueued_at: datetime | None) -> None:
    """A message reached its handler."""
    if enqueued_at is not None:
        with harmless():
            delay = max(0.0, time.time() - enqueued_at.timestamp())
            instruments.DELIVERY_DELAY.record(delay, {"messaging.destination.name": entity})


def parked(reason: str) -> None:
    """A message was put where operators look."""
    with harmless():
        instruments.PARKED.add(1, {"aos.reason": reason})
