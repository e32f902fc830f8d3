"""The JSON bodies of AOS on Service Bus, as models. What does not fit is refused with the JSON pointer."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from aos.errors import AosError

AGENT_EVENTS = "agent-events"
AGENT_COMMANDS = "agent-commands"
MCP_REQUESTS = "mcp-requests"
MCP_RESPONSES = "mcp-responses"
MCP_COMMANDS = "mcp-server-commands"
AOS_REQUESTS = "aos-requests"
POISON = "aos-poison"

OWN_ENTITIES = frozenset(
    {AGENT_EVENTS, AGENT_COMMANDS, MCP_REQUESTS, MCP_RESPONSES, MCP_COMMANDS, AOS_REQUESTS, POISON}
)
"""A reply may not be sent to one of these: it would come back as a request."""

AGENT_ID = r"^[a-z0-9][a-z0-9_-]{0,47}$"
CONVERSATION_ID = r"^[A-Za-z0-9._:-]{1,128}$"

Model = TypeVar("Model", bound=BaseModel)


class EnvelopeInvalid(AosError):
    """A message's body is not what its entity carries. It can never succeed, so it is parked, not retried."""

    code = "invalid_message"
    title = "The body of the message is not valid."


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AgentEvent(_Body):
    """Topic `agent-events`: something happened that an agent should deal with."""

    agent_id: str = Field(min_length=1, max_length=256)
    event_type: str = Field(default="", max_length=256)
    payload: JsonValue = None
    conversation_id: str | None = Field(default=None, pattern=CONVERSATION_ID)


class AgentReply(_Body):
    """What an agent answers to the message's ReplyTo.

    Attributes:
        truncated: True when the response was cut at the model's limit of output tokens, else left out.
    """

    agent_id: str
    event_type: str
    conversation_id: str
    operation_id: str
    status: str
    response: str | None = None
    usage: dict[str, int] = {}
    truncated: bool | None = None
    children: list[dict[str, str]] | None = None
    error: dict[str, str] | None = None
    generation: str | None = None
    """Of the agent registry that the turn's agent was read from."""


class AgentCommand(_Body):
    """Queue `agent-commands`. `resume`, `advance`, `collect` and `redeliver` are sent by AOS to itself."""

    command: Literal["start", "stop", "restart", "reload_registry", "resume", "advance", "collect", "redeliver"]
    agent_id: str | None = None
    params: dict[str, Any] = {}


class ServerCommand(_Body):
    """Queue `mcp-server-commands`."""

    command: Literal["start", "stop", "restart", "reload_registry", "redeliver"]
    server_id: str | None = None
    params: dict[str, Any] = {}


Method = Literal["list_tools", "call_tool", "list_resources", "read_resource"]


class ToolRequest(_Body):
    """Topic `mcp-requests`."""

    request_id: str = Field(min_length=1, max_length=256)
    server_id: str = Field(min_length=1, max_length=256)
    method: Method
    params: dict[str, Any] = {}


class CallToolParams(_Body):
    """`params` of `call_tool`."""

    tool_name: str = Field(min_length=1, max_length=256)
    tool_params: dict[str, Any] = {}


class ReadResourceParams(_Body):
    """`params` of `read_resource`."""

    uri: str = Field(min_length=1, max_length=2048)


ToolErrorCode = Literal[
    "unknown_server",
    "unknown_tool",
    "invalid_params",
    "not_configured",
    "unavailable",
    "timeout",
    "outcome_unknown",
    "too_large",
    "request_id_reused",
]


class ToolError(_Body):
    """Why a request was not carried out. That the tool itself failed is a `result` with `isError`."""

    code: ToolErrorCode
    message: str
    retryable: bool = False


class ToolResponseBody(_Body):
    """Exactly one of the fields is set; `result` is MCP's CallToolResult in wire form."""

    tools: list[dict[str, Any]] | None = None
    result: dict[str, Any] | None = None
    resources: list[dict[str, Any]] | None = None
    content: list[dict[str, Any]] | None = None
    error: ToolError | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.tools, self.result, self.resources, self.content, self.error)) != 1:
            raise ValueError("exactly one of tools, result, resources, content and error has to be there")
        return self


class ToolResponse(_Body):
    """Topic `mcp-responses`, or the ReplyTo of the request."""

    request_id: str
    server_id: str = ""
    response: ToolResponseBody


def parse_body(model: type[Model], data: bytes) -> Model:
    """Reads a body.

    Raises:
        EnvelopeInvalid: The detail names each wrong field by JSON pointer.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise EnvelopeInvalid(_faults(error, "")) from None


def parse_value(model: type[Model], value: object, at: str) -> Model:
    """Reads a part of a body that is decoded already.

    Args:
        at: JSON pointer of the part.

    Raises:
        EnvelopeInvalid: As `parse_body`.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise EnvelopeInvalid(_faults(error, at)) from None


def _faults(error: ValidationError, at: str) -> str:
    errors = error.errors(include_url=False, include_input=False)[:10]
    return "; ".join(f"{at + _pointer(e['loc']) or '(body)'}: {e['msg']}" for e in errors)


def _pointer(location: tuple[int | str, ...]) -> str:
    """RFC 6901, section 3."""
    parts = (str(part)[:100].replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)
