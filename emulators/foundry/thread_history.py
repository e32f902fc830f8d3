"""A thread as a model reads it, cut to what fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from pydantic import JsonValue

from emulators.foundry.model import (
    Called,
    JsonObject,
    ModelError,
    ModelRequest,
    Returned,
    Said,
    Turn,
    count_tokens,
    input_tokens,
    turn_text,
)
from emulators.foundry.tool_definitions import functions


class PromptBudgetSpent(Exception):
    """Not even the last message fits into ``max_prompt_tokens``."""


def model_request(
    run: JsonObject, steps: list[JsonObject], own: Iterable[JsonObject], newest: Iterable[JsonObject], window: int
) -> ModelRequest:
    """What a run asks of its model next.

    The model reads the messages of the thread, then what this run has done so far in its order; calls of earlier runs
    are not part of the thread. ``own`` are messages of this run, ``newest`` all of the thread, the newest first: no
    more of them are taken than fit. ``window`` counts tokens.

    Raises:
        ModelError: ``context_length_exceeded``, if even the newest message does not fit.
        PromptBudgetSpent: the same, by the run's own ``max_prompt_tokens``.
    """
    spent_in, spent_out = tokens_used(steps)
    limit, budget = run["max_completion_tokens"], run["max_prompt_tokens"]
    request = ModelRequest(
        deployment=str(run["model"]),
        instructions=str(run["instructions"]),
        tools=functions(run["tools"]),
        tool_choice=_choice(run["tool_choice"]),
        parallel_calls=run["parallel_tool_calls"] is not False,
        temperature=_number(run["temperature"]),
        top_p=_number(run["top_p"]),
        max_output_tokens=max(limit - spent_out, 1) if isinstance(limit, int) else None,
        json_schema=_schema(run["response_format"]),
    )
    done = tuple(_done(steps, {str(message["id"]): message for message in own}))
    room = window if not isinstance(budget, int) else min(window, budget - spent_in)
    room -= input_tokens(replace(request, history=done))
    said: list[Said] = []
    for message in _wanted(run, newest):
        turn = _said(message)
        room -= count_tokens(turn_text(turn))
        if room < 0:
            break
        said.append(turn)
    if room < 0 and not said:
        if isinstance(budget, int) and budget - spent_in < window:
            raise PromptBudgetSpent
        text = f"The thread exceeds the context window of {window} tokens of this model."
        raise ModelError("context_length_exceeded", text)
    return replace(request, history=(*reversed(said), *done))


def _wanted(run: JsonObject, newest: Iterable[JsonObject]) -> Iterable[JsonObject]:
    earlier = (message for message in newest if message["run_id"] != run["id"])
    match run["truncation_strategy"]:
        case {"type": "last_messages", "last_messages": int(count)}:
            return islice(earlier, count)
    return earlier


def tokens_used(steps: Iterable[JsonObject]) -> tuple[int, int]:
    """Tokens that the steps of a run have read and written so far."""
    read = written = 0
    for step in steps:
        match step["usage"]:
            case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
                read += prompt
                written += completion
    return read, written


def written_messages(steps: Iterable[JsonObject]) -> list[str]:
    """Ids of the messages that these steps wrote."""
    found: list[str] = []
    for step in steps:
        match step["step_details"]:
            case {"message_creation": {"message_id": str(message_id)}}:
                found.append(message_id)
    return found


def _said(message: JsonObject) -> Said:
    return Said("assistant" if message["role"] == "assistant" else "user", message_text(message))


def message_text(message: JsonObject) -> str:
    """All text of a message; other content shows as its type in brackets."""
    texts: list[str] = []
    content = message["content"]
    for block in content if isinstance(content, list) else ():
        match block:
            case {"text": {"value": str(text)}}:
                texts.append(text)
            case {"type": str(kind)}:
                texts.append(f"[{kind}]")
    return "\n".join(texts)


def _done(steps: list[JsonObject], messages: dict[str, JsonObject]) -> Iterable[Turn]:
    for step in steps:
        match step["step_details"]:
            case {"message_creation": {"message_id": str(message_id)}} if message_id in messages:
                yield _said(messages[message_id])
            case {"tool_calls": list(calls)}:
                yield from _calls(calls)


def _calls(calls: list[JsonValue]) -> Iterable[Turn]:
    returned: list[Turn] = []
    for call in calls:
        match call:
            case (
                {
                    "id": str(call_id),
                    "function": {"name": str(name), "arguments": str(arguments), "output": output},
                }
                | {
                    "id": str(call_id),
                    "azure_function": {"name": str(name), "arguments": str(arguments), "output": output},
                }
                | {
                    "id": str(call_id),
                    "connected_agent": {"name": str(name), "arguments": str(arguments), "output": output},
                }
            ):
                yield Called(call_id, name, arguments)
                returned.append(Returned(call_id, output if isinstance(output, str) else ""))
    yield from returned


def _choice(choice: JsonValue) -> str:
    match choice:
        case str():
            return choice
        case {"function": {"name": str(name)}}:
            return name
    return "auto"


def _schema(response_format: JsonValue) -> JsonObject | None:
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_object"}:
            return {"type": "object"}
    return None


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) else None
