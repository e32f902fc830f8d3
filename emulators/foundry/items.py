"""Conversation items: parsed at the edge, kept in wire form, read as turns of the model port."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from emulators.foundry.errors import ApiError
from emulators.foundry.model import Called, JsonObject, Returned, Said, Turn


def new_id(prefix: str) -> str:
    """An id of the service's form, such as ``conv_`` and 32 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(16)}"


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class TextPart(_Part):
    """Text that was put in or came out."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(_Part):
    """A model's refusal."""

    type: Literal["refusal"]
    refusal: str


class MediaPart(_Part):
    """An image or file: kept, but no model here looks at it."""

    type: Literal["input_image", "input_file"]


Part = Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")]


def _text_as_part(content: object) -> object:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


class MessageItem(BaseModel):
    """A message; the type may be left out, and content may be a plain string."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[list[Part], BeforeValidator(_text_as_part)]


class FunctionCallItem(BaseModel):
    """A call that a model made, replayed by the client."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1)
    arguments: str


class FunctionCallOutputItem(BaseModel):
    """The answer to a call."""

    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str = Field(min_length=1, max_length=64)
    output: str | list[Part]


def _item_type(value: object) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", "message")
    return str(kind)


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")],
    Discriminator(_item_type),
]


def _text_as_message(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


Input = Annotated[list[InputItem], BeforeValidator(_text_as_message)]
"""A list of items; a plain string is one message of the user."""


def wire_item(item: MessageItem | FunctionCallItem | FunctionCallOutputItem) -> JsonObject:
    """The item as it is stored and listed: with an id and a status, text content as parts."""
    match item:
        case MessageItem():
            return {
                "id": new_id("msg"),
                "type": "message",
                "role": item.role,
                "status": "completed",
                "content": [*_content(item)],
            }
        case FunctionCallItem():
            return call_item(new_id("fc"), item.call_id, item.name, item.arguments)
        case FunctionCallOutputItem():
            output = item.output
            return {
                "id": new_id("fco"),
                "type": "function_call_output",
                "call_id": item.call_id,
                "output": output if isinstance(output, str) else [part.model_dump() for part in output],
                "status": "completed",
            }


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str = "completed") -> JsonObject:
    """A function call in wire form."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def text_part(text: str) -> JsonObject:
    """Output text in wire form."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _content(item: MessageItem) -> list[JsonObject]:
    parts: list[JsonObject] = []
    for part in item.content:
        if not isinstance(part, TextPart):
            parts.append(part.model_dump())
        elif item.role == "assistant":
            parts.append(text_part(part.text))
        else:
            parts.append({"type": "input_text", "text": part.text})
    return parts


def turns(items: Iterable[JsonObject]) -> tuple[Turn, ...]:
    """Stored items as a model reads them."""
    return tuple(_turn(item) for item in items)


def _turn(item: JsonObject) -> Turn:
    match item:
        case {
            "type": "function_call" | "azure_function_call",
            "call_id": str(call_id),
            "name": str(name),
            "arguments": str(arguments),
        }:
            return Called(call_id, name, arguments)
        case {
            "type": "function_call_output" | "azure_function_call_output",
            "call_id": str(call_id),
            "output": output,
        }:
            return Returned(call_id, _plain(output))
        case {"role": "assistant", "content": content}:
            return Said("assistant", _plain(content))
        case {"role": "user", "content": content}:
            return Said("user", _plain(content))
        case {"content": content}:
            return Said("system", _plain(content))
    raise ValueError(f"stored item {item.get('id')} has an unknown form")


def _plain(content: object) -> str:
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content if isinstance(content, list) else []:
        match part:
            case {"text": str(text)} | {"refusal": str(text)}:
                texts.append(text)
            case {"type": str(kind)}:
                texts.append(f"[{kind}]")
    return "\n".join(texts)


def check_pairing(history: Sequence[JsonObject], new: Sequence[JsonObject], *, settle: bool) -> None:
    """Refuse outputs without a call and, when ``settle``, calls without an output.

    Raises:
        ApiError: 400 with the service's wording.
    """
    called: dict[str, None] = {}  # ordered
    answered: set[str] = set()
    for position, item in enumerate((*history, *new)):
        call_id = str(item.get("call_id"))
        if item["type"] == "function_call":
            called[call_id] = None
        elif item["type"] == "function_call_output":
            fresh = position >= len(history)
            if fresh and call_id not in called:
                message = f"No tool call found for function call output with call_id {call_id}."
                raise ApiError(400, "invalid_payload", message, param="input")
            if fresh and call_id in answered:
                message = f"The function call with call_id {call_id} already has an output."
                raise ApiError(400, "duplicate_function_call_output", message, param="input")
            answered.add(call_id)
    open_calls = [call_id for call_id in called if call_id not in answered]
    if settle and open_calls:
        message = f"No tool output found for function call {open_calls[0]}."
        raise ApiError(400, "invalid_payload", message, param="input")
