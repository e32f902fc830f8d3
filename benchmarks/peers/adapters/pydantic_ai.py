"""pydantic-ai: an `Agent` on its `FunctionModel`."""

from __future__ import annotations

import json
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from benchmarks.peers.contract import ARGUMENTS, INSTRUCTIONS, REPLIES, TEXT, TOOL, Adapter


async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """The script."""
    assert info.function_tools
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse(parts=[TextPart(str(last.content))])
    if isinstance(last, UserPromptPart) and last.content == TOOL:
        return ModelResponse(parts=[ToolCallPart("echo", json.loads(ARGUMENTS), tool_call_id="call_1")])
    return ModelResponse(parts=[TextPart(REPLIES[TEXT])])


class Peer(Adapter):
    """The model is shared by the agents."""

    async def open(self) -> None:
        self._model = FunctionModel(answer)
        self._agent = self.create()

    def create(self) -> Any:
        # As a coroutine: a plain function would be run in a thread.
        async def echo(text: str) -> str:
            """Answers at once."""
            return self.echo(text)

        return Agent(self._model, instructions=INSTRUCTIONS, tools=[echo])

    async def turn(self, text: str) -> str:
        return str((await self._agent.run(text)).output)
