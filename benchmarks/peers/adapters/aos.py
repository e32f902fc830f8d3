"""AOS's kernel with an agent as its directory binds it; conversations, operations and outbox in memory."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

from aos.agents.definition import AgentDefinition
from aos.agents.directory import BoundAgent
from aos.kernel.kernel import Kernel
from aos.kernel.ports import ConversationStore
from aos.kernel.types import AgentRef, ConversationKey, Message, Outgoing, ToolResult
from aos.mcp.functions import ToolSource, convert_mcp_tools_to_function_tools
from aos.mcp.tools import ToolInfo
from aos.storage.memory import MemoryConversations
from benchmarks.peers.contract import INSTRUCTIONS, Adapter
from benchmarks.world import NEVER, REF, InstantModel

ECHO = ToolInfo(
    name="echo",
    description="Answers at once.",
    input_schema={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)


class Agents:
    """A directory of one agent, which is bound already."""

    def __init__(self, agent: BoundAgent) -> None:
        self._agent = agent

    async def bind(self, agent_id: str) -> BoundAgent:
        return self._agent

    async def bound_to(self, agent_id: str, ref: AgentRef) -> BoundAgent:
        return self._agent

    async def forget(self, agent_id: str) -> None:
        raise AssertionError("the model knows the agent")


class Peer(Adapter):
    """Runs the tool when the kernel sends its call, and keeps the result for the turn that waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._results: dict[str, list[ToolResult]] = {}

    async def open(self) -> None:
        self._kernel = Kernel(
            store=self.conversations(), foundry=InstantModel(), agents=Agents(self.create()), outlet=self
        )

    def conversations(self) -> ConversationStore:
        """Where the conversations are."""
        return MemoryConversations()

    def create(self) -> BoundAgent:
        tools = convert_mcp_tools_to_function_tools([ToolSource("bench", ECHO, 30.0, function="echo")])
        return BoundAgent(AgentDefinition("bench", "Answers.", system_message=INSTRUCTIONS), REF, tools)

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        """The outlet: a tool's call is answered; the reply is read from the operation, not sent."""
        for effect in effects:
            if effect.kind == "tool":
                said = self.echo(json.loads(effect.arguments)["text"])
                operation_id = effect.request_id.partition(".")[0]
                self._results.setdefault(operation_id, []).append(ToolResult(effect.request_id, said))

    async def wake(self, key: ConversationKey, delay: float) -> None:
        raise AssertionError("nothing is put off")

    async def turn(self, text: str) -> str:
        operation_id = uuid.uuid4().hex
        key = ConversationKey("bench", operation_id)
        await self._kernel.accept(key, Message(operation_id, text, 1.0, NEVER), operation_id, fresh=False)
        await self._kernel.drive(key)
        for result in self._results.pop(operation_id, ()):
            await self._kernel.add_result(operation_id, result)
        operation = await self._kernel.operation(operation_id)
        assert operation.status == "completed", operation
        return operation.reply or ""
