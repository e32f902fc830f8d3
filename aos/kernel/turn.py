"""The turn as a pure state machine: `step(state, event) -> (state, effects)`.

No I/O, no clock, no SDK: time arrives in events, work leaves as effects. The driver (`aos.kernel.driver`) saves the
new state together with its `Record` and `Outgoing` effects, then carries the effects out; whatever they bring back is
the next event. Calling `step` with an event that does not fit (a late or repeated result, an answer to an earlier step)
returns the state unchanged and no effects.
"""

from __future__ import annotations

import json

from aos.kernel.calls import outputs_of, planned_call, send, show, too_late, unparked
from aos.kernel.delegation import admitted, withdraw
from aos.kernel.ending import end, tell
from aos.kernel.events import (
    ApprovalDecided,
    CallModel,
    ConversationLost,
    Effect,
    Event,
    MessageCancelled,
    MessageRefused,
    ModelAnswered,
    ModelFailed,
    PutOff,
    Record,
    ResultArrived,
    RolledOver,
    Settled,
    TimePassed,
    TurnCancelled,
    TurnStarted,
)
from aos.kernel.operations import for_the_record, operation_of
from aos.kernel.records import replace
from aos.kernel.types import (
    AgentRef,
    ApprovalState,
    CallStatus,
    Conversation,
    Failure,
    Limits,
    Outgoing,
    Rollover,
    Turn,
)

NOBODY = AgentRef(name="", version="", definition_hash="", deployment="")
ROLLOVERS_KEPT = 20
"""Of which the state says when and what was carried; of those before it keeps the Foundry conversation alone."""


def step(state: Conversation, event: Event, limits: Limits) -> tuple[Conversation, tuple[Effect, ...]]:
    """Applies one event.

    Returns:
        The new state and the effects to save and carry out, in order. `CallModel` is always the last one.
    """
    # The most frequent ones first.
    match event:
        case TimePassed():
            return _time(state, event.at)
        case ModelAnswered() | ModelFailed() | ConversationLost() | RolledOver():
            turn = state.turn
            if turn is None or turn.phase != "model" or turn.step != event.step:
                return state, ()
            return _model_event(state, turn, event, limits)
        case TurnStarted():
            return _start(state, event)
        case ResultArrived():
            return _result(state, event)
        case MessageRefused():
            return _refused(state, event)
        case MessageCancelled():
            return _left_out(state, event)
        case TurnCancelled():
            turn = state.turn
            if turn is None or turn.message.operation_id != event.operation_id:
                return state, ()
            return end(state, turn, event.at, "cancelled", failure=_cancelled(event.by))
        case PutOff():
            return replace(state, retry_at=event.until, retries=state.retries + 1), ()
        case Settled():
            if state.turn is not None or not state.unsettled:
                return state, ()
            return replace(state, anchor=event.anchor, orphans=event.orphans, unsettled=False), ()
        case ApprovalDecided():
            return _decided(state, event)


def _start(state: Conversation, event: TurnStarted) -> tuple[Conversation, tuple[Effect, ...]]:
    if state.turn is not None or event.message.seq <= state.last_seq:
        return state, ()
    turn = Turn(message=event.message, agent=event.agent, outputs=state.orphans, limits=event.limits)
    state = replace(state, turn=turn, orphans=(), last_seq=event.message.seq)
    return state, (Record(operation_of(state, turn, event.at, "running")), CallModel(1))


def _refused(state: Conversation, event: MessageRefused) -> tuple[Conversation, tuple[Effect, ...]]:
    if state.turn is not None or event.message.seq <= state.last_seq:
        return state, ()
    turn = Turn(message=event.message, agent=NOBODY, outputs=state.orphans)
    return end(replace(state, last_seq=event.message.seq), turn, event.at, "failed", failure=event.failure)


def _left_out(state: Conversation, event: MessageCancelled) -> tuple[Conversation, tuple[Effect, ...]]:
    if event.message.seq <= state.last_seq:
        return state, ()
    turn = Turn(message=event.message, agent=NOBODY)
    operation = operation_of(state, turn, event.at, "cancelled", failure=_cancelled(event.by))
    state, effects = tell(replace(state, turns=state.turns + 1), operation)
    return state, (Record(operation), *effects)


def _cancelled(by: str) -> Failure:
    return Failure("cancelled", "The operation was cancelled.", f"Cancelled by {by}.")


def _model_event(
    state: Conversation, turn: Turn, event: ModelAnswered | ModelFailed | ConversationLost | RolledOver, limits: Limits
) -> tuple[Conversation, tuple[Effect, ...]]:
    match event:
        case ModelAnswered():
            return _answered(state, turn, event, limits)
        case ModelFailed():
            return end(state, turn, event.at, "failed", failure=event.failure)
        case ConversationLost():
            turn = replace(turn, outputs=())
            state = replace(state, remote_id=event.remote_id, anchor=None, context_tokens=0, turn=turn)
            if turn.step == 1:
                return state, (CallModel(1),)
            title = "The Foundry conversation was deleted while the turn was running."
            failure = Failure("conversation_gone", title, "The next message starts a new one, without the history.")
            state, effects = end(state, turn, event.at, "failed", failure=failure)
            # The new conversation is empty: nothing in it is unknown.
            return replace(state, unsettled=False), effects
        case RolledOver():
            return _rolled_over(state, turn, event)


def _rolled_over(state: Conversation, turn: Turn, event: RolledOver) -> tuple[Conversation, tuple[Effect, ...]]:
    rollovers = (*state.rollovers, Rollover(event.at, state.remote_id or "", state.turns, event.what))
    older, rollovers = rollovers[:-ROLLOVERS_KEPT], rollovers[-ROLLOVERS_KEPT:]
    turn = replace(turn, outputs=(), usage=turn.usage + event.usage, rolled_over=True)
    state = replace(
        state,
        turn=turn,
        remote_id=event.remote_id,
        anchor=None,
        unsettled=False,
        retry_at=0.0,
        retries=0,
        context_tokens=0,
        carried=event.carried,
        rolled_over=state.rolled_over + 1,
        rollovers=rollovers,
        left=(*state.left, *(rollover.remote_id for rollover in older)),
    )
    return state, (CallModel(turn.step),)


def _answered(
    state: Conversation, turn: Turn, event: ModelAnswered, limits: Limits
) -> tuple[Conversation, tuple[Effect, ...]]:
    reply = event.reply
    turn = replace(turn, usage=turn.usage + reply.usage, model=reply.model or turn.model, outputs=())
    size = reply.usage.input_tokens + reply.usage.output_tokens
    state = replace(
        state,
        turn=turn,
        anchor=reply.anchor or state.anchor,
        retry_at=0.0,
        retries=0,
        carried="",
        context_tokens=size or state.context_tokens,
    )
    if not event.planned:
        return end(state, turn, event.at, "completed", reply=reply.text, truncated=reply.truncated)

    admissible = (admitted(state, turn, planned, turn.limits or limits) for planned in event.planned)
    calls = tuple(planned_call(turn, index, planned, event.at) for index, planned in enumerate(admissible))
    turn = replace(turn, phase="tools", calls=calls)
    over = _over_limit(turn, turn.limits or limits)
    if over is not None:
        return end(state, turn, event.at, "failed", failure=over)
    requests: tuple[Outgoing, ...] = tuple(
        show(state, turn, call) if call.parked else send(state, turn, call) for call in calls if call.output is None
    )
    if not requests:
        return _next_model_step(state, turn, event.at)
    if any(call.parked for call in calls):
        turn = replace(turn, parked_at=event.at)
    state = replace(state, turn=turn, outbox=state.outbox + requests)
    return state, (Record(operation_of(state, turn, event.at, "waiting")), *requests)


def _over_limit(turn: Turn, limits: Limits) -> Failure | None:
    made = len(turn.past_calls) + len(turn.calls)
    title = "The turn passed one of its limits."
    if made > limits.tool_calls:
        return Failure("limit_exceeded", title, f"{made} tool calls; the limit `tool_calls` is {limits.tool_calls}.")
    if turn.step >= limits.model_steps:
        return Failure(
            "limit_exceeded", title, f"{turn.step} model steps without an answer: the limit `model_steps` is reached."
        )
    if turn.usage.total_tokens >= limits.total_tokens:
        used = turn.usage.total_tokens
        return Failure("limit_exceeded", title, f"{used} tokens; the limit `total_tokens` is {limits.total_tokens}.")
    return None


def _result(state: Conversation, event: ResultArrived) -> tuple[Conversation, tuple[Effect, ...]]:
    turn, result = state.turn, event.result
    if turn is None or turn.phase != "tools":
        return state, ()
    asked = next((call for call in turn.calls if call.request_id == result.request_id), None)
    if asked is None or asked.output is not None or asked.parked:
        return state, ()
    status: CallStatus = "failed" if result.failed else "succeeded"
    answered = replace(asked, status=status, output=result.output, finished_at=event.at)
    turn = replace(turn, calls=tuple(answered if call is asked else call for call in turn.calls))
    # The answer proves that the request arrived.
    outbox = _without(state, {result.request_id})
    return _when_all_answered(replace(state, turn=turn, outbox=outbox), turn, event.at)


def _decided(state: Conversation, event: ApprovalDecided) -> tuple[Conversation, tuple[Effect, ...]]:
    turn, decision = state.turn, event.decision
    if turn is None or turn.phase != "tools":
        return state, ()
    parked = next((call for call in turn.calls if call.request_id == decision.approval_id and call.parked), None)
    if parked is None or parked.approval is None:
        return state, ()
    outcome: ApprovalState = "approved" if decision.approve else "rejected"
    approval = replace(parked.approval, state=outcome, decided_at=event.at, by=decision.by, reason=decision.reason)
    effects: tuple[Outgoing, ...]
    if decision.approve:
        call = replace(parked, approval=approval, requested_at=event.at, deadline=event.at + parked.time_limit)
        effects = (show(state, turn, replace(parked, approval=approval)), send(state, turn, call))
    else:
        told = json.dumps({"error": f"rejected: {decision.reason or 'no reason given'}"}, ensure_ascii=False)
        call = replace(parked, approval=approval, status="rejected", output=told, finished_at=event.at)
        effects = (show(state, turn, call),)
    turn = replace(turn, calls=tuple(call if known is parked else known for known in turn.calls))
    turn = unparked(turn, event.at)
    state, more = _when_all_answered(replace(state, turn=turn, outbox=state.outbox + effects), turn, event.at)
    return state, effects + more


def _time(state: Conversation, at: float) -> tuple[Conversation, tuple[Effect, ...]]:
    turn = state.turn
    if turn is None:
        return state, ()
    if at >= turn.deadline:
        title = "The turn passed its deadline."
        detail = f"No answer within {turn.message.deadline - turn.message.accepted_at:.0f} s."
        return end(state, turn, at, "failed", failure=Failure("deadline_exceeded", title, detail))
    if turn.phase != "tools":
        return state, ()
    late = {call.request_id for call in turn.calls if call.output is None and at >= call.deadline}
    if not late:
        return state, ()
    calls = tuple(too_late(call, at) if call.request_id in late else call for call in turn.calls)
    expired: tuple[Outgoing, ...] = tuple(
        show(state, turn, after)
        for before, after in zip(turn.calls, calls, strict=True)
        if before.parked != after.parked
    )
    expired += withdraw(turn, [call for call in turn.calls if call.request_id in late], at)
    turn = unparked(replace(turn, calls=calls), at)
    outbox = _without(state, late)
    state, more = _when_all_answered(replace(state, turn=turn, outbox=outbox + expired), turn, at)
    return state, expired + more


def _without(state: Conversation, request_ids: set[str]) -> tuple[Outgoing, ...]:
    """The outbox without the requests of these calls."""
    if not state.outbox:
        return ()
    return tuple(
        out for out in state.outbox if not (out.kind in ("tool", "delegate") and out.request_id in request_ids)
    )


def _when_all_answered(state: Conversation, turn: Turn, at: float) -> tuple[Conversation, tuple[Effect, ...]]:
    if any(call.output is None for call in turn.calls):
        return state, (Record(operation_of(state, turn, at, "waiting")),)
    return _next_model_step(state, turn, at)


def _next_model_step(state: Conversation, turn: Turn, at: float) -> tuple[Conversation, tuple[Effect, ...]]:
    turn = replace(
        turn,
        phase="model",
        step=turn.step + 1,
        outputs=outputs_of(turn.calls),
        past_calls=turn.past_calls + for_the_record(turn.calls),
        calls=(),
    )
    state = replace(state, turn=turn)
    return state, (Record(operation_of(state, turn, at, "running")), CallModel(turn.step))
