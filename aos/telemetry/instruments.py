"""The metrics of AOS: names, units and attributes. Without an SDK recording them does nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from aos.kernel.breaker import Circuit
from aos.telemetry.places import NAME

SECONDS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304]
"""Bounds of histograms; the token bounds are those of the GenAI conventions."""
_STATES = {"closed": 0, "half_open": 1, "open": 2}

_meter = get_meter(NAME)

TURNS = _meter.create_counter("aos.turns", "{turn}", "Turns that ended, by agent and status.")
TURN_DURATION = _meter.create_histogram(
    "aos.turn.duration", "s", "From acceptance to the end of a turn.", explicit_bucket_boundaries_advisory=SECONDS
)
QUEUE_DELAY = _meter.create_histogram(
    "aos.turn.queue_delay", "s", "From acceptance to the start of a turn.", explicit_bucket_boundaries_advisory=SECONDS
)
MODEL_DURATION = _meter.create_histogram(
    "gen_ai.client.operation.duration", "s", "Of one model step.", explicit_bucket_boundaries_advisory=SECONDS
)
TOKEN_USAGE = _meter.create_histogram(
    "gen_ai.client.token.usage", "{token}", "Tokens of one model step.", explicit_bucket_boundaries_advisory=TOKENS
)
TOOL_CALLS = _meter.create_counter("aos.tool.calls", "{call}", "Calls of tools, by server, tool and outcome.")
TOOL_DURATION = _meter.create_histogram(
    "aos.tool.duration", "s", "Of one call of a tool, with its retries.", explicit_bucket_boundaries_advisory=SECONDS
)
DELIVERY_DELAY = _meter.create_histogram(
    "aos.bus.delivery_delay",
    "s",
    "From when a message became visible on the bus to its handler.",
    explicit_bucket_boundaries_advisory=SECONDS,
)
PARKED = _meter.create_counter("aos.messages.parked", "{message}", "Messages parked for an operator, by reason.")


class Watched:
    """What gauges show of one system, as long as somebody holds this."""

    def __init__(
        self, circuits: Callable[[], Iterable[Circuit]], backlog: Callable[[], Mapping[str, int]] | None = None
    ) -> None:
        self.circuits = circuits
        self.backlog = backlog
        _watched.add(self)


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()


def _circuits(options: CallbackOptions) -> Iterable[Observation]:
    for watched in list(_watched):
        for circuit in watched.circuits():
            yield Observation(_STATES[circuit.state], {"aos.circuit": circuit.name})


def _backlog(options: CallbackOptions) -> Iterable[Observation]:
    for watched in list(_watched):
        if watched.backlog is not None:
            for agent_id, count in watched.backlog().items():
                yield Observation(count, {"gen_ai.agent.id": agent_id})


_meter.create_observable_gauge(
    "aos.circuit.state", [_circuits], "1", "Of what is called: 0 closed, 1 half open, 2 open."
)
_meter.create_observable_gauge(
    "aos.backlog", [_backlog], "{operation}", "Operations of an agent that have not ended, as this process knows."
)
