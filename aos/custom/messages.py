"""A history as the messages of one chat completion, and its answer as items of the history."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from aos.custom.faults import ModelRefused
from aos.custom.history import HistoryItem
from aos.foundry.values import whole

if TYPE_CHECKING:
    from agent_framework import ChatResponse, Content, Message

    from aos.kernel.ports import FunctionDefinition

WINDOW = 200_000
"""Characters of history that a step is given, about 50,000 tokens; older turns are left out, whole."""


def window(items: Sequence[HistoryItem], characters: int = WINDOW) -> list[HistoryItem]:
    """The newest whole turns that fit; the last one always.

    A turn begins with a user's message. The outputs right before that answer calls of the turn before: they go with it.
    """
    start = end = len(items)
    size = 0
    for index in range(len(items) - 1, -1, -1):
        if items[index].kind != "user":
            continue
        size += sum(map(_size, items[index:start]))
        if size > characters and start < end:
            break
        start = index
    # Without any message of a user, what was read begins within a very long turn.
    kept = items[start:] if start < end else items
    called = {item.call_id for item in kept if item.kind == "call"}
    return [item for item in kept if item.kind != "output" or item.call_id in called]


def _size(item: HistoryItem) -> int:
    return len(item.text) + len(item.name) + len(item.arguments)


def to_messages(items: Iterable[HistoryItem]) -> list[Message]:
    """Chat messages: text and calls of one step in one assistant message, outputs as tool messages."""
    from agent_framework import Content, Message

    messages: list[Message] = []
    answer: list[Content] = []

    def close() -> None:
        if answer:
            messages.append(Message(role="assistant", contents=list(answer)))
            answer.clear()

    for item in items:
        if item.kind == "text":
            answer.append(Content.from_text(item.text))
            continue
        if item.kind == "call":
            answer.append(
                Content.from_function_call(item.call_id, item.name, arguments=sound_arguments(item.arguments))
            )
            continue
        close()
        if item.kind == "user":
            messages.append(Message(role="user", contents=[Content.from_text(item.text)]))
        else:
            messages.append(
                Message(role="tool", contents=[Content.from_function_result(item.call_id, result=item.text)])
            )
    close()
    return messages


def sound_arguments(arguments: str) -> str:
    """The arguments of a past call, always a JSON object: chat templates parse them, and refuse every later step of a
    conversation in which the model once wrote something else."""
    try:
        if isinstance(json.loads(arguments), dict):
            return arguments
    except ValueError:
        pass
    return json.dumps({"unreadable": arguments[:1000]})


def answer_items(response: ChatResponse, used_ids: set[str], first: int) -> list[HistoryItem]:
    """The answer of the model as items.

    Args:
        used_ids: Call ids of the history: servers number calls anew with every request, but ours have to be unique.
        first: Number of the first item.

    Raises:
        ModelRefused: The content filter stopped the answer, or it is empty or cut off.
    """
    if response.finish_reason == "content_filter":
        raise ModelRefused("The content filter stopped the model's answer.", code="content_filter")
    contents = response.messages[0].contents
    text = "".join(content.text or "" for content in contents if content.type == "text")
    calls = [content for content in contents if content.type == "function_call"]
    if response.finish_reason == "length" and (calls or not text):
        raise ModelRefused("The model's answer is incomplete: it reached its longest length.", code="max_output_tokens")
    items: list[HistoryItem] = []
    if text or not calls:
        items.append(HistoryItem(number=first, kind="text", text=whole(text)))
    for content in calls:
        call_id = content.call_id or ""
        if not call_id or call_id in used_ids:
            call_id = f"call_{uuid.uuid4().hex[:24]}"
        used_ids.add(call_id)
        items.append(
            HistoryItem(
                number=first + len(items),
                kind="call",
                call_id=call_id,
                name=whole(content.name or ""),
                arguments=whole(_arguments(content)),
            )
        )
    return items


def tool_schemas(functions: Iterable[FunctionDefinition]) -> list[dict[str, object]]:
    """Declarations of tools for the request; nothing that Agent Framework could run."""
    return [
        {
            "type": "function",
            "function": {"name": f.name, "description": f.description, "parameters": dict(f.parameters)},
        }
        for f in functions
    ]


def _arguments(content: Content) -> str:
    arguments = content.arguments
    if isinstance(arguments, Mapping):
        return json.dumps(dict(arguments))
    # Servers send nothing for a function without parameters.
    return arguments or "{}"
