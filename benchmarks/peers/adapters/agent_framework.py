"""agent-framework-core: an `Agent` on a chat client with the layers that its own clients have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    Content,
    FunctionInvocationLayer,
    Message,
    tool,
)
from agent_framework.observability import ChatTelemetryLayer

from benchmarks.peers.contract import ARGUMENTS, INSTRUCTIONS, REPLIES, TEXT, TOOL, Adapter


class Bare(BaseChatClient):
    """The script."""

    async def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> ChatResponse:
        assert options["tools"]
        last = messages[-1]
        said = Content.from_text(REPLIES[TEXT])
        if last.role == "tool":
            said = Content.from_text(str(last.contents[0].result))
        elif last.text == TOOL:
            said = Content.from_function_call("call_1", "echo", arguments=ARGUMENTS)
        return ChatResponse(messages=[Message("assistant", [said])])


class Scripted(FunctionInvocationLayer, ChatMiddlewareLayer, ChatTelemetryLayer, Bare):
    """The script as a client that is ready for use."""

    OTEL_PROVIDER_NAME = "scripted"


class Peer(Adapter):
    """Client and tool are shared by the agents."""

    async def open(self) -> None:
        self._client = Scripted()

        @tool(approval_mode="never_require")
        def echo(text: str) -> str:
            """Answers at once."""
            return self.echo(text)

        self._tools = [echo]
        self._agent = self.create()

    def create(self) -> Agent:
        return Agent(self._client, INSTRUCTIONS, name="bench", tools=self._tools)

    async def turn(self, text: str) -> str:
        return str((await self._agent.run(text)).text)
