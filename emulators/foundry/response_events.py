"""The response object while it grows, and the stream events that tell of it.

The order of events is what ``client.responses.stream()`` requires: created, in_progress, then for each output item
added, its parts or argument deltas, done; last exactly one of completed, incomplete, failed.
"""

from __future__ import annotations

import copy
import time

from pydantic import JsonValue

from emulators.foundry.items import call_item, new_id, text_part
from emulators.foundry.model import JsonObject, ModelError, Usage


class ResponseBuilder:
    """Turns model events into wire events, collected in `events` in order.

    ``response`` is the response object without output, status ``in_progress``; it is changed in place.
    """

    def __init__(self, response: JsonObject) -> None:
        self.response = response
        self.events: list[JsonObject] = []
        self._output: list[JsonObject] = []
        self._text: str | None = None
        self._message = -1
        self._calls: dict[int, int] = {}
        self._emit("response.created", response=copy.deepcopy(response))
        self._emit("response.in_progress", response=copy.deepcopy(response))

    @property
    def output(self) -> list[JsonObject]:
        """The output items; whole once a finishing method was called."""
        return self._output

    @property
    def produced_text(self) -> str:
        """All text that the model said so far."""
        return self._text or ""

    def text(self, delta: str) -> None:
        """More text of the message, which begins with the first of it."""
        if self._text is None:
            self._text = ""
            self._message = self._add(
                {"id": new_id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}
            )
            self._emit_part("response.content_part.added", part=text_part(""))
        self._text += delta
        self._emit_part("response.output_text.delta", delta=delta, logprobs=[])

    def call(self, index: int, name: str) -> None:
        """A function call begins; ``index`` is the model's number for it."""
        self._calls[index] = self._add(call_item(new_id("fc"), new_id("call"), name, "", "in_progress"))

    def arguments(self, index: int, delta: str) -> None:
        """More of the arguments of a call."""
        position = self._calls[index]
        item = self._output[position]
        item["arguments"] = f"{item['arguments']}{delta}"
        self._emit_item("response.function_call_arguments.delta", position, delta=delta)

    def complete(self, usage: Usage) -> None:
        """Close all items and the response."""
        self._close_items("completed")
        self.response["completed_at"] = int(time.time())
        self._end("completed", usage)

    def incomplete(self, reason: str, usage: Usage) -> None:
        """End early: text that came so far is kept, marked incomplete; half calls and filtered text are not."""
        kept = self._output if reason != "content_filter" else []
        self._output = [item for item in kept if item["type"] == "message"]
        self._calls.clear()
        self._message = 0
        if self._output:
            self._close_items("incomplete")
        self.response["incomplete_details"] = {"reason": reason}
        self._end("incomplete", usage)

    def fail(self, error: ModelError) -> None:
        """End with an error; nothing of the output is kept."""
        self._output = []
        self.response["error"] = {"code": error.code, "message": error.message}
        self._end("failed", None)

    def cancel(self) -> None:
        """End because someone asked to; nothing of the output is kept."""
        self._output = []
        self._end("cancelled", None)

    def _add(self, item: JsonObject) -> int:
        self._output.append(item)
        position = len(self._output) - 1
        self._emit("response.output_item.added", output_index=position, item=copy.deepcopy(item))
        return position

    def _close_items(self, status: str) -> None:
        for position, item in enumerate(self._output):
            item["status"] = status
            if position == self._message and self._text is not None:
                part = text_part(self._text)
                item["content"] = [part]
                self._emit_part("response.output_text.done", text=self._text, logprobs=[])
                self._emit_part("response.content_part.done", part=part)
            elif item["type"] == "function_call":
                self._emit_item("response.function_call_arguments.done", position, arguments=item["arguments"])
            self._emit("response.output_item.done", output_index=position, item=copy.deepcopy(item))

    def _end(self, status: str, usage: Usage | None) -> None:
        self.response["status"] = status
        self.response["output"] = [*self._output]
        if usage is not None:
            self.response["usage"] = {
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.input_tokens + usage.output_tokens,
            }
        # the wire has no event of its own for a cancelled response
        name = "incomplete" if status == "cancelled" else status
        self._emit(f"response.{name}", response=copy.deepcopy(self.response))

    def _emit_part(self, kind: str, **fields: JsonValue) -> None:
        self._emit_item(kind, self._message, content_index=0, **fields)

    def _emit_item(self, kind: str, position: int, **fields: JsonValue) -> None:
        self._emit(kind, output_index=position, item_id=self._output[position]["id"], **fields)

    def _emit(self, kind: str, **fields: JsonValue) -> None:
        self.events.append({"type": kind, "sequence_number": len(self.events), **fields})
