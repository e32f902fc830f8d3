"""A tool call within a turn: planned, sent or shown to approvers, given up, and what the model is told about it."""

from __future__ import annotations

from aos.kernel.delegation import delegate, time_for
from aos.kernel.events import PlannedCall
from aos.kernel.operations import approval_record, operation_of
from aos.kernel.records import replace
from aos.kernel.types import (
    Approval,
    ApprovalState,
    Conversation,
    Delegate,
    SendTool,
    ShowApproval,
    ToolCall,
    ToolOutput,
    Turn,
)

TIMED_OUT = '{"error": "timeout: the tool did not answer in time; whether it had an effect is unknown"}'
EXPIRED = '{"error": "rejected: expired. Nobody decided about this call in time; it was not made."}'
APPROVAL_EXPIRY = 24 * 3600.0
"""Seconds for which a call waits for a person."""
ABANDONED = '{"error": "the turn ended before this call was answered"}'


def planned_call(turn: Turn, index: int, planned: PlannedCall, at: float) -> ToolCall:
    approval = Approval("pending", at + APPROVAL_EXPIRY) if planned.approval and planned.refusal is None else None
    time_limit = time_for(turn, at) if planned.agent else planned.time_limit
    return ToolCall(
        call_id=planned.call.call_id,
        request_id=f"{turn.message.operation_id}.{_numbered(turn)}.{index}",
        function=planned.call.name,
        server=planned.server,
        tool=planned.tool or planned.call.name,
        arguments=planned.call.arguments,
        deadline=at + time_limit if approval is None else approval.expires_at,
        requested_at=at,
        status="pending" if planned.refusal is None else "refused",
        output=planned.refusal,
        finished_at=None if planned.refusal is None else at,
        time_limit=time_limit,
        approval=approval,
        agent=planned.agent,
    )


def _numbered(turn: Turn) -> str:
    """The step, told apart from the same step of an earlier attempt, which the tool ledger remembers."""
    attempt = turn.message.attempt
    return str(turn.step) if attempt == 1 else f"{attempt}-{turn.step}"


def send(state: Conversation, turn: Turn, call: ToolCall) -> SendTool | Delegate:
    if call.agent:
        return delegate(state, turn, call)
    return SendTool(call.request_id, call.server, call.tool, call.arguments)


def show(state: Conversation, turn: Turn, call: ToolCall) -> ShowApproval:
    return ShowApproval(approval_record(operation_of(state, turn, call.requested_at, "waiting"), call))


def unparked(turn: Turn, at: float) -> Turn:
    """Its time goes on once no call waits for a person any more."""
    if turn.parked_at is None or any(call.parked for call in turn.calls):
        return turn
    return replace(turn, parked_at=None, parked_for=turn.parked_for + max(0.0, at - turn.parked_at))


def closed(approval: Approval | None, state: ApprovalState, at: float) -> Approval | None:
    return None if approval is None else replace(approval, state=state, decided_at=at)


def too_late(call: ToolCall, at: float) -> ToolCall:
    if call.parked:
        approval = closed(call.approval, "expired", at)
        return replace(call, status="rejected", output=EXPIRED, finished_at=at, approval=approval)
    return replace(call, status="timed_out", output=TIMED_OUT, finished_at=at)


def outputs_of(calls: tuple[ToolCall, ...]) -> tuple[ToolOutput, ...]:
    return tuple(ToolOutput(call.call_id, ABANDONED if call.output is None else call.output) for call in calls)
