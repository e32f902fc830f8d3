"""A turn as server-sent events (WHATWG HTML, section 9.2): `POST agents/{id}` with `Accept: text/event-stream`.

    operation     at once: the operation as accepted
    delta         {text}: the model said more; best effort, from steps that run in this process
    tool_call     the model asked for a tool: an item of `tool_calls`
    tool_result   its call ended: the same item, with its status and duration
    waiting       {operation_id, status, waiting_on, location}: the turn waits for somebody else
    completed | failed | cancelled    the last event: the whole answer, as without streaming

Where a model step broke after half its text, it is not told again: the last event holds the whole.

A stream that ends with `waiting` instead gave up waiting: the turn goes on, and `location` says where its end will be
found. What the first event shows already (of an operation that was known) is not told again.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from aos.errors import TransientError
from aos.kernel.kernel import Kernel
from aos.kernel.types import CallStatus, Operation, Status, WaitingOn
from aos.views import call_view, operation_view

log = logging.getLogger("aos.sse")

MEDIA_TYPE = "text/event-stream"
PING_INTERVAL = 15.0
"""Seconds of silence after which a comment is sent, so that nobody in between takes the connection for dead."""
LONGEST_STREAM = 200.0
"""Seconds; the platform cuts HTTP at 230."""
PING = b": ping\n\n"
FIRST_LOOK = 0.025
LAST_LOOK = 1.0

_QUALITY = re.compile(r"q=([01](?:\.\d{0,3})?)", re.IGNORECASE)  # RFC 9110 section 12.4.2


def wants_events(accept: str) -> bool:
    """Whether a value of `Accept` (RFC 9110 section 12.5.1) names event streams, and JSON not more eagerly."""
    weights = {"application/json": 0.0, MEDIA_TYPE: 0.0}
    for item in accept.split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        quality = next((found for found in map(_QUALITY.fullmatch, parameters) if found is not None), None)
        weights[media_type.lower()] = 1.0 if quality is None else float(quality[1])
    return 0.0 < weights[MEDIA_TYPE] >= weights["application/json"]


def location(operation: Operation) -> str:
    """Where the operation is found."""
    return f"/api/operations/{operation.operation_id}"


class EventStream(AsyncIterator[bytes]):
    """The events of one operation, from now on until it ends; a turn never waits for its reader.

    Listens from the moment it is made: make it before the turn is started, and `aclose` it, read or not.

    Args:
        operation: As accepted.
        seconds: After which the stream ends although the turn goes on.
    """

    def __init__(self, kernel: Kernel, operation: Operation, seconds: float) -> None:
        self._kernel = kernel
        self._listener = kernel.progress.listen(operation.operation_id)
        self._seen = _Seen(operation)
        self._seconds = seconds
        self._events = self._tell(operation)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Stops listening; the turn goes on."""
        self._listener.close()
        await self._events.aclose()

    async def _tell(self, operation: Operation) -> AsyncGenerator[bytes, None]:
        yield event("operation", operation_view(operation))
        if operation.final:
            yield event(operation.status, operation_view(operation))
            return
        time = asyncio.get_running_loop().time
        now = time()
        ends, ping, interval = now + self._seconds, now + PING_INTERVAL, FIRST_LOOK
        look = now + interval
        while now < ends:
            news = await self._listener.next(min(ends, ping, look) - now)
            if not news and time() >= look:
                operation = await self._looked_up(operation)
                # What was told while the row was read comes before it.
                news = [*await self._listener.next(0.0), operation]
                # While this process drives the turn, the row is only looked at in case that another one takes over.
                interval = LAST_LOOK if self._kernel.drives(operation) else min(interval * 1.5, LAST_LOOK)
                look = time() + interval
            for item in news:
                for told in self._seen.news(item):
                    yield told
                    ping = time() + PING_INTERVAL
                if not isinstance(item, str):
                    if item.final:
                        return
                    operation = item
            now = time()
            if now >= ping:
                yield PING
                ping = now + PING_INTERVAL
        yield event("waiting", _waiting_view(operation))

    async def _looked_up(self, operation: Operation) -> Operation:
        try:
            return await self._kernel.operation(operation.operation_id)
        except TransientError as error:
            log.warning("operation %s cannot be looked at: %s", operation.operation_id, error.detail)
            return operation


class _Seen:
    """What the reader knows of an operation, and so what in a later state of it is news."""

    def __init__(self, operation: Operation) -> None:
        self._calls: dict[str, CallStatus] = {call.request_id: call.status for call in operation.tool_calls}
        self._waits: tuple[Status, WaitingOn | None] = (operation.status, operation.waiting_on)

    def news(self, item: str | Operation) -> Iterator[bytes]:
        """The events that tell of a piece of text, or of what is new in a state."""
        if isinstance(item, str):
            yield event("delta", {"text": item})
            return
        added = False
        for call in item.tool_calls:
            known = self._calls.get(call.request_id)
            if known is None:
                added = True
                yield event("tool_call", call_view(call))
            if known in (None, "pending") and call.status != "pending":
                yield event("tool_result", call_view(call))
            self._calls[call.request_id] = call.status
        waits = (item.status, item.waiting_on)
        if item.final:
            yield event(item.status, operation_view(item))
        elif item.status == "waiting" and (added or waits != self._waits):
            yield event("waiting", _waiting_view(item))
        self._waits = waits


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event; JSON has no line break that is not escaped, so its data is one line."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(data, inf_nan_mode="null"))


def _waiting_view(operation: Operation) -> dict[str, Any]:
    return {
        "operation_id": operation.operation_id,
        "status": operation.status,
        "waiting_on": operation.waiting_on,
        "location": location(operation),
    }
