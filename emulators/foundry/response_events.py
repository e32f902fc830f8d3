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

SERVED = "azure_function_call"
"""The type of items that are calls of the service's own; their outputs have a type of their own, too."""


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
        self._begun = 0
        self._emit("response.created", response=copy.deepcopy(response))
        self._emit("response.in_progress", response=copy.deepcopy(response))

    @property
    def output(self) -> list[JsonObject]:
        """The output items; whole once a finishing method was called."""
        return self._output

    @property
    def step_output(self) -> list[JsonObject]:
        """The items of the model step that goes on, or that ended last."""
        return self._output[self._begun :]

    @property
    def produced_text(self) -> str:
        """All text that the model said so far in this step."""
        return self._text or ""

    def begin_step(self) -> None:
        """The model is asked again, given what it has said and the results of calls that the service made."""
        self._begun = len(self._output)
        self._text, self._message = None, -1
        self._calls.clear()

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

    def call(self, index: int, name: str, *, served: bool = False) -> None:
        """A function call begins; ``index`` is the model's number for it. ``served``: the service makes it itself."""
        item = call_item(new_id("azf" if served else "fc"), new_id("call"), name, "", "in_progress")
        if served:
            item["type"] = SERVED
        self._calls[index] = self._add(item)

    def arguments(self, index: int, delta: str) -> None:
        """More of the arguments of a call."""
        position = self._calls[index]
        item = self._output[position]
        item["arguments"] = f"{item['arguments']}{delta}"
        if item["type"] != SERVED:
            self._emit_item("response.function_call_arguments.delta", position, delta=delta)

    def end_step(self) -> list[JsonObject]:
        """The model has said all it had to: its items are closed.

        Returns:
            The calls among them that the service makes itself; `returned` takes their outputs.
        """
        self._close_items("completed")
        return [item for item in self.step_output if item["type"] == SERVED]

    def returned(self, call: JsonObject, output: str) -> None:
        """A call of the service's own has its output."""
        item: JsonObject = {
            "id": new_id("azfo"),
            "type": f"{SERVED}_output",
            "call_id": call["call_id"],
            "name": call["name"],
            "output": output,
            "status": "completed",
        }
        position = self._add(item)
        self._emit("response.output_item.done", output_index=position, item=copy.deepcopy(item))

    def complete(self, usage: Usage) -> None:
        """Close the response, all of whose items are closed."""
        self.response["completed_at"] = int(time.time())
        self._end("completed", usage)

    def incomplete(self, reason: str, usage: Usage) -> None:
        """End early: text that came so far is kept, marked incomplete; half calls and filtered text are not."""
        kept = [item for item in self.step_output if item["type"] == "message" and reason != "content_filter"]
        self._output[self._begun :] = kept
        self._calls.clear()
        self._message = self._begun
        if kept:
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
        for position, item in enumerate(self.step_output, self._begun):
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
