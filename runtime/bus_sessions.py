"""A consumer of sessions: the messages of a session one after the other, several sessions at once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from runtime.bus_connections import BusConnections
from runtime.bus_receiving import Consumer
from runtime.invocation import Invoker
from runtime.routes import BusRoute

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage

log = logging.getLogger("runtime.bus")

# Each session that is being handled takes a connection.
MAX_SESSIONS = 8
# How long a session is kept for its next message, before another one gets its turn.
IDLE_SECONDS = 5.0


class SessionConsumer(Consumer):
    """Takes whatever session has messages, up to `max_concurrency` (at most `MAX_SESSIONS`) at a time."""

    session_wait_seconds = 10.0
    # Others get their turn after it; and its lock is renewed for a bounded time, in which its last message has to end.
    hold_seconds = 60.0

    def __init__(self, route: BusRoute, connections: BusConnections, invoker: Invoker) -> None:
        super().__init__(route, connections, invoker)
        self.workers = min(route.max_concurrency, MAX_SESSIONS)

    async def _receive(self) -> None:
        async with self._opened() as opened:
            if opened is None:
                return
            receiver, _ = opened
            loop = asyncio.get_running_loop()
            given_back = loop.time() + self.hold_seconds
            while not self._stopping.is_set() and loop.time() < given_back:
                message = await self._next_message(receiver, IDLE_SECONDS)
                if message is None:
                    return
                await self._settle(receiver, message, await self._handle(message))

    async def _handle(self, message: ServiceBusReceivedMessage) -> bool:
        handling = asyncio.create_task(self._hand_over(message))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([handling, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                await asyncio.wait([handling], timeout=self._seconds_left())
        finally:
            stopping.cancel()
            handling.cancel()
            await asyncio.wait([handling, stopping])
        return not handling.cancelled() and handling.result()
