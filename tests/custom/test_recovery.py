"""A model step whose outcome nobody heard of: what the history holds is adopted, the model is not asked again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from aos.agents.directory import BoundAgent
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.config import load_settings
from aos.custom.adapter import AgentFrameworkAdapter
from aos.custom.definitions import Definitions
from aos.custom.faults import ModelUnavailable
from aos.custom.history import BlobHistories
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.ports import Outlet
from aos.kernel.types import AgentRef, ConversationKey, Message, ModelReply, Operation, Outgoing, ToolOutput
from aos.mcp.functions import convert_mcp_tools_to_function_tools
from aos.storage.account import StorageAccount
from aos.storage.memory import MemoryConversations
from tests.model_server import Answer, ModelServer

KEY = ConversationKey("ceo", "c1")


class Unheard(AgentFrameworkAdapter):
    """Some of its steps are done without anybody hearing of it.

    Attributes:
        unheard: Numbers of these steps, from 1.
    """

    unheard: frozenset[int] = frozenset()
    steps = 0

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
        reply = await super().respond(agent, remote_id, outputs, text, timeout, on_text=on_text)
        self.steps += 1
        if self.steps in self.unheard:
            raise ModelUnavailable("Nobody heard.", sent=True)
        return reply


class OneAgent:
    """A directory of one agent, without tools."""

    def __init__(self, adapter: AgentFrameworkAdapter) -> None:
        self._adapter = adapter
        self._agent = PurposeDrivenAgent("ceo", "To lead.")

    async def bind(self, agent_id: str) -> BoundAgent:
        tools = convert_mcp_tools_to_function_tools([])
        ref = await self._adapter.ensure_agent(self._agent.spec("llama-3.3-70b", ()))
        return BoundAgent(self._agent, ref, tools)

    async def bound_to(self, agent_id: str, ref: AgentRef) -> BoundAgent:
        return await self.bind(agent_id)

    async def forget(self, agent_id: str) -> None:
        await self._adapter.forget_agent(agent_id)


class NoOutlet(Outlet):
    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        raise AssertionError(f"nothing is to be sent: {effects}")

    async def wake(self, key: ConversationKey, delay: float) -> None:
        raise AssertionError("nothing is to be put off")


@pytest.fixture
async def adapter(model: ModelServer, account: StorageAccount) -> AsyncIterator[Unheard]:
    settings = load_settings({"AOS_MODEL_ENDPOINT": model.url})
    adapter = Unheard(settings, BlobHistories(account), Definitions(account))
    yield adapter
    await adapter.close()


async def ask(kernel: Kernel, operation_id: str, text: str) -> Operation:
    now = time.time()
    message = Message(operation_id, text, now, now + 60)
    await kernel.accept(KEY, message, operation_id, fresh=False)
    await kernel.drive(KEY)
    return await kernel.operation(operation_id)


@pytest.mark.parametrize("unheard", [{1}, {2}, {1, 2, 3}])
async def test_unheard_steps_are_adopted(adapter: Unheard, model: ModelServer, unheard: set[int]) -> None:
    adapter.unheard = frozenset(unheard)
    options = KernelOptions(patience=60.0)  # what is put off would have to be woken
    kernel = Kernel(
        store=MemoryConversations(), foundry=adapter, agents=OneAgent(adapter), outlet=NoOutlet(), options=options
    )
    model.answers(Answer(None, [("a", "look", "{}")]), Answer("Nothing there."), Answer("Still nothing."))
    first = await ask(kernel, "op_1", "Look.")
    second = await ask(kernel, "op_2", "Again?")
    assert (first.status, first.reply) == ("completed", "Nothing there.")
    assert (second.status, second.reply) == ("completed", "Still nothing.")
    assert first.usage.adopted + second.usage.adopted == len(unheard)
    assert len(model.asked) == 3, "no step is asked for twice"
    shown = [message["role"] for message in model.asked[-1]["messages"]]
    assert shown == ["system", "user", "assistant", "tool", "assistant", "user"]
    await kernel.close()
