"""Connected agents: a call of one agent becomes a turn of another, in a conversation of its own.

The call is an effect of the asking turn (`Delegate`), sent from its outbox: a message is accepted for the other agent
under ids that are derived from the call, so that sending it twice is harmless. How the other turn ends is an effect of
that turn (`Answer`): a result of the call, stored once by its id. An asking turn that ends, or gives the call up, has
the other turn cancelled (`Withdraw`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Callable, Sequence

from aos.errors import BacklogFull
from aos.kernel.events import PlannedCall
from aos.kernel.ports import Acceptance, ConversationStore, Outlet
from aos.kernel.records import replace
from aos.kernel.types import (
    Answer,
    Cancellation,
    Conversation,
    ConversationKey,
    Delegate,
    Limits,
    Message,
    Operation,
    Outgoing,
    Parent,
    ToolCall,
    ToolResult,
    Turn,
    Withdraw,
)

log = logging.getLogger("aos.kernel")

FOR_THE_ANSWER = 60.0
"""Seconds of the asking turn that are kept for its own answer, or a tenth of what is left if that is less."""
LONGEST_ANSWER = 200_000
"""Characters of another agent's answer that the model is told."""
CUT = "\n[The answer was cut here.]"
AT_ONCE = 8
"""Effects of one conversation that are carried out side by side."""


# --- the asking turn; pure


def admitted(state: Conversation, turn: Turn, planned: PlannedCall, limits: Limits) -> PlannedCall:
    """The call as it may be made: one that would close a circle of agents, or go too deep, is refused."""
    if not planned.agent or planned.refusal is not None:
        return planned
    asking = _agents(state, turn)
    if planned.agent in asking:
        way = " -> ".join((*asking, planned.agent))
        return _refused(planned, f"delegation_cycle: {way}; answer without agent {planned.agent!r}")
    if len(asking) > limits.delegation_depth:
        way = " -> ".join(asking)
        return _refused(planned, f"delegation_depth: {way} is as deep as it may be; answer yourself")
    return planned


def time_for(turn: Turn, at: float) -> float:
    """Seconds that another agent has for a call of this turn: what is left of the turn, but for its own answer."""
    left = max(0.0, turn.message.deadline + turn.parked_for - at)
    return left - min(FOR_THE_ANSWER, left / 10)


def delegate(state: Conversation, turn: Turn, call: ToolCall) -> Delegate:
    """Effect: ask the other agent."""
    asking = state.key
    parent = Parent(
        turn.message.operation_id, call.request_id, asking.agent_id, asking.conversation_id, _agents(state, turn)
    )
    text = str(json.loads(call.arguments)["message"])
    return Delegate(call.request_id, call.agent, text, parent, call.requested_at, call.deadline)


def withdraw(turn: Turn, calls: Sequence[ToolCall], at: float) -> tuple[Withdraw, ...]:
    """Effects: those of the calls that another agent still works on are not wanted any more."""
    operation_id = turn.message.operation_id
    return tuple(
        Withdraw(call.request_id, call.agent, operation_id, at) for call in calls if call.agent and call.output is None
    )


def _agents(state: Conversation, turn: Turn) -> tuple[str, ...]:
    parent = turn.message.parent
    return (*(() if parent is None else parent.agents), state.key.agent_id)


def _refused(planned: PlannedCall, why: str) -> PlannedCall:
    return replace(planned, refusal=json.dumps({"error": why}, ensure_ascii=False))


# --- ids


def child_operation(request_id: str) -> str:
    """The operation that a call of a connected agent becomes."""
    digest = hashlib.sha256(f"agent\0{request_id}".encode()).digest()
    return "op_" + base64.b32encode(digest).decode()[:26].lower()


def child_key(agent_id: str, request_id: str) -> ConversationKey:
    """The conversation that it happens in."""
    return ConversationKey(agent_id, f"c_{child_operation(request_id)[3:]}")


def children(operation: Operation) -> list[dict[str, str]]:
    """The operations that its calls of connected agents became, as callers see them; `status` is that of the call."""
    return [
        {
            "operation_id": child_operation(call.request_id),
            "conversation_id": child_key(call.agent, call.request_id).conversation_id,
            "agent_id": call.agent,
            "status": call.status,
        }
        for call in operation.tool_calls
        if call.agent and call.status != "refused"
    ]


# --- what the asking model is told


def told(request_id: str, operation: Operation) -> ToolResult:
    """How the other turn ended, as the result of the call."""
    if operation.status == "completed":
        reply = operation.reply or ""
        cut = operation.truncated or len(reply) > LONGEST_ANSWER
        return ToolResult(request_id, reply[:LONGEST_ANSWER] + (CUT if cut else ""))
    error = operation.error
    why = operation.status if error is None else f"{error.code}: {error.title} {error.detail}"
    return _failure(request_id, f"agent_failed: agent {operation.agent_id!r} gave no answer: {why}")


def _failure(request_id: str, why: str) -> ToolResult:
    return ToolResult(request_id, json.dumps({"error": why}, ensure_ascii=False), failed=True)


# --- carrying it out


class Delegating:
    """An `Outlet` that deals with what conversations have to do with each other, and leaves the rest to another one.

    Args:
        backlog: Messages that may wait in a conversation.
        full: Why an agent takes no more messages, if that is so.
        accepted: Told of every operation that is new.
        place: `aos.kernel.observing.Observer.place` of calls.
    """

    def __init__(
        self,
        outlet: Outlet,
        store: ConversationStore,
        backlog: int,
        full: Callable[[str], BacklogFull | None],
        accepted: Callable[[Operation], None],
        place: Callable[[], str],
    ) -> None:
        self._outlet = outlet
        self._store = store
        self._backlog = backlog
        self._full = full
        self._accepted = accepted
        self._place = place

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        ours: list[Delegate | Answer | Withdraw] = []
        rest: list[Outgoing] = []
        for effect in effects:
            if isinstance(effect, Delegate | Answer | Withdraw):
                ours.append(effect)
            else:
                rest.append(effect)
        if ours:
            await self._all(ours)
        if rest:
            await self._outlet.send(key, rest)

    async def wake(self, key: ConversationKey, delay: float) -> None:
        await self._outlet.wake(key, delay)

    async def _all(self, effects: Sequence[Delegate | Answer | Withdraw]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def carry_out(effect: Delegate | Answer | Withdraw) -> None:
            async with gate:
                await self._one(effect)

        for failure in await asyncio.gather(*map(carry_out, effects), return_exceptions=True):
            if failure is not None:
                raise failure

    async def _one(self, effect: Delegate | Answer | Withdraw) -> None:
        match effect:
            case Delegate():
                await self._ask(effect)
            case Answer():
                parent = effect.operation.parent
                assert parent is not None  # noqa: S101 - only such operations have this effect
                await self._answer(parent, told(parent.request_id, effect.operation))
            case Withdraw():
                await self._withdraw(effect)

    async def _ask(self, effect: Delegate) -> None:
        key = child_key(effect.agent, effect.request_id)
        operation_id = child_operation(effect.request_id)
        # Effects are sent in the trace of the turn that they are of, whoever sends them; the first to do so counts.
        trace = self._place()
        message = Message(operation_id, effect.text, effect.at, effect.deadline, parent=effect.parent, trace=trace)
        fingerprint = hashlib.sha256(json.dumps([*key, effect.text]).encode()).hexdigest()
        full = self._full(effect.agent)
        if full is not None and await self._store.operation(operation_id) is None:
            # The model may do without; waiting for room would hold up what it can do.
            await self._answer(effect.parent, _failure(effect.request_id, f"{full.code}: {full.detail}"))
            return
        operation, new = await self._store.accept(Acceptance(key, message, fingerprint, True, self._backlog))
        if new:
            self._accepted(operation)
        if not operation.final:
            await self._outlet.wake(key, 0.0)

    async def _answer(self, parent: Parent, result: ToolResult) -> None:
        key = ConversationKey(parent.agent_id, parent.conversation_id)
        await self._store.add_arrival(key, result)
        await self._outlet.wake(key, 0.0)

    async def _withdraw(self, effect: Withdraw) -> None:
        operation_id = child_operation(effect.request_id)
        known = await self._store.operation(operation_id)
        if known is None or known.final:
            return
        key = child_key(effect.agent, effect.request_id)
        await self._store.add_arrival(key, Cancellation(operation_id, f"operation {effect.operation_id}"))
        await self._outlet.wake(key, 0.0)
