"""Where calls of Azure Functions leave the process: into the functions' input queues."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

from aos.errors import AosError
from aos.functions.orders import Collect, pulse
from aos.functions.route import FunctionRoute, route_of
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import Outlet
from aos.kernel.types import ConversationKey, Outgoing, SendTool
from aos.messaging.bus import Outbound
from aos.registry.azure_functions import CORRELATION
from aos.storage.queues import LARGEST_INLINE, Queues

AT_ONCE = 8
"""Messages that are put into queues at the same time."""


class CallTooLarge(AosError):
    code = "too_large"
    title = "The arguments do not fit into a message of a storage queue."


class FunctionOutlet:
    """An `Outlet` that calls Azure Functions and leaves everything else to another outlet.

    Before the calls of a turn go out, a message is scheduled on the bus that has some process look for their replies:
    so whoever dies where, somebody looks. A call that is sent twice, because a process died in between, carries the
    same CorrelationId; queue triggers deliver twice themselves now and then.

    Args:
        send: Puts messages on the bus.
    """

    def __init__(
        self,
        outlet: Outlet,
        queues: Queues,
        send: Callable[[Sequence[Outbound]], Awaitable[None]],
        clock: Clock | None = None,
    ) -> None:
        self._outlet = outlet
        self._queues = queues
        self._send = send
        self._clock = clock or SystemClock()

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        others: list[Outgoing] = []
        calls: dict[FunctionRoute, list[SendTool]] = {}
        for effect in effects:
            route = route_of(effect.server) if effect.kind == "tool" else None
            if effect.kind == "tool" and route is not None:
                calls.setdefault(route, []).append(effect)
            else:
                others.append(effect)
        for route, sent in calls.items():
            await self._call(key, route, sent)
        await self._outlet.send(key, others)

    async def wake(self, key: ConversationKey, delay: float) -> None:
        await self._outlet.wake(key, delay)

    async def _call(self, key: ConversationKey, route: FunctionRoute, calls: Sequence[SendTool]) -> None:
        messages = [_message(call) for call in calls]
        order = Collect(
            agent_id=key.agent_id,
            conversation_id=key.conversation_id,
            input_queue=route.input_queue,
            output_queue=route.output_queue,
            request_ids=[call.request_id for call in calls],
            began_at=self._clock.now(),
        )
        await self._send([pulse(order)])
        gate = asyncio.Semaphore(AT_ONCE)

        async def put(message: bytes) -> None:
            async with gate:
                await self._queues.send(route.input_queue, message)

        for outcome in await asyncio.gather(*map(put, messages), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


def _message(call: SendTool) -> bytes:
    """`{...arguments, "CorrelationId"}`."""
    arguments = json.loads(call.arguments or "{}")
    body = json.dumps({**arguments, CORRELATION: call.request_id}, ensure_ascii=False).encode()
    if len(body) > LARGEST_INLINE:
        raise CallTooLarge(f"The arguments have {len(body)} bytes; at most {LARGEST_INLINE} fit. Ask for less at once.")
    return body
