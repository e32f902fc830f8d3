"""What callers see: the JSON shapes of the HTTP API."""

from __future__ import annotations

from typing import Any

from aos.kernel.types import Operation, ToolCall
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
        "tool_calls": [_call_view(call) for call in operation.tool_calls],
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "model": operation.model,
        "attempt": operation.attempt,
    }
    if operation.generation:
        view |= {"agent_version": operation.agent_version, "generation": operation.generation}
    if operation.parked:
        view["parked"] = True
    if usage.adopted:
        view["usage"]["adopted"] = usage.adopted
    if operation.error is not None:
        error = operation.error
        view["error"] = {"code": error.code, "title": error.title, "detail": error.detail}
    if operation.waiting_on is None:
        del view["waiting_on"]
    return view


def _call_view(call: ToolCall) -> dict[str, Any]:
    duration = None if call.finished_at is None else round((call.finished_at - call.requested_at) * 1000)
    return {
        "id": call.request_id,
        "server": call.server,
        "tool": call.tool,
        "arguments": call.arguments,
        "status": call.status,
        "duration_ms": duration,
    }


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
        "enabled": entry.enabled,
        "metadata": dict(entry.metadata),
    }
