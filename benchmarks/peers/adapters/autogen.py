"""autogen-core: a `RoutedAgent` on the `SingleThreadedAgentRuntime`; its tool is an agent that it sends a message."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass

from autogen_core import (
    AgentId,
    AgentInstantiationContext,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    message_handler,
)

from benchmarks.peers.contract import ARGUMENTS, INSTRUCTIONS, REPLIES, TEXT, TOOL, Adapter

TOOLS = AgentId("tools", "default")
BENCH = AgentId("bench", "default")


@dataclass
class Said:
    """A message to the agent, and its reply."""

    text: str


@dataclass
class Call:
    """A message to the agent that is the tool."""

    name: str
    arguments: str


async def model(instructions: str, said: list[str]) -> str | Call:
    """The script: the core has no model of its own."""
    assert instructions
    if len(said) > 1:
        return said[-1]
    return Call("echo", ARGUMENTS) if said[0] == TOOL else REPLIES[TEXT]


class Tools(RoutedAgent):
    """The tool."""

    def __init__(self, echo: Callable[[str], str]) -> None:
        super().__init__("The tools of the agent.")
        self._functions = {"echo": echo}

    @message_handler
    async def call(self, message: Call, ctx: MessageContext) -> Said:
        return Said(self._functions[message.name](json.loads(message.arguments)["text"]))


class Bench(RoutedAgent):
    """The agent: asks the model until it answers."""

    def __init__(self) -> None:
        super().__init__("An agent with one tool.")

    @message_handler
    async def take(self, message: Said, ctx: MessageContext) -> Said:
        said = [message.text]
        while isinstance(answer := await model(INSTRUCTIONS, said), Call):
            result = await self.send_message(answer, TOOLS, cancellation_token=ctx.cancellation_token)
            said.append(result.text)
        return Said(answer)


class Peer(Adapter):
    """The runtime makes an agent when the first message for its id comes."""

    def __init__(self) -> None:
        super().__init__()
        self._made = itertools.count(1)

    async def open(self) -> None:
        self._runtime = SingleThreadedAgentRuntime()
        await Bench.register(self._runtime, BENCH.type, Bench)
        await Tools.register(self._runtime, TOOLS.type, self._tools)
        self._runtime.start()

    def create(self) -> object:
        """Both agents, made as the runtime does it."""
        key = str(next(self._made))
        with AgentInstantiationContext.populate_context((self._runtime, AgentId(TOOLS.type, key))):
            tools = self._tools()
        with AgentInstantiationContext.populate_context((self._runtime, AgentId(BENCH.type, key))):
            return Bench(), tools

    async def turn(self, text: str) -> str:
        reply = await self._runtime.send_message(Said(text), BENCH)
        return str(reply.text)

    async def close(self) -> None:
        await self._runtime.stop_when_idle()
        await self._runtime.close()

    def _tools(self) -> Tools:
        return Tools(self.echo)
