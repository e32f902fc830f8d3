"""What callers see of MCP servers: the JSON shapes of `GET mcp/servers` and `GET mcp/servers/{server_id}/status`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aos.mcp.status import Desired, ServerStatus
from aos.mcp.tools import ServerTools, ToolInfo
from aos.registry.mcp_servers import ServerEntry


def server_view(entry: ServerEntry, status: ServerStatus | None) -> dict[str, Any]:
    """An item of `GET mcp/servers`: as registered, and as the process that runs it last said."""
    view: dict[str, Any] = {
        "server_id": entry.server_id,
        "server_name": entry.server_name,
        "server_type": entry.server_type,
        "enabled": entry.enabled,
        "status": "stopped",
    }
    return view if status is None else view | status.view()


def status_view(
    entry: ServerEntry,
    status: ServerStatus | None,
    desired: Desired,
    listed: ServerTools | None,
    breaker: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of `GET mcp/servers/{server_id}/status`.

    Args:
        desired: What operators asked for.
        listed: The tools that it last listed.
        breaker: The circuit breaker in front of it, where there is one.
    """
    view = server_view(entry, status) | {
        "pin_tools": entry.pin_tools,
        "stopped_by_command": desired.stopped,
        "listed_at": None if listed is None else _time(listed.listed_at),
        "tools": [] if listed is None else [_tool_view(tool) for tool in listed.tools],
    }
    view.setdefault("drift", [])
    return view if breaker is None else view | {"breaker": dict(breaker)}


def _tool_view(tool: ToolInfo) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "read_only": tool.read_only,
        "idempotent": tool.idempotent,
        "hash": tool.definition_hash,
        "changed": tool.changed,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
