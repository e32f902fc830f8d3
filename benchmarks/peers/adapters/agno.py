"""agno: an `Agent` on a model class of its own kind, telemetry off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from agno.agent import Agent
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse

from benchmarks.peers.contract import ARGUMENTS, INSTRUCTIONS, REPLIES, TEXT, TOOL, Adapter

CALL = {"id": "call_1", "type": "function", "function": {"name": "echo", "arguments": ARGUMENTS}}


@dataclass
class Scripted(Model):
    """The script."""

    id: str = "scripted"

    async def ainvoke(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        assert kwargs["tools"]
        last = messages[-1]
        if last.role == "tool":
            return ModelResponse(role="assistant", content=str(last.content))
        if last.content == TOOL:
            return ModelResponse(role="assistant", tool_calls=[CALL])
        return ModelResponse(role="assistant", content=REPLIES[TEXT])

    def invoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise AssertionError("only awaited")

    def invoke_stream(self, *args: Any, **kwargs: Any) -> Iterator[ModelResponse]:
        raise AssertionError("nothing is streamed")

    def ainvoke_stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        raise AssertionError("nothing is streamed")

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        raise AssertionError("there is no provider")

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        raise AssertionError("there is no provider")


class Peer(Adapter):
    """The model is shared by the agents."""

    async def open(self) -> None:
        self._model = Scripted()
        self._agent = self.create()

    def create(self) -> Any:
        # As a coroutine: a plain function would be run in a thread.
        async def echo(text: str) -> str:
            """Answers at once."""
            return self.echo(text)

        return Agent(model=self._model, name="bench", instructions=INSTRUCTIONS, tools=[echo], telemetry=False)

    async def turn(self, text: str) -> str:
        return str((await self._agent.arun(text)).content)
