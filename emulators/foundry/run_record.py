"""A run of the threads protocol while it changes: its object, its steps and messages, and the events that tell of it.

Every change is stored before its event is shown, so nothing is streamed that a crash could take back. Events in the
order of the service: run created, queued, in_progress; per step created, in_progress, its message or call deltas,
completed; last what the run came to. A step of calls completes with the outputs submitted for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from emulators.foundry.azure_functions import AzureFunction, azure_functions
from emulators.foundry.connected_agents import ConnectedAgent, connected_agents
from emulators.foundry.items import new_id
from emulators.foundry.model import JsonObject, Usage
from emulators.foundry.thread_bodies import text_block
from emulators.foundry.thread_history import tokens_used
from emulators.foundry.thread_state import ThreadState

ENDED = ("completed", "failed", "cancelled", "expired", "incomplete")


@dataclass(slots=True)
class Call:
    """A call of the model; ``served``: the service makes it itself. ``run``: of a connected agent, its run."""

    id: str
    name: str
    arguments: str = ""
    served: AzureFunction | ConnectedAgent | None = None
    output: str | None = None
    run: JsonObject | None = None

    @property
    def kind(self) -> str:
        """The type of the call, and the key of what it holds."""
        match self.served:
            case AzureFunction():
                return "azure_function"
            case ConnectedAgent():
                return "connected_agent"
        return "function"

    def content(self) -> JsonObject:
        """The call as a step shows it."""
        content: JsonObject = {"name": self.name, "arguments": self.arguments, "output": self.output}
        if isinstance(self.served, ConnectedAgent):
            content["agent_id"] = self.served.id
        if self.run is not None:
            content |= {"run_id": self.run["id"], "thread_id": self.run["thread_id"]}
        return content


class RunRecord:
    """One run from its creation, or from a submission of tool outputs, to where it stops.

    ``run`` is changed in place; ``events`` are pairs of a name and its data. ``clock`` gives Unix seconds.
    """

    def __init__(self, store: ThreadState, run: JsonObject, clock: Callable[[], float]) -> None:
        self.run = run
        self.events: list[tuple[str, JsonObject]] = []
        self._store = store
        self._clock = clock
        self._run_id = str(run["id"])
        self._thread_id = str(run["thread_id"])
        self._message: JsonObject | None = None
        self._message_step: JsonObject | None = None
        self._text = ""
        self._calls: dict[int, Call] = {}
        self._served: dict[str, AzureFunction | ConnectedAgent] = {
            **azure_functions(run["tools"]),
            **connected_agents(run["tools"]),
        }
        self._calls_step: JsonObject | None = None

    @property
    def status(self) -> str:
        """The status of the run."""
        return str(self.run["status"])

    @property
    def produced(self) -> str:
        """All that the model has written in this step."""
        return " ".join((self._text, *(f"{call.name} {call.arguments}" for call in self._calls.values())))

    def created(self) -> None:
        """Tell of a run that has just been stored."""
        self._emit("thread.run.created", self.run)
        self._emit("thread.run.queued", self.run)

    def outputs(self, outputs: Mapping[str, str]) -> None:
        """Take the outputs of all open calls: their step is completed, the run is queued again."""
        changed: list[JsonObject] = []
        for step in self._open_steps():
            match step["step_details"]:
                case {"tool_calls": list(calls)}:
                    for call in calls:
                        match call:
                            case {"id": str(call_id), "function": dict(function)}:
                                function["output"] = outputs[call_id]
            step.update(status="completed", completed_at=self._now())
            changed.append(step)
        self.run.update(status="queued", required_action=None)
        self._store.put(*changed, self.run)
        for step in changed:
            self._emit("thread.run.step.completed", step)
        self._emit("thread.run.queued", self.run)

    def begin(self) -> None:
        """The run is being worked on."""
        self.run["status"] = "in_progress"
        if self.run["started_at"] is None:
            self.run["started_at"] = self._now()
        self._store.put(self.run)
        self._emit("thread.run.in_progress", self.run)

    # What the model says

    def text(self, delta: str) -> None:
        """More text of the message, which begins with the first of it."""
        if self._message is None:
            self._begin_message()
        self._text += delta
        content: JsonValue = [{"index": 0, "type": "text", "text": {"value": delta}}]
        self._emit_delta("thread.message.delta", self._message, {"role": "assistant", "content": content})

    def call(self, index: int, name: str) -> None:
        """A function call begins; ``index`` is the model's number for it."""
        call = self._calls[index] = Call(new_id("call"), name, served=self._served.get(name))
        if self._calls_step is None:
            self._calls_step = self._begin_step("tool_calls", {"type": "tool_calls", "tool_calls": []})
        self._emit_call(index, {"id": call.id}, {"name": name, "arguments": "", "output": None})

    def arguments(self, index: int, delta: str) -> None:
        """More of the arguments of a call."""
        self._calls[index].arguments += delta
        self._emit_call(index, {}, {"arguments": delta})

    def finish_step(self, usage: Usage) -> list[Call]:
        """The model has said all it had to: the run is completed, or waits for the outputs of its calls.

        Returns:
            Calls that the service makes itself; `served` takes their outputs, and only then does the run go on.
        """
        wire = _usage(usage.input_tokens, usage.output_tokens)
        self._close_message("completed", None, None if self._calls else wire)
        if self._calls_step is None:
            self.end("completed")
            return []
        self._calls_step["usage"] = wire
        own = [call for call in self._calls.values() if call.served is not None]
        if own:
            self._store.put(self._show_calls(self._calls_step))
        else:
            self._require_action(self._calls_step)
        return own

    def began(self) -> None:
        """A call of the service's own has a run: shown while it goes on."""
        if self._calls_step is not None:
            self._store.put(self._show_calls(self._calls_step))

    def served(self) -> bool:
        """The service's own calls have their outputs. True: the model goes on; else the run waits for the others."""
        step = self._calls_step
        if step is None:
            raise RuntimeError("no calls were made")
        if any(call.served is None for call in self._calls.values()):
            self._require_action(step)
            return False
        self._show_calls(step).update(status="completed", completed_at=self._now())
        self._store.put(step)
        self._emit("thread.run.step.completed", step)
        self._calls_step, self._text = None, ""
        self._calls.clear()
        return True

    def _show_calls(self, step: JsonObject) -> JsonObject:
        shown: list[JsonValue] = [
            {"id": call.id, "type": call.kind, call.kind: call.content()} for call in self._calls.values()
        ]
        step["step_details"] = {"type": "tool_calls", "tool_calls": shown}
        return step

    def _require_action(self, step: JsonObject) -> None:
        calls: list[JsonValue] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self._calls.values()
            if call.served is None
        ]
        action: JsonObject = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
        self.run.update(status="requires_action", required_action=action)
        self._store.put(self._show_calls(step), self.run)
        self._emit("thread.run.requires_action", self.run)

    # How a run ends

    def cut_short(self, reason: str, usage: Usage) -> None:
        """End as ``incomplete``: text that came so far is kept. ``reason`` is one of the service's two limits."""
        wire = _usage(usage.input_tokens, usage.output_tokens)
        if self._calls_step is not None:
            self._calls_step["usage"] = wire
            self._store.put(self._calls_step)
        self._close_message("incomplete", "max_tokens", None if self._calls_step is not None else wire)
        self._close_open("cancelled", "max_tokens")
        self.end("incomplete", incomplete=reason)

    def fail(self, code: str, message: str) -> None:
        """End with ``last_error``; what is open fails with it."""
        self.run["last_error"] = {"code": code, "message": message}
        reason = "content_filter" if code == "content_filter" else "run_failed"
        self._close_message("incomplete", reason, None, close_step=False)
        step_code = code if code == "rate_limit_exceeded" else "server_error"
        self._close_open("failed", reason, {"code": step_code, "message": message})
        self.end("failed")

    def cancelling(self) -> None:
        """Someone asked for the end."""
        self.run["status"] = "cancelling"
        self._store.put(self.run)
        self._emit("thread.run.cancelling", self.run)

    def cancel(self) -> None:
        """End because someone asked for it."""
        self._close_message("incomplete", "run_cancelled", None, close_step=False)
        self._close_open("cancelled", "run_cancelled")
        self.end("cancelled")

    def expire(self) -> None:
        """End because the time of the run is over."""
        self.run["last_error"] = {"code": "run_expired", "message": "The run expired before it was completed."}
        self._close_message("incomplete", "run_expired", None, close_step=False)
        self._close_open("expired", "run_expired")
        self.end("expired")

    def end(self, status: str, *, incomplete: str | None = None) -> None:
        """Write the last state of the run, with the tokens of all its steps."""
        moment = {"completed": "completed_at", "failed": "failed_at", "cancelled": "cancelled_at"}.get(status)
        if moment is not None:
            self.run[moment] = self._now()
        if status != "expired":
            self.run["expires_at"] = None
        if incomplete is not None:
            self.run["incomplete_details"] = {"reason": incomplete}
        spent = tokens_used(self._store.all("step", self._run_id))
        self.run.update(status=status, required_action=None, usage=_usage(*spent))
        self._store.put(self.run)
        self._emit(f"thread.run.{status}", self.run)

    # Parts

    def _begin_message(self) -> None:
        message: JsonObject = {
            "id": new_id("msg"),
            "object": "thread.message",
            "created_at": self._now(),
            "thread_id": self._thread_id,
            "status": "in_progress",
            "incomplete_details": None,
            "completed_at": None,
            "incomplete_at": None,
            "role": "assistant",
            "content": [],
            "assistant_id": self.run["assistant_id"],
            "run_id": self._run_id,
            "attachments": [],
            "metadata": {},
        }
        details: JsonObject = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
        self._store.add("message", self._thread_id, message)
        self._message = message
        self._message_step = self._begin_step("message_creation", details)
        self._emit("thread.message.created", message)
        self._emit("thread.message.in_progress", message)

    def _close_message(
        self, status: str, reason: str | None, usage: JsonObject | None, *, close_step: bool = True
    ) -> None:
        message, step = self._message, self._message_step
        if message is None or step is None:
            return
        self._message = self._message_step = None
        if reason != "content_filter":
            message["content"] = [text_block(self._text)]
        if reason is not None:
            message["incomplete_details"] = {"reason": reason}
        message.update({"status": status, f"{status}_at": self._now()})
        if close_step:
            step.update(status="completed", completed_at=self._now(), usage=usage)
        self._store.put(message, step)
        self._emit(f"thread.message.{status}", message)
        if close_step:
            self._emit("thread.run.step.completed", step)

    def _begin_step(self, kind: str, details: JsonObject) -> JsonObject:
        step: JsonObject = {
            "id": new_id("step"),
            "object": "thread.run.step",
            "created_at": self._now(),
            "run_id": self._run_id,
            "assistant_id": self.run["assistant_id"],
            "thread_id": self._thread_id,
            "type": kind,
            "status": "in_progress",
            "cancelled_at": None,
            "completed_at": None,
            "expired_at": None,
            "failed_at": None,
            "last_error": None,
            "step_details": details,
            "usage": None,
            "metadata": {},
        }
        self._store.add("step", self._run_id, step)
        self._emit("thread.run.step.created", step)
        self._emit("thread.run.step.in_progress", step)
        return step

    def _open_steps(self) -> list[JsonObject]:
        return [step for step in self._store.all("step", self._run_id) if step["status"] == "in_progress"]

    def _close_open(self, status: str, reason: str, error: JsonObject | None = None) -> None:
        for step in self._open_steps():
            match step["step_details"]:
                case {"message_creation": {"message_id": str(message_id)}}:
                    self._give_up(message_id, reason)
            step.update({"status": status, f"{status}_at": self._now(), "last_error": error})
            self._store.put(step)
            self._emit(f"thread.run.step.{status}", step)

    def _give_up(self, message_id: str, reason: str) -> None:
        # left half said by a process that died: its text was never stored
        message = self._store.get("message", self._thread_id, message_id)
        if message is not None and message["status"] == "in_progress":
            message.update(status="incomplete", incomplete_at=self._now(), incomplete_details={"reason": reason})
            self._store.put(message)
            self._emit("thread.message.incomplete", message)

    def _emit_call(self, index: int, fields: JsonObject, function: JsonObject) -> None:
        kind = self._calls[index].kind
        calls: JsonValue = [{"index": index, "type": kind, **fields, kind: function}]
        details: JsonObject = {"step_details": {"type": "tool_calls", "tool_calls": calls}}
        self._emit_delta("thread.run.step.delta", self._calls_step, details)

    def _emit_delta(self, name: str, of: JsonObject | None, delta: JsonObject) -> None:
        if of is None:
            raise RuntimeError(f"{name} before its object")
        self._emit(name, {"id": of["id"], "object": name, "delta": delta})

    def _emit(self, name: str, data: JsonObject) -> None:
        self.events.append((name, copy.deepcopy(data)))

    def _now(self) -> int:
        return int(self._clock())


def _usage(read: int, written: int) -> JsonObject:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
