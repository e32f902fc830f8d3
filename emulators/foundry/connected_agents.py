"""Connected agents of the threads protocol: a call is a run of another assistant, in a thread of its own.

What the service documents (learn.microsoft.com, "How to use connected agents" and `RunStepConnectedAgent`): the name
has letters and underscores only, a connected agent cannot call functions of the client, and it has no connected agents
of its own (`Assistant Tool Call Depth Error`). How a run ends that breaks these rules, and what the asking model is
told of a connected agent that failed, it does not: here such a run fails with `tool_user_error`, and the model is told.
"""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from emulators.foundry.model import FunctionSpec, JsonObject, ModelError

_PARAMETERS: JsonObject = {
    "type": "object",
    "properties": {"query": {"type": "string", "description": "What to ask the agent."}},
    "required": ["query"],
}


class ConnectedAgent(BaseModel):
    """The inner object of a tool of type ``connected_agent``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1)
    name: str = Field(pattern=r"^[a-zA-Z_]{1,64}$")
    description: str

    def as_function(self) -> FunctionSpec:
        """How the model sees it."""
        return FunctionSpec(self.name, self.description, {**_PARAMETERS})


def connected_agents(tools: JsonValue) -> dict[str, ConnectedAgent]:
    """The connected agents among checked tool definitions, by name."""
    found: dict[str, ConnectedAgent] = {}
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type") == "connected_agent":
            agent = ConnectedAgent.model_validate(tool.get("connected_agent"))
            found[agent.name] = agent
    return found


def query_of(agent: ConnectedAgent, arguments: str) -> str:
    """What the agent is asked.

    Raises:
        ModelError: The model gave no query.
    """
    try:
        given: object = json.loads(arguments or "{}")
    except ValueError:
        given = None
    query = given.get("query") if isinstance(given, dict) else None
    if not isinstance(query, str) or not query:
        raise broken(f"connected agent {agent.name}: the call has no 'query'")
    return query


def broken(why: str) -> ModelError:
    """A call that the service cannot make: the run fails."""
    return ModelError("tool_user_error", f"Error: {why}")
