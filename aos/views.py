"""What callers see: the JSON shapes of the HTTP API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aos.kernel.delegation import children
from aos.kernel.types import Approval, ApprovalRecord, Operation, ToolCall
from aos.registry.agents import AgentEntry


def operation_view(operation: Operation) -> dict[str, Any]:
    """The answer of `POST agents/{agent_id}` and `GET operations/{operation_id}`."""
    usage = operation.usage
    view: dict[str, Any] = {
        "operation_id": operation.operation_id,
        "conversation_id": operation.conversation_id,
        "agent_id": operation.agent_id,
        "status": operation.status,
        "waiting_on": operation.waiting_on,
        "reply": operation.reply,
        "tool_calls": [call_view(call) for call in operation.tool_calls],
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "model": operation.model,
        "attempt": operation.attempt,
    }
    if operation.routing is not None:
        routing = operation.routing
        view |= {"routed_to": operation.agent_id, "routed_by": routing.by, "reason": routing.reason}
    if operation.generation:
        view |= {"agent_version": operation.agent_version, "generation": operation.generation}
    if operation.parked:
        view["parked"] = True
    if operation.truncated:
        view["truncated"] = True
    if operation.parent is not None:
        parent = operation.parent
        view["parent"] = {
            "operation_id": parent.operation_id,
            "conversation_id": parent.conversation_id,
            "agent_id": parent.agent_id,
            "depth": parent.depth,
        }
    if found := children(operation):
        view["children"] = found
    if usage.adopted:
        view["usage"]["adopted"] = usage.adopted
    if operation.error is not None:
        error = operation.error
        view["error"] = {"code": error.code, "title": error.title, "detail": error.detail}
    if operation.waiting_on is None:
        del view["waiting_on"]
    return view


def call_view(call: ToolCall) -> dict[str, Any]:
    """One of `tool_calls`; what the tool said is only for the model."""
    duration = None if call.finished_at is None else round((call.finished_at - call.requested_at) * 1000)
    view: dict[str, Any] = {
        "id": call.request_id,
        "server": call.server,
        "tool": call.tool,
        "arguments": call.arguments,
        "status": call.status,
        "duration_ms": duration,
    }
    if call.agent:
        view["agent"] = call.agent
    if call.approval is not None:
        view["approval"] = _decision_view(call.approval)
    return view


def _decision_view(approval: Approval) -> dict[str, Any]:
    view: dict[str, Any] = {"state": approval.state, "expires_at": time_view(approval.expires_at)}
    if approval.decided_at is not None:
        view |= {"decided_at": time_view(approval.decided_at), "decided_by": approval.by, "reason": approval.reason}
    return view


def approval_view(record: ApprovalRecord) -> dict[str, Any]:
    """An item of `GET approvals`. `arguments` is the text that is sent to the tool."""
    return {
        "approval_id": record.approval_id,
        "operation_id": record.operation_id,
        "agent_id": record.agent_id,
        "conversation_id": record.conversation_id,
        "server": record.server,
        "tool": record.tool,
        "arguments": record.arguments,
        "requested_at": time_view(record.requested_at),
        **_decision_view(record.approval),
    }


def time_view(seconds: float) -> str:
    """A time in seconds since the epoch, as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def agent_view(entry: AgentEntry, *, deployment: str, kind: str, runtime: str) -> dict[str, Any]:
    """An agent as `GET agents` and `GET agents/{agent_id}` show it."""
    return {
        "agent_id": entry.agent_id,
        "agent_type": entry.agent_type,
        "type": kind,
        "runtime": runtime,
        "purpose": entry.purpose,
        "purpose_scope": entry.purpose_scope,
        "success_criteria": list(entry.success_criteria),
        "lora_adapter": entry.domain_knowledge.domain,
        "deployment": deployment,
        "tools": [{"server": tool.server_name, "tool": tool.tool_name} for tool in entry.distinct_tools],
        "connected_agents": list(dict.fromkeys(entry.connected_agents)),
        "delegation": entry.delegation,
        "enabled": entry.enabled,
        "metadata": dict(entry.metadata),
    }
