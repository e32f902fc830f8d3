"""The turn as a pure state machine: `step(state, event) -> (state, effects)`.

No I/O, no clock, no SDK: time arrives in events, work leaves as effects. The executor (`aos.kernel.kernel`) saves the
new state together with its `Record` and `Outgoing` effects, then carries the effects out; whatever they bring back is
the next event. Calling `step` with an event that does not fit (a late or repeated result, an answer to an earlier step)
returns the state unchanged and no effects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from aos.kernel.types import (
    AgentRef,
    Approval,
    ApprovalRecord,
    ApprovalState,
    CallStatus,
    Conversation,
    Decision,
    Failure,
    FunctionCall,
    Limits,
    Message,
    ModelReply,
    Operation,
    Outgoing,
    Park,
    SendReply,
    SendTool,
    ShowApproval,
    Status,
    ToolCall,
    ToolOutput,
    ToolResult,
    Turn,
    WaitingOn,
)

# --- events


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The next accepted message is taken up, to be answered by this version of the agent."""

    at: float
    message: Message
    agent: AgentRef
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """The next accepted message cannot become a turn: its agent is gone or disabled."""

    at: float
    message: Message
    failure: Failure


@dataclass(frozen=True, slots=True)
class MessageCancelled:
    """An accepted message that no turn has taken up is to be left out, whatever the conversation does meanwhile."""

    at: float
    message: Message
    by: str


@dataclass(frozen=True, slots=True)
class TurnCancelled:
    """The turn of this operation is to end now."""

    at: float
    operation_id: str
    by: str


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A function call of the model, looked up in the agent's tools.

    Attributes:
        approval: Whether a person has to approve the call before it is made.
        refusal: Set when the call must not be made (unknown tool, arguments that violate the schema): what the model is
            told instead.
        time_limit: Seconds after which its result is given up.
    """

    call: FunctionCall
    server: str = ""
    tool: str = ""
    time_limit: float = 0.0
    refusal: str | None = None
    approval: bool = False


@dataclass(frozen=True, slots=True)
class ModelAnswered:
    """The model step `step` ended with text or calls."""

    at: float
    step: int
    reply: ModelReply
    planned: tuple[PlannedCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The model step `step` cannot succeed."""

    at: float
    step: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Settled:
    """What an unsettled Foundry conversation holds was looked up between two turns.

    Attributes:
        anchor: Id of its last item.
        orphans: The answers that it still waits for.
    """

    anchor: str | None
    orphans: tuple[ToolOutput, ...]


@dataclass(frozen=True, slots=True)
class PutOff:
    """What the conversation needs next (Foundry, the tool catalogue) is unavailable; it is tried again at `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class ConversationLost:
    """The Foundry conversation is gone. `remote_id` is the one that takes its place, empty."""

    at: float
    step: int
    remote_id: str


@dataclass(frozen=True, slots=True)
class ResultArrived:
    """A tool answered."""

    at: float
    result: ToolResult


@dataclass(frozen=True, slots=True)
class ApprovalDecided:
    """A person decided whether a call is to be made."""

    at: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Time went by: deadlines may have passed."""

    at: float


Event = (
    TurnStarted
    | MessageRefused
    | MessageCancelled
    | TurnCancelled
    | Settled
    | ModelAnswered
    | ModelFailed
    | ConversationLost
    | PutOff
    | ResultArrived
    | ApprovalDecided
    | TimePassed
)

# --- effects (beside `Outgoing`)


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model for the current step of the turn."""

    step: int


@dataclass(frozen=True, slots=True)
class Record:
    """Show callers this state of the operation; saved in the same transaction as the conversation's state."""

    operation: Operation


Effect = CallModel | Record | Outgoing

NOBODY = AgentRef(name="", version="", definition_hash="", deployment="")
TIMED_OUT = '{"error": "timeout: the tool did not answer in time; whether it had an effect is unknown"}'
EXPIRED = '{"error": "rejected: expired. Nobody decided about this call in time; it was not made."}'
APPROVAL_EXPIRY = 24 * 3600.0
"""Seconds for which a call waits for a person."""
ABANDONED = '{"error": "the turn ended before this call was answered"}'


def step(state: Conversation, event: Event, limits: Limits) -> tuple[Conversation, tuple[Effect, ...]]:
    """Applies one event.

    Returns:
        The new state and the effects to save and carry out, in order. `CallModel` is always the last one.
    """
    match event:
        case TurnStarted():
            return _start(state, event)
        case MessageRefused():
            return _refused(state, event)
        case MessageCancelled():
            return _left_out(state, event)
        case TurnCancelled():
            turn = state.turn
            if turn is None or turn.message.operation_id != event.operation_id:
                return state, ()
            return _end(state, turn, event.at, "cancelled", failure=_cancelled(event.by))
        case PutOff():
            return replace(state, retry_at=event.until, retries=state.retries + 1), ()
        case Settled():
            if state.turn is not None or not state.unsettled:
                return state, ()
            return replace(state, anchor=event.anchor, orphans=event.orphans, unsettled=False), ()
        case ModelAnswered() | ModelFailed() | ConversationLost():
            turn = state.turn
            if turn is None or turn.phase != "model" or turn.step != event.step:
                return state, ()
            return _model_event(state, turn, event, limits)
        case ResultArrived():
            return _result(state, event)
        case ApprovalDecided():
            return _decided(state, event)
        case TimePassed():
            return _time(state, event.at)


def _start(state: Conversation, event: TurnStarted) -> tuple[Conversation, tuple[Effect, ...]]:
    if state.turn is not None or event.message.seq <= state.last_seq:
        return state, ()
    turn = Turn(message=event.message, agent=event.agent, outputs=state.orphans, limits=event.limits)
    state = replace(state, turn=turn, orphans=(), last_seq=event.message.seq)
    return state, (Record(_operation(state, turn, event.at, "running")), CallModel(1))


def _refused(state: Conversation, event: MessageRefused) -> tuple[Conversation, tuple[Effect, ...]]:
    if state.turn is not None or event.message.seq <= state.last_seq:
        return state, ()
    turn = Turn(message=event.message, agent=NOBODY, outputs=state.orphans)
    return _end(replace(state, last_seq=event.message.seq), turn, event.at, "failed", failure=event.failure)


def _left_out(state: Conversation, event: MessageCancelled) -> tuple[Conversation, tuple[Effect, ...]]:
    if event.message.seq <= state.last_seq:
        return state, ()
    turn = Turn(message=event.message, agent=NOBODY)
    operation = _operation(state, turn, event.at, "cancelled", failure=_cancelled(event.by))
    state, effects = _tell(replace(state, turns=state.turns + 1), operation)
    return state, (Record(operation), *effects)


def _cancelled(by: str) -> Failure:
    return Failure("cancelled", "The operation was cancelled.", f"Cancelled by {by}.")


def _model_event(
    state: Conversation, turn: Turn, event: ModelAnswered | ModelFailed | ConversationLost, limits: Limits
) -> tuple[Conversation, tuple[Effect, ...]]:
    match event:
        case ModelAnswered():
            return _answered(state, turn, event, limits)
        case ModelFailed():
            return _end(state, turn, event.at, "failed", failure=event.failure)
        case ConversationLost():
            turn = replace(turn, outputs=())
            state = replace(state, remote_id=event.remote_id, anchor=None, turn=turn)
            if turn.step == 1:
                return state, (CallModel(1),)
            title = "The Foundry conversation was deleted while the turn was running."
            failure = Failure("conversation_gone", title, "The next message starts a new one, without the history.")
            state, effects = _end(state, turn, event.at, "failed", failure=failure)
            # The new conversation is empty: nothing in it is unknown.
            return replace(state, unsettled=False), effects


def _answered(
    state: Conversation, turn: Turn, event: ModelAnswered, limits: Limits
) -> tuple[Conversation, tuple[Effect, ...]]:
    reply = event.reply
    turn = replace(turn, usage=turn.usage + reply.usage, model=reply.model or turn.model, outputs=())
    state = replace(state, turn=turn, anchor=reply.anchor or state.anchor, retry_at=0.0, retries=0)
    if not event.planned:
        return _end(state, turn, event.at, "completed", reply=reply.text)

    calls = tuple(_call(turn, index, planned, event.at) for index, planned in enumerate(event.planned))
    turn = replace(turn, phase="tools", calls=calls)
    state = replace(state, turn=turn)
    over = _over_limit(turn, turn.limits or limits)
    if over is not None:
        return _end(state, turn, event.at, "failed", failure=over)
    requests: tuple[Outgoing, ...] = tuple(
        _show(state, turn, call) if call.parked else _send(call) for call in calls if call.output is None
    )
    if not requests:
        return _next_model_step(state, turn, event.at)
    if any(call.parked for call in calls):
        turn = replace(turn, parked_at=event.at)
    state = replace(state, turn=turn, outbox=state.outbox + requests)
    return state, (Record(_operation(state, turn, event.at, "waiting")), *requests)


def _send(call: ToolCall) -> SendTool:
    return SendTool(call.request_id, call.server, call.tool, call.arguments)


def _show(state: Conversation, turn: Turn, call: ToolCall) -> ShowApproval:
    return ShowApproval(approval_record(_operation(state, turn, call.requested_at, "waiting"), call))


def approval_record(operation: Operation, call: ToolCall) -> ApprovalRecord:
    """A call of an operation as approvers see it; it must have an `approval`."""
    assert call.approval is not None  # noqa: S101 - said above
    return ApprovalRecord(
        approval_id=call.request_id,
        operation_id=operation.operation_id,
        agent_id=operation.agent_id,
        conversation_id=operation.conversation_id,
        server=call.server,
        tool=call.tool,
        arguments=call.arguments,
        requested_at=call.requested_at,
        approval=call.approval,
    )


def _call(turn: Turn, index: int, planned: PlannedCall, at: float) -> ToolCall:
    approval = Approval("pending", at + APPROVAL_EXPIRY) if planned.approval and planned.refusal is None else None
    return ToolCall(
        call_id=planned.call.call_id,
        request_id=f"{turn.message.operation_id}.{_numbered(turn)}.{index}",
        function=planned.call.name,
        server=planned.server,
        tool=planned.tool or planned.call.name,
        arguments=planned.call.arguments,
        deadline=at + planned.time_limit if approval is None else approval.expires_at,
        requested_at=at,
        status="pending" if planned.refusal is None else "refused",
        output=planned.refusal,
        finished_at=None if planned.refusal is None else at,
        time_limit=planned.time_limit,
        approval=approval,
    )


def _numbered(turn: Turn) -> str:
    """The step, told apart from the same step of an earlier attempt, which the tool ledger remembers."""
    attempt = turn.message.attempt
    return str(turn.step) if attempt == 1 else f"{attempt}-{turn.step}"


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
    calls = tuple(
        replace(call, status="failed" if result.failed else "succeeded", output=result.output, finished_at=event.at)
        if call.request_id == result.request_id and call.output is None and not call.parked
        else call
        for call in turn.calls
    )
    if calls == turn.calls:
        return state, ()
    # The answer proves that the request arrived.
    outbox = tuple(out for out in state.outbox if not (out.kind == "tool" and out.request_id == result.request_id))
    turn = replace(turn, calls=calls)
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
        effects = (_show(state, turn, replace(parked, approval=approval)), _send(call))
    else:
        told = json.dumps({"error": f"rejected: {decision.reason or 'no reason given'}"}, ensure_ascii=False)
        call = replace(parked, approval=approval, status="rejected", output=told, finished_at=event.at)
        effects = (_show(state, turn, call),)
    turn = replace(turn, calls=tuple(call if known is parked else known for known in turn.calls))
    turn = _unparked(turn, event.at)
    state, more = _when_all_answered(replace(state, turn=turn, outbox=state.outbox + effects), turn, event.at)
    return state, effects + more


def _unparked(turn: Turn, at: float) -> Turn:
    """Its time goes on once no call waits for a person any more."""
    if turn.parked_at is None or any(call.parked for call in turn.calls):
        return turn
    return replace(turn, parked_at=None, parked_for=turn.parked_for + max(0.0, at - turn.parked_at))


def _closed(approval: Approval | None, state: ApprovalState, at: float) -> Approval | None:
    return None if approval is None else replace(approval, state=state, decided_at=at)


def _time(state: Conversation, at: float) -> tuple[Conversation, tuple[Effect, ...]]:
    turn = state.turn
    if turn is None:
        return state, ()
    if at >= turn.deadline:
        title = "The turn passed its deadline."
        detail = f"No answer within {turn.message.deadline - turn.message.accepted_at:.0f} s."
        return _end(state, turn, at, "failed", failure=Failure("deadline_exceeded", title, detail))
    late = {call.request_id for call in turn.calls if call.output is None and at >= call.deadline}
    if not late or turn.phase != "tools":
        return state, ()
    calls = tuple(_too_late(call, at) if call.request_id in late else call for call in turn.calls)
    expired = tuple(
        _show(state, turn, after)
        for before, after in zip(turn.calls, calls, strict=True)
        if before.parked != after.parked
    )
    turn = _unparked(replace(turn, calls=calls), at)
    outbox = tuple(out for out in state.outbox if not (out.kind == "tool" and out.request_id in late))
    state, more = _when_all_answered(replace(state, turn=turn, outbox=outbox + expired), turn, at)
    return state, expired + more


def _too_late(call: ToolCall, at: float) -> ToolCall:
    if call.parked:
        approval = _closed(call.approval, "expired", at)
        return replace(call, status="rejected", output=EXPIRED, finished_at=at, approval=approval)
    return replace(call, status="timed_out", output=TIMED_OUT, finished_at=at)


def _when_all_answered(state: Conversation, turn: Turn, at: float) -> tuple[Conversation, tuple[Effect, ...]]:
    if any(call.output is None for call in turn.calls):
        return state, (Record(_operation(state, turn, at, "waiting")),)
    return _next_model_step(state, turn, at)


def _next_model_step(state: Conversation, turn: Turn, at: float) -> tuple[Conversation, tuple[Effect, ...]]:
    turn = replace(
        turn,
        phase="model",
        step=turn.step + 1,
        outputs=_outputs(turn.calls),
        past_calls=turn.past_calls + _for_the_record(turn.calls),
        calls=(),
    )
    state = replace(state, turn=turn)
    return state, (Record(_operation(state, turn, at, "running")), CallModel(turn.step))


def _outputs(calls: tuple[ToolCall, ...]) -> tuple[ToolOutput, ...]:
    return tuple(ToolOutput(call.call_id, ABANDONED if call.output is None else call.output) for call in calls)


def _end(
    state: Conversation,
    turn: Turn,
    at: float,
    status: Status,
    *,
    reply: str | None = None,
    failure: Failure | None = None,
) -> tuple[Conversation, tuple[Effect, ...]]:
    # Foundry refuses every later turn while a call is unanswered, so a turn that ends early leaves its answers behind.
    # Whether a model step without an answer took its input, and made calls of its own, has to be looked up (`Settled`).
    unsettled = state.unsettled or (status != "completed" and state.turn is not None and turn.phase == "model")
    orphans = turn.outputs if turn.phase == "model" else _outputs(turn.calls)
    open_as: CallStatus = "abandoned" if status == "cancelled" else "timed_out"
    calls = tuple(
        call
        if call.output is not None
        else replace(
            call,
            status=open_as,
            finished_at=at,
            approval=_closed(call.approval, "withdrawn", at) if call.parked else call.approval,
        )
        for call in turn.calls
    )
    withdrawn: tuple[Outgoing, ...] = ()
    if turn.parked_at is not None:
        withdrawn = tuple(
            _show(state, turn, after) for before, after in zip(turn.calls, calls, strict=True) if before.parked
        )
    turn = replace(turn, calls=calls)
    operation = _operation(state, turn, at, status, reply=reply, failure=failure)
    origin = turn.message.origin if status == "failed" else None
    operation = replace(operation, parked=origin is not None)
    outbox = tuple(out for out in state.outbox if out.kind != "tool") + withdrawn
    ended = replace(state, turn=None, outbox=outbox, orphans=orphans, unsettled=unsettled, turns=state.turns + 1)
    ended, effects = _tell(ended, operation)
    if origin is not None:
        park = Park(operation, origin)
        ended, effects = replace(ended, outbox=(*ended.outbox, park)), (*effects, park)
    return ended, (Record(operation), *withdrawn, *effects)


def _tell(state: Conversation, operation: Operation) -> tuple[Conversation, tuple[Effect, ...]]:
    """Tells the sender of a bus message how its operation ended."""
    if operation.reply_to is None:
        return state, ()
    send = SendReply(operation)
    return replace(state, outbox=(*state.outbox, send)), (send,)


def _for_the_record(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    """Without what the tools said: the conversation in Foundry has that, and it may be long."""
    return tuple(call if call.output is None else replace(call, output=None) for call in calls)


def _waiting_on(turn: Turn) -> WaitingOn:
    return "approval" if any(call.parked for call in turn.calls) else "tool"


def _operation(
    state: Conversation,
    turn: Turn,
    at: float,
    status: Status,
    *,
    reply: str | None = None,
    failure: Failure | None = None,
) -> Operation:
    message = turn.message
    return Operation(
        operation_id=message.operation_id,
        agent_id=state.key.agent_id,
        conversation_id=state.key.conversation_id,
        status=status,
        created_at=message.accepted_at,
        updated_at=at,
        attempt=message.attempt,
        waiting_on=_waiting_on(turn) if status == "waiting" else None,
        reply=reply,
        error=failure,
        tool_calls=turn.past_calls + _for_the_record(turn.calls),
        usage=turn.usage,
        model=turn.model,
        event_type=message.event_type,
        agent_version=turn.agent.version,
        generation=turn.agent.generation,
        reply_to=message.reply_to,
    )
