"""Takes replies of functions out of their output queues and files each with its call.

A reply becomes a row of its conversation, once per call, before its message is deleted: a process that dies in between
leaves both, and the second look changes nothing. What answers no call is parked where operators look.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from aos.errors import TransientError
from aos.functions.orders import LONGEST_WATCH, Collect, pulse
from aos.functions.replies import ReplyInvalid, answered, correlation_of, failed, read_reply
from aos.functions.route import FunctionRoute, route_of
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import ConversationStore
from aos.kernel.types import ConversationKey, ToolCall
from aos.mcp.bridge import operation_of
from aos.mcp.results import ToolResults
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.replies import parked
from aos.storage.queues import MOST, MessageGone, QueueMessage, Queues

log = logging.getLogger("aos.functions")

HIDDEN = 60.0
"""Seconds for which a message that is being filed is hidden from others."""
MOST_PAGES = 8
"""Pages of 32 messages that one look takes."""
AT_ONCE = 8
AGAIN = 10.0
"""Seconds after which a reply that a trigger brought while storage was down is delivered again."""

GAVE_UP = "the function failed each time that it was given this call, and gave up; whether it had an effect is unknown"


class Drives(Protocol):
    """`aos.kernel.kernel.Kernel`."""

    async def drive(self, key: ConversationKey) -> None: ...


class FunctionReplies:
    """The way of replies back into turns.

    Args:
        send: Puts messages on the bus.
    """

    def __init__(
        self,
        *,
        queues: Queues,
        store: ConversationStore,
        kernel: Drives,
        results: ToolResults,
        send: Callable[[Sequence[Outbound]], Awaitable[None]],
        claim_check: ClaimCheck,
        clock: Clock | None = None,
    ) -> None:
        self._queues = queues
        self._store = store
        self._kernel = kernel
        self._results = results
        self._send = send
        self._claim_check = claim_check
        self._clock = clock or SystemClock()
        self._looking: set[str] = set()

    async def collect(self, order: Collect) -> None:
        """Looks for replies; as long as one of the order's calls has none, it is looked for again later.

        Raises:
            TransientError: Storage or the bus is down; nothing is lost.
        """
        route = FunctionRoute(order.input_queue, order.output_queue)
        own = ConversationKey(order.agent_id, order.conversation_id)
        touched = await self._look(route, poison=order.attempt > 0)
        # Its own conversation in any case: that is what applies the deadlines of its calls.
        await self._drive({own, *touched})
        if await self._open(order) and self._clock.now() - order.began_at < LONGEST_WATCH:
            await self._send([pulse(order.model_copy(update={"attempt": order.attempt + 1}))])

    async def receive(self, queue: str, body: bytes, message_id: str) -> None:
        """A reply that a trigger brought.

        Raises:
            TransientError: It could neither be filed nor put back.
        """
        try:
            read, blob, problem = await self._queues.read_body(queue, body.decode("utf-8", "replace"))
            key = await self._file(queue, read, message_id, problem)
        except TransientError as error:
            log.warning("a reply of queue %s is put back: %s", queue, error.detail)
            # Hosts deliver a message that failed again at once, and five times in all.
            await self._queues.send(queue, body, delay=AGAIN)
            return
        if blob is not None:
            await self._queues.drop(blob)
        if key is not None:
            await self._drive({key})

    # --- looking

    async def _look(self, route: FunctionRoute, *, poison: bool) -> set[ConversationKey]:
        """Takes what lies in the queues of a function; returns the conversations that got something."""
        if route.output_queue in self._looking:
            # This process is at it; what comes too late for that is found with the next pulse.
            return set()
        self._looking.add(route.output_queue)
        try:
            touched = await self._replies(route.output_queue)
            return touched | (await self._given_up(route) if poison else set())
        finally:
            self._looking.discard(route.output_queue)

    async def _replies(self, queue: str) -> set[ConversationKey]:
        touched: set[ConversationKey] = set()
        gate = asyncio.Semaphore(AT_ONCE)

        async def take(message: QueueMessage) -> None:
            async with gate:
                key = await self._file(queue, message.body, message.message_id, message.problem)
                if key is not None:
                    touched.add(key)
                await self._delete(queue, message)

        for _ in range(MOST_PAGES):
            messages = await self._queues.receive(queue, limit=MOST, visibility_timeout=HIDDEN)
            await _all(take(message) for message in messages)
            if len(messages) < MOST:
                break
        return touched

    async def _given_up(self, route: FunctionRoute) -> set[ConversationKey]:
        """Answers calls whose messages the function's host put aside, and parks those messages; others' stay."""
        touched: set[ConversationKey] = set()
        queue = route.poison_queue
        for message in await self._queues.receive(queue, limit=MOST, visibility_timeout=HIDDEN):
            found = await self._call(correlation_of(message.body))
            if found is None:
                continue
            key, call = found
            known = route_of(call.server)
            if known is None or known.input_queue != route.input_queue:
                continue
            if call.status == "pending":
                await self._store.add_arrival(key, await self._results.told(failed(call.request_id, GAVE_UP)))
                touched.add(key)
            await self._park(queue, message.body, message.message_id, "FunctionPoison", GAVE_UP)
            await self._delete(queue, message)
        return touched

    # --- filing

    async def _file(self, queue: str, body: Any, message_id: str, problem: str | None) -> ConversationKey | None:
        """Stores a reply with its call; returns the conversation that goes on with it.

        One that is late, or comes a second time, changes nothing. What answers no call is parked.
        """
        try:
            if problem is not None:
                raise ReplyInvalid(problem)
            reply = read_reply(body)
            found = await self._call(reply.correlation_id)
            if found is None:
                raise ReplyInvalid(f"No call has the id {reply.correlation_id!r}.", code="UnknownCorrelationId")
            key, call = found
            route = route_of(call.server)
            if route is None or route.output_queue != queue:
                raise ReplyInvalid(
                    f"Call {call.request_id} is not answered over queue {queue!r}.", code="UnknownCorrelationId"
                )
        except ReplyInvalid as error:
            log.warning("a message of queue %s is no reply and was parked: %s", queue, error.detail)
            await self._park(queue, body, message_id, error.code, error.detail)
            return None
        if call.status != "pending":
            log.info("reply to %s changes nothing: the call is %s", call.request_id, call.status)
            return None
        if not await self._store.add_arrival(key, await self._results.told(answered(reply))):
            log.info("reply to %s came again", call.request_id)
        return key

    async def _call(self, correlation_id: str | None) -> tuple[ConversationKey, ToolCall] | None:
        """The call of this id, if it is one of ours."""
        operation_id = None if correlation_id is None else operation_of(correlation_id)
        operation = None if operation_id is None else await self._store.operation(operation_id)
        if operation is None:
            return None
        calls = (call for call in operation.tool_calls if call.request_id == correlation_id)
        call = next(calls, None)
        return None if call is None else (ConversationKey(operation.agent_id, operation.conversation_id), call)

    async def _open(self, order: Collect) -> bool:
        """Whether one of the order's calls has no answer yet."""
        for request_id in order.request_ids:
            found = await self._call(request_id)
            if found is not None and found[1].status == "pending":
                return True
        return False

    async def _park(self, queue: str, body: Any, message_id: str, reason: str, detail: str) -> None:
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        data = await self._claim_check.pack(text.encode("utf-8", "replace"), "parked")
        await self._send([parked(data, f"{queue}.{message_id}"[:128], queue, reason, detail)])

    async def _delete(self, queue: str, message: QueueMessage) -> None:
        try:
            await self._queues.delete(queue, message)
        except MessageGone:
            log.info("message %s of queue %s was taken by another process as well", message.message_id, queue)

    async def _drive(self, keys: Iterable[ConversationKey]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def on(key: ConversationKey) -> None:
            async with gate:
                await self._kernel.drive(key)

        await _all(on(key) for key in keys)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Does all, and then raises the first error: what works must not wait for what does not."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
