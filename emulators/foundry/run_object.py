"""A run as it begins, in the wire form of the threads protocol."""

from __future__ import annotations

import math

from emulators.foundry.items import new_id
from emulators.foundry.model import JsonObject
from emulators.foundry.thread_bodies import RunSettings


def run_object(
    body: RunSettings, assistant: JsonObject, thread_id: str, additional: str | None, now: float, expiry: float
) -> JsonObject:
    """A queued run; what the body does not say is the assistant's.

    ``additional`` instructions come after the others; ``now`` is Unix seconds, ``expiry`` the run's life in seconds.
    """
    instructions = str(assistant["instructions"] or "") if body.instructions is None else body.instructions
    given: JsonObject = body.model_dump(mode="json")
    return {
        "id": new_id("run"),
        "object": "thread.run",
        "created_at": int(now),
        "thread_id": thread_id,
        "assistant_id": assistant["id"],
        "status": "queued",
        "required_action": None,
        "last_error": None,
        "expires_at": math.ceil(now + expiry),
        "started_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "incomplete_details": None,
        "model": body.model or assistant["model"],
        "instructions": "\n".join(text for text in (instructions, additional) if text),
        "tools": [*body.tools] if body.tools is not None else assistant["tools"],
        "tool_resources": given["tool_resources"] or assistant["tool_resources"],
        "temperature": assistant["temperature"] if body.temperature is None else body.temperature,
        "top_p": assistant["top_p"] if body.top_p is None else body.top_p,
        "max_prompt_tokens": body.max_prompt_tokens,
        "max_completion_tokens": body.max_completion_tokens,
        "truncation_strategy": given["truncation_strategy"] or {"type": "auto", "last_messages": None},
        "tool_choice": given["tool_choice"] or "auto",
        "response_format": given["response_format"] or assistant["response_format"],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "usage": None,
        "metadata": {**(body.metadata or {})},
    }
