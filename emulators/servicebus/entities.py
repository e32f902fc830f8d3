"""The entities of a namespace and their properties, as the broker needs them: plain data, times in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_QUEUE_BYTES = 1 << 30
"""Default bound on what one queue or subscription holds, its dead letters included."""


@dataclass(frozen=True, slots=True)
class CorrelationFilter:
    """Equality on system properties (by their Python names) and on application properties; all have to match."""

    system: Mapping[str, str] = field(default_factory=dict)
    """Keys of `emulators.servicebus.message.Property` in lower case."""
    application: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Properties of a queue or a subscription."""

    lock_ms: int = 60_000
    max_delivery_count: int = 10
    requires_session: bool = False
    dead_letter_on_expiration: bool = False
    default_ttl_ms: int | None = None
    duplicate_window_ms: int | None = None
    """None: duplicates are not detected."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription; without filters it takes every message."""

    name: str
    options: QueueOptions = field(default_factory=QueueOptions)
    filters: tuple[CorrelationFilter, ...] = ()


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and its subscriptions."""

    name: str
    subscriptions: tuple[Subscription, ...] = ()
    default_ttl_ms: int | None = None
    duplicate_window_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue."""

    name: str
    options: QueueOptions = field(default_factory=QueueOptions)


@dataclass(frozen=True, slots=True)
class Entities:
    """Everything that a namespace holds."""

    queues: tuple[Queue, ...] = ()
    topics: tuple[Topic, ...] = ()
