"""Consumers of Service Bus queues and subscriptions, for hosts without bus triggers of their own.

They promise what a Functions trigger does: at least once, completed when the handler returns, abandoned when it raises,
locks renewed meanwhile. A bus that is down is waited for, however long; the consumer says so in its state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from runtime.bus_concurrent import ConcurrentConsumer
from runtime.bus_connections import BusConnections
from runtime.bus_receiving import Consumer, ConsumerState
from runtime.bus_sessions import SessionConsumer
from runtime.invocation import Invoker
from runtime.routes import BusRoute

__all__ = ["BusConsumers", "ConsumerState"]

log = logging.getLogger("runtime.bus")

DRAIN_SECONDS = 20.0


class BusConsumers:
    """One consumer per bus route, and the clients that they share."""

    def __init__(self, routes: Iterable[BusRoute], settings: Mapping[str, str], invoker: Invoker) -> None:
        self._connections = BusConnections(settings)
        self._consumers: list[Consumer] = [
            (SessionConsumer if route.sessions else ConcurrentConsumer)(route, self._connections, invoker)
            for route in routes
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def states(self) -> list[ConsumerState]:
        """The state of each consumer, in order of registration."""
        return [consumer.state for consumer in self._consumers]

    def start(self) -> None:
        """Start consuming; returns at once, whether the bus is there or not."""
        self._tasks = [asyncio.create_task(c.run(), name=f"bus-{c.state.name}") for c in self._consumers]

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Take no more messages, let running handlers end for so many seconds, abandon the rest, close everything."""
        for consumer in self._consumers:
            consumer.stop(drain_seconds)
        tasks, self._tasks = self._tasks, []
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.error("a consumer ended badly", exc_info=outcome)
        await self._connections.close()
