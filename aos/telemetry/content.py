"""What was said, and what tools were given and answered: recorded only where that is switched on.

The switch is the one of the OpenTelemetry GenAI conventions, which know `true` and, since there are events,
`SPAN_ONLY`, `EVENT_ONLY` and `SPAN_AND_EVENT`. AOS writes spans.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from aos.kernel.types import ModelReply, ToolOutput

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
LONGEST = 8192
"""Characters of one text that are recorded."""


def captured() -> bool:
    """Whether content is recorded in this process."""
    return os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").strip().upper() in (
        "TRUE",
        "SPAN_ONLY",
        "SPAN_AND_EVENT",
    )


def cut(text: str) -> str:
    """The text, or its beginning."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [...]"


def input_messages(text: str | None, outputs: Sequence[ToolOutput]) -> str:
    """`gen_ai.input.messages`: what a model step is given."""
    messages: list[dict[str, object]] = [
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": o.call_id, "response": cut(o.output)}]}
        for o in outputs
    ]
    if text is not None:
        messages.append({"role": "user", "parts": [{"type": "text", "content": cut(text)}]})
    return json.dumps(messages, ensure_ascii=False)


def output_messages(reply: ModelReply, finish_reason: str) -> str:
    """`gen_ai.output.messages`: what it brought."""
    parts: list[dict[str, object]] = [
        {"type": "tool_call", "id": call.call_id, "name": call.name, "arguments": cut(call.arguments)}
        for call in reply.calls
    ]
    if reply.text:
        parts.insert(0, {"type": "text", "content": cut(reply.text)})
    message = {"role": "assistant", "parts": parts, "finish_reason": finish_reason}
    return json.dumps([message], ensure_ascii=False)
