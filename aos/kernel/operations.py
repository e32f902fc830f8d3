"""The operation as callers see it, made from the turn in work, and its calls as approvers see them."""

from __future__ import annotations

from aos.kernel.records import replace
from aos.kernel.types import (
    ApprovalRecord,
    Conversation,
    Failure,
    Operation,
    Outgoing,
    Status,
    ToolCall,
    Turn,
    WaitingOn,
)


def operation_of(
    state: Conversation,
    turn: Turn,
    at: float,
    status: Status,
    *,
    reply: str | None = None,
    failure: Failure | None = None,
    parked: bool = False,
    truncated: bool = False,
) -> Operation:
    message = turn.message
    # By place, in the order of the fields: by name it takes twice as long.
    return Operation(
        message.operation_id,
        state.key.agent_id,
        state.key.conversation_id,
        status,
        message.accepted_at,
        at,
        message.attempt,
        _waiting_on(turn) if status == "waiting" else None,
        reply,
        failure,
        turn.past_calls + for_the_record(turn.calls) if turn.calls else turn.past_calls,
        turn.usage,
        turn.model,
        message.event_type,
        turn.agent.version,
        turn.agent.generation,
        message.reply_to,
        parked,
        truncated,
        message.parent,
        message.trace,
        message.routing,
    )


def for_the_record(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    """Without what the tools said: the conversation in Foundry has that, and it may be long."""
    return tuple(call if call.output is None else replace(call, output=None) for call in calls)


def _waiting_on(turn: Turn) -> WaitingOn:
    if any(call.parked for call in turn.calls):
        return "approval"
    return "tool" if any(call.output is None and not call.agent for call in turn.calls) else "agent"


def holds_open(effect: Outgoing) -> str | None:
    """The operation for which something remains to be done as long as this effect is not out, though it has ended."""
    match effect.kind:
        case "reply" | "park" | "answer":
            return effect.operation.operation_id
        case "withdraw":
            return effect.operation_id
    return None


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


def parked_call(operation: Operation, approval_id: str) -> ToolCall | None:
    """The call that waits, or waited, for this approval."""
    calls = operation.tool_calls
    return next((call for call in calls if call.request_id == approval_id and call.approval is not None), None)
