"""Connected agents as functions that a model may call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from aos.mcp.functions import ToolSource
from aos.mcp.tools import ToolInfo
from aos.registry.agents import AgentEntry

PREFIX = "ask"
"""The function of agent `cfo` is `ask_cfo`."""
LONGEST_QUESTION = 100_000
"""Characters of a message to another agent."""
LONGEST_PURPOSE = 800
"""Characters of its purpose that the asking model is shown."""


def connected_tools(entry: AgentEntry, others: Mapping[str, AgentEntry]) -> list[ToolSource]:
    """One tool per connected agent that can be asked now; disabled and bad ones are left out (the registry warns)."""
    names = dict.fromkeys(entry.connected_agents)
    return [_tool(others[name]) for name in names if name in others and others[name].enabled]


def version_of(tools: list[ToolSource]) -> str:
    """Changes with what the asking model is shown of the connected agents."""
    shown = "\0".join(f"{tool.agent}\0{tool.info.description}" for tool in tools)
    return hashlib.sha256(shown.encode()).hexdigest()


def _tool(other: AgentEntry) -> ToolSource:
    purpose = " ".join(other.purpose.split())
    if len(purpose) > LONGEST_PURPOSE:
        purpose = f"{purpose[: LONGEST_PURPOSE - 3]}..."
    info = ToolInfo(
        name=other.agent_id,
        description=f"Ask agent {other.agent_id}, and get its answer. Its purpose: {purpose}",
        input_schema={
            "type": "object",
            "properties": {
                "message": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": LONGEST_QUESTION,
                    "pattern": r"\S",
                    "description": "What to ask or tell it, complete: it sees nothing of this conversation.",
                }
            },
            "required": ["message"],
            "additionalProperties": False,
        },
    )
    return ToolSource(PREFIX, info, 0.0, agent=other.agent_id)
