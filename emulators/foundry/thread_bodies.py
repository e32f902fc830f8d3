"""Request bodies of the threads protocol, and the wire form of what they create."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from emulators.foundry.agents_api import Metadata
from emulators.foundry.errors import ApiError
from emulators.foundry.items import new_id
from emulators.foundry.model import JsonObject

MAX_MESSAGE_CHARS = 1_500_000
MAX_INSTRUCTION_CHARS = 256_000
MAX_MESSAGES_PER_THREAD = 100_000
MAX_OUTPUTS = 128

Instructions = Annotated[str, Field(max_length=MAX_INSTRUCTION_CHARS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TextBlock(_Body):
    """Text of a message."""

    type: Literal["text"]
    text: str


class MediaBlock(BaseModel):
    """An image: kept, but no model here looks at it."""

    model_config = ConfigDict(extra="allow")

    type: Literal["image_file", "image_url"]


def _text_as_block(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class CreateMessage(_Body):
    """Body of ``POST /threads/{thread}/messages``; content may be a plain string."""

    role: Literal["user", "assistant"]
    content: Annotated[
        list[Annotated[TextBlock | MediaBlock, Field(discriminator="type")]], BeforeValidator(_text_as_block)
    ]
    attachments: list[JsonObject] | None = None
    metadata: Metadata | None = None


class CreateThread(_Body):
    """Body of ``POST /threads``."""

    messages: list[CreateMessage] | None = None
    tool_resources: JsonObject | None = None
    metadata: Metadata | None = None


class Update(_Body):
    """Body of ``POST`` on a message or run, and (with ``tool_resources``) on a thread."""

    metadata: Metadata | None = None
    tool_resources: JsonObject | None = None


class AssistantFields(_Body):
    """Body of ``POST /assistants/{assistant}``: what is given replaces what was."""

    model: str | None = Field(default=None, min_length=1)
    name: str | None = Field(default=None, max_length=256)
    description: str | None = Field(default=None, max_length=512)
    instructions: Instructions | None = None
    tools: list[JsonObject] | None = None
    tool_resources: JsonObject | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    response_format: JsonValue = None
    metadata: Metadata | None = None


class CreateAssistant(AssistantFields):
    """Body of ``POST /assistants``."""

    model: str = Field(min_length=1)


class Truncation(_Body):
    """How much of the thread the model reads: as much as fits, or the last messages only."""

    type: Literal["auto", "last_messages"]
    last_messages: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _whole(self) -> Truncation:
        if (self.type == "last_messages") != (self.last_messages is not None):
            raise PydanticCustomError(
                "truncation", "last_messages belongs to type 'last_messages' and is required there"
            )
        return self


def _tool_choice(value: JsonValue) -> JsonValue:
    match value:
        case None | "none" | "auto" | "required" | {"type": "function", "function": {"name": str()}}:
            return value
    raise PydanticCustomError("tool_choice", "use none, auto, required or {{type: function, function: {{name}}}}")


class RunSettings(_Body):
    """What both bodies that create a run share; None takes the assistant's value."""

    assistant_id: str = Field(min_length=1)
    model: str | None = None
    instructions: Instructions | None = None
    tools: list[JsonObject] | None = None
    tool_resources: JsonObject | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_prompt_tokens: int | None = Field(default=None, ge=256)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    truncation_strategy: Truncation | None = None
    tool_choice: Annotated[JsonValue, AfterValidator(_tool_choice)] = None
    response_format: JsonValue = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    stream: bool | None = None


class CreateRun(RunSettings):
    """Body of ``POST /threads/{thread}/runs``."""

    additional_instructions: Instructions | None = None
    additional_messages: list[CreateMessage] | None = None


class CreateThreadAndRun(RunSettings):
    """Body of ``POST /threads/runs``."""

    thread: CreateThread | None = None


class ToolOutput(_Body):
    """What one function call gave back; only text is accepted."""

    tool_call_id: str = Field(min_length=1)
    output: str | None = None


class SubmitToolOutputs(_Body):
    """Body of ``POST /threads/{thread}/runs/{run}/submit_tool_outputs``."""

    tool_outputs: list[ToolOutput] = Field(max_length=MAX_OUTPUTS)
    stream: bool | None = None


def no_files(param: str) -> ApiError:
    """501: what ``param`` refers to cannot exist here."""
    return ApiError(501, "not_implemented", f"{param}: this emulator has no files and no vector stores.", param=param)


def check_no_files(tool_resources: JsonObject | None, param: str) -> None:
    """Refuse resources that are files or vector stores.

    Raises:
        ApiError: 501.
    """
    for kind in ("code_interpreter", "file_search"):
        if (tool_resources or {}).get(kind):
            raise no_files(f"{param}.{kind}")


def message_object(thread: str, body: CreateMessage, now: int, where: str = "content") -> JsonObject:
    """The message as it is stored and listed.

    Raises:
        ApiError: 400 for an empty or too long message, 501 for one with files; ``where`` names its content.
    """
    if body.attachments:
        raise no_files(where.removesuffix("content") + "attachments")
    length = sum(len(block.text) for block in body.content if isinstance(block, TextBlock))
    if not length and all(isinstance(block, TextBlock) for block in body.content):
        raise ApiError(400, "invalid_payload", f"{where}: Message content must be non-empty.", param=where)
    if length > MAX_MESSAGE_CHARS:
        message = f"{where}: a message may have {MAX_MESSAGE_CHARS} characters at most; this one has {length}."
        raise ApiError(400, "invalid_payload", message, param=where)
    return {
        "id": new_id("msg"),
        "object": "thread.message",
        "created_at": now,
        "thread_id": thread,
        "status": "completed",
        "incomplete_details": None,
        "completed_at": now,
        "incomplete_at": None,
        "role": body.role,
        "content": [
            text_block(block.text) if isinstance(block, TextBlock) else block.model_dump() for block in body.content
        ],
        "assistant_id": None,
        "run_id": None,
        "attachments": [],
        "metadata": {**(body.metadata or {})},
    }


def thread_object(body: CreateThread, now: int) -> JsonObject:
    """A new thread in wire form.

    Raises:
        ApiError: 501 for files.
    """
    check_no_files(body.tool_resources, "tool_resources")
    return {
        "id": new_id("thread"),
        "object": "thread",
        "created_at": now,
        "tool_resources": body.tool_resources or {},
        "metadata": {**(body.metadata or {})},
    }


def message_objects(thread: str, bodies: list[CreateMessage] | None, now: int, param: str) -> list[JsonObject]:
    """Several messages in wire form; an error names the one at fault below ``param``."""
    return [message_object(thread, body, now, f"{param}[{index}].content") for index, body in enumerate(bodies or ())]


def text_block(text: str) -> JsonObject:
    """Text content in wire form."""
    return {"type": "text", "text": {"value": text, "annotations": []}}
