"""A world that costs nothing: an instantaneous model that calls one tool when told to, and stores in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from aos.kernel.events import PlannedCall
from aos.kernel.kernel import Kernel
from aos.kernel.ports import AgentDirectory, AgentSpec, ConversationStore, RemoteItem
from aos.kernel.types import (
    AgentRef,
    ConversationKey,
    FunctionCall,
    Limits,
    Message,
    ModelReply,
    Operation,
    Outgoing,
    ToolOutput,
    ToolResult,
    Usage,
)
from aos.storage.memory import MemoryConversations

REF = AgentRef("bench", "1", "hash", "llama-3.3-70b-bench")
USAGE = Usage(10, 5, 15)
NEVER = 4e9


class InstantModel:
    """Answers at once; a message that begins with `tool` gets one tool call first."""

    async def ensure_agent(self, spec: AgentSpec) -> AgentRef:
        return REF

    async def forget_agent(self, agent_id: str) -> None:
        raise AssertionError("not in this world")

    async def look_up_agents(self, agent_ids: Collection[str]) -> frozenset[str]:
        raise AssertionError("not in this world")

    async def remove_agent(self, agent_id: str) -> bool:
        raise AssertionError("not in this world")

    async def open_conversation(self, key: ConversationKey) -> str:
        return f"conv_{key.conversation_id}"

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> ModelReply:
        if text is not None and text.startswith("tool"):
            return ModelReply("", (FunctionCall("call_1", "echo", '{"text": "hi"}'),), USAGE, REF.deployment, "i1")
        said = outputs[0].output if outputs else "hello"
        return ModelReply(said, (), USAGE, REF.deployment, "i2")

    async def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        raise AssertionError("nothing is recovered here")

    async def delete_conversation(self, remote_id: str) -> None:
        raise AssertionError("nothing is deleted here")

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return


class OneAgent:
    """An agent with one tool."""

    ref = REF
    running_since = 0.0
    limits: Limits | None = None

    async def bind(self, agent_id: str) -> OneAgent:
        return self

    async def bound_to(self, agent_id: str, ref: AgentRef) -> OneAgent:
        return self

    async def forget(self, agent_id: str) -> None:
        raise AssertionError("not in this world")

    def plan(self, call: FunctionCall) -> PlannedCall:
        return PlannedCall(call, "bench", "echo", 30.0)


class EchoTools:
    """Runs the tool as soon as it is asked for, and counts."""

    def __init__(self) -> None:
        self.kernel: Kernel | None = None
        self.runs = 0
        self.ready: list[tuple[str, ToolResult]] = []

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        for effect in effects:
            if effect.kind == "tool":
                self.runs += 1
                operation_id = effect.request_id.partition(".")[0]
                self.ready.append((operation_id, ToolResult(effect.request_id, "echoed")))

    async def wake(self, key: ConversationKey, delay: float) -> None:
        raise AssertionError("nothing is put off here")


class World:
    """A kernel with everything around it in memory, unless it is given a store or a directory of agents."""

    def __init__(self, store: ConversationStore | None = None, agents: AgentDirectory | None = None) -> None:
        self.tools = EchoTools()
        self.store = store or MemoryConversations()
        self.kernel = Kernel(store=self.store, foundry=InstantModel(), agents=agents or OneAgent(), outlet=self.tools)
        self._number = 0

    async def turn(self, conversation: str, text: str, operation_id: str = "", *, agent_id: str = "bench") -> Operation:
        """One whole turn: accepted, driven to its end, read. The operation's id may be given, else they are counted."""
        self._number += 1
        operation_id = operation_id or f"op_{self._number}"
        key = ConversationKey(agent_id, conversation)
        message = Message(operation_id, text, 1.0, NEVER)
        await self.kernel.accept(key, message, operation_id, fresh=False)
        await self.kernel.drive(key)
        while self.tools.ready:
            await self.kernel.add_result(*self.tools.ready.pop())
        operation = await self.kernel.operation(operation_id)
        assert operation.status == "completed", operation
        return operation
