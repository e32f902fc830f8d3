"""openai-agents: an `Agent` run by `Runner`, tracing off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, Usage, function_tool, set_tracing_disabled
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from benchmarks.peers.contract import ARGUMENTS, INSTRUCTIONS, REPLIES, TEXT, TOOL, Adapter


def message(text: str) -> ResponseOutputMessage:
    """What the model says."""
    said = ResponseOutputText(annotations=[], text=text, type="output_text")
    return ResponseOutputMessage(id="msg_1", content=[said], role="assistant", status="completed", type="message")


class Scripted(Model):
    """The script."""

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[Any],
        model_settings: Any,
        tools: list[Any],
        *args: Any,
        **kwargs: Any,
    ) -> ModelResponse:
        assert tools
        last: Any = {"content": input} if isinstance(input, str) else input[-1]
        said: Any = message(REPLIES[TEXT])
        if last.get("type") == "function_call_output":
            said = message(last["output"])
        elif last["content"] == TOOL:
            said = ResponseFunctionToolCall(arguments=ARGUMENTS, call_id="call_1", name="echo", type="function_call")
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise AssertionError("nothing is streamed")


class Peer(Adapter):
    """Model and tool are shared by the agents."""

    async def open(self) -> None:
        set_tracing_disabled(True)
        self._model = Scripted()

        # As a coroutine: a plain function would be run in a thread.
        @function_tool
        async def echo(text: str) -> str:
            """Answers at once."""
            return self.echo(text)

        self._tools = [echo]
        self._agent = self.create()

    def create(self) -> Any:
        return Agent(name="bench", instructions=INSTRUCTIONS, tools=self._tools, model=self._model)

    async def turn(self, text: str) -> str:
        return str((await Runner.run(self._agent, text)).final_output)
