from __future__ import annotations

import base64
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from aos.config import Settings
from aos.errors import TransientError
from aos.functions.collecting import FunctionReplies
from aos.functions.orders import Collect
from aos.functions.outlet import FunctionOutlet
from aos.functions.route import FunctionRoute
from aos.kernel.clock import SystemClock
from aos.kernel.events import PlannedCall
from aos.kernel.kernel import Kernel
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
    Usage,
)
from aos.mcp.results import ToolResults
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import AgentCommand, parse_body
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.payloads import Payloads
from aos.storage.queues import Queues

REF = AgentRef("agent", "1", "hash", "model")


class Clock(SystemClock):
    """The system's time and a shift that tests move."""

    def __init__(self) -> None:
        self.shift = 0.0

    def now(self) -> float:
        return super().now() + self.shift


class Model:
    """A Foundry whose model calls the function as often as the message says, then repeats what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, list[ToolOutput]] = {}
        self._opened = 0

    async def open_conversation(self, key: ConversationKey) -> str:
        return f"remote-{key.conversation_id}"

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        **_: Any,
    ) -> ModelReply:
        usage = Usage(1, 1)
        if text is not None:
            calls = tuple(
                FunctionCall(f"call_{index}", "double", json.dumps({"n": index})) for index in range(int(text))
            )
            return ModelReply("", calls, usage, "model", "anchor-1")
        self.told.setdefault(remote_id, []).extend(outputs)
        return ModelReply("; ".join(output.output for output in outputs), (), usage, "model", "anchor-2")

    async def items_after(self, remote_id: str, anchor: str | None) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the kernel uses {name}")


class Binding:
    """An agent with one function."""

    ref = REF
    running_since = 0.0
    limits = Limits(tool_calls=256)

    def __init__(self, route: FunctionRoute, time_limit: float) -> None:
        self._route = route
        self._time_limit = time_limit

    def plan(self, call: FunctionCall) -> PlannedCall:
        return PlannedCall(call, str(self._route), "double", self._time_limit)


class Agents:
    def __init__(self, route: FunctionRoute) -> None:
        self.route = route
        self.time_limit = 60.0

    async def bind(self, agent_id: str) -> Binding:
        return Binding(self.route, self.time_limit)

    async def bound_to(self, agent_id: str, ref: AgentRef) -> Binding:
        return Binding(self.route, self.time_limit)

    async def forget(self, agent_id: str) -> None:
        return


class Silent:
    """Takes what goes elsewhere."""

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        assert not [effect for effect in effects if effect.kind == "tool"]

    async def wake(self, key: ConversationKey, delay: float) -> None:
        return


class Shop:
    """The kernel, its function and the queues between them; the function is played by the test.

    Attributes:
        sent: What went onto the bus: orders to collect, and what was parked.
    """

    def __init__(self, account: StorageAccount) -> None:
        name = uuid.uuid4().hex[:10]
        self.account = account
        self.agent_id = f"agent-{name}"
        self.route = FunctionRoute(f"f-{name}-input", f"f-{name}-output")
        self.sent: list[Outbound] = []
        self.clock = Clock()
        self.outage: TransientError | None = None
        payloads = Payloads(account)
        self.queues = Queues(account, payloads)
        self.store = TableConversations(account, payloads, self.clock)
        self.model = Model()
        self.agents = Agents(self.route)
        self.payloads = payloads
        self.kernel = self.new_kernel()
        self.replies = self.new_replies()

    def new_kernel(self) -> Kernel:
        """Of a process, which may die and be followed by another one."""
        return Kernel(
            store=self.store,
            foundry=self.model,
            agents=self.agents,
            outlet=FunctionOutlet(Silent(), self.queues, self.send, self.clock),
            clock=self.clock,
        )

    def new_replies(self) -> FunctionReplies:
        return FunctionReplies(
            queues=self.queues,
            store=self.store,
            kernel=self.kernel,
            results=ToolResults(self.payloads),
            send=self.send,
            claim_check=ClaimCheck(self.payloads),
            clock=self.clock,
        )

    async def send(self, messages: Sequence[Outbound]) -> None:
        if self.outage is not None:
            raise self.outage
        self.sent.extend(messages)

    async def begin(self, calls: int) -> Operation:
        """A turn that makes so many calls and waits for their replies."""
        operation_id = f"op_{uuid.uuid4().hex[:26]}"
        key = ConversationKey(self.agent_id, f"c_{operation_id}")
        now = self.clock.now()
        message = Message(operation_id, str(calls), now, now + 600)
        operation, _ = await self.kernel.accept(key, message, operation_id, fresh=True)
        await self.kernel.drive(key)
        return await self.kernel.operation(operation.operation_id)

    async def calls(self) -> list[dict[str, Any]]:
        """What the function finds in its input queue, taken out of it."""
        found: list[dict[str, Any]] = []
        while messages := await self.queues.receive(self.route.input_queue):
            for message in messages:
                found.append(message.body)
                await self.queues.delete(self.route.input_queue, message)
        return found

    async def reply(self, body: object, *, plain: bool = False) -> None:
        """What the function puts into its output queue."""
        text = body if isinstance(body, str) else json.dumps(body)
        client = await self.account.queue(self.route.output_queue)
        await client.send_message(text if plain else base64.b64encode(text.encode()).decode())

    def orders(self) -> list[Collect]:
        """The orders on the bus, taken off it."""
        mine = [message for message in self.sent if message.entity == "agent-commands"]
        self.sent = [message for message in self.sent if message.entity != "agent-commands"]
        return [Collect.model_validate(parse_body(AgentCommand, message.body).params) for message in mine]

    async def pulse(self) -> None:
        """Some process receives the orders."""
        for order in self.orders():
            await self.replies.collect(order)

    def parked(self) -> list[tuple[str, object]]:
        """Reason and body of what was parked."""
        return [
            (str(message.properties["DeadLetterReason"]), json.loads(message.body))
            for message in self.sent
            if message.entity == "aos-poison"
        ]

    async def ended(self, operation: Operation) -> Operation:
        """The operation, which has ended."""
        found = await self.kernel.operation(operation.operation_id)
        assert found.final, found
        return found


@pytest.fixture(scope="session")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


@pytest.fixture
async def shop(account: StorageAccount) -> AsyncIterator[Shop]:
    shop = Shop(account)
    yield shop
    await shop.kernel.close(1.0)
