"""Connected agents as functions that a model may call."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from aos.kernel.ports import ServiceAgent
from aos.mcp.functions import ToolSource
from aos.mcp.tools import ToolInfo
from aos.registry.agents import AgentEntry

PREFIX = "ask"
"""The function of agent `cfo` is `ask_cfo`."""
LONGEST_QUESTION = 100_000
"""Characters of a message to another agent."""
LONGEST_PURPOSE = 800
"""Characters of its purpose that the asking model is shown."""
LONGEST_NAME = 55
"""Characters of a name for the service before a piece of hash."""
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def connected_tools(entry: AgentEntry, others: Mapping[str, AgentEntry]) -> list[ToolSource]:
    """One tool per connected agent that can be asked now; disabled and bad ones are left out (the registry warns)."""
    return [_tool(other) for other in askable(entry, others)]


def askable(entry: AgentEntry, others: Mapping[str, AgentEntry]) -> list[AgentEntry]:
    """The connected agents of an entry that are there and enabled."""
    names = dict.fromkeys(entry.connected_agents)
    return [others[name] for name in names if name in others and others[name].enabled]


def service_agent(other: AgentEntry, version: str) -> ServiceAgent:
    """A connected agent that the service runs; `version` is the id of its assistant.

    The service takes letters and underscores for its name, so an id that has others gets a piece of its hash.
    """
    name = f"{PREFIX}_{re.sub('[^A-Za-z_]', '_', other.agent_id)}"
    if name != f"{PREFIX}_{other.agent_id}":
        digest = hashlib.sha256(other.agent_id.encode()).hexdigest()[:8]
        name = f"{name[:LONGEST_NAME]}_{digest.translate(_LETTERS)}"
    return ServiceAgent(name, _description(other), version)


def version_of(tools: list[ToolSource]) -> str:
    """Changes with what the asking model is shown of the connected agents."""
    shown = "\0".join(f"{tool.agent}\0{tool.info.description}" for tool in tools)
    return hashlib.sha256(shown.encode()).hexdigest()


def _description(other: AgentEntry) -> str:
    purpose = " ".join(other.purpose.split())
    if len(purpose) > LONGEST_PURPOSE:
        purpose = f"{purpose[: LONGEST_PURPOSE - 3]}..."
    return f"Ask agent {other.agent_id}, and get its answer. Its purpose: {purpose}"


def _tool(other: AgentEntry) -> ToolSource:
    info = ToolInfo(
        name=other.agent_id,
        description=_description(other),
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
