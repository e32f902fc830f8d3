"""Turns of the kernel on each generation of the service while it refuses: nothing is lost, asked twice, or endless."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from aos.agents.directory import BoundAgent
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.types import AgentRef, ConversationKey, Message, Operation, Outgoing
from aos.mcp.functions import convert_mcp_tools_to_function_tools
from aos.storage.memory import MemoryConversations
from emulators.foundry import FoundryEmulator
from emulators.foundry.model import ModelError, ModelRequest, turn_text
from tests.foundry.project import Api, Project, running, spec
from tests.foundry.script import Script, calls, says
from tests.foundry.test_contract import APIS, STEP

LIMITED = ModelError("rate_limit_exceeded", "Rate limit is exceeded. Try again in 1 second.")


class House:
    """A kernel in front of a project, with one agent, whose calls nobody carries out."""

    def __init__(self, project: Project, options: KernelOptions) -> None:
        self.project = project
        self.adapter = project.any_adapter()
        self.spec = spec()
        self.key = ConversationKey(self.spec.agent_id, "main")
        self.waits: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.kernel = Kernel(
            store=MemoryConversations(), foundry=self.adapter, agents=self, outlet=self, options=options
        )

    async def ask(self, text: str, turn: float = 60.0) -> Operation:
        now = time.time()
        message = Message(f"op_{uuid.uuid4().hex}", text, now, now + turn)
        operation, _ = await self.kernel.accept(self.key, message, "f", fresh=False)
        self.kernel.start(operation)
        return await self.kernel.wait(operation, turn + 30)

    async def bind(self, agent_id: str) -> BoundAgent:
        ref = await self.adapter.ensure_agent(self.spec)
        return BoundAgent(PurposeDrivenAgent(agent_id, "To lead."), ref, convert_mcp_tools_to_function_tools([]))

    async def bound_to(self, agent_id: str, ref: AgentRef) -> BoundAgent:
        return await self.bind(agent_id)

    async def forget(self, agent_id: str) -> None:
        await self.adapter.forget_agent(agent_id)

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        raise AssertionError(f"nothing is to be sent: {effects}")

    async def wake(self, key: ConversationKey, delay: float) -> None:
        self.waits.append(delay)
        task = asyncio.create_task(self._later(key, delay))
        self._tasks.add(task)

    async def _later(self, key: ConversationKey, delay: float) -> None:
        await asyncio.sleep(delay)
        await self.kernel.drive(key, resume=True)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.kernel.close(0)


@asynccontextmanager
async def house(api: Api, model: Script, patience: float = 5.0) -> AsyncIterator[House]:
    async with running(FoundryEmulator(model=model), api) as project:
        opened = House(project, KernelOptions(patience=patience))
        try:
            yield opened
        finally:
            await opened.close()


def inputs(request: ModelRequest, text: str) -> int:
    return sum(turn_text(turn).count(text) for turn in request.history)


each = pytest.mark.parametrize("api", APIS)
at_once_and_put_off = pytest.mark.parametrize("patience", [5.0, 0.0], ids=["in place", "put off"])


@each
@at_once_and_put_off
async def test_429_is_waited_for_as_long_as_it_says(api: Api, patience: float) -> None:
    model = Script(says("at last"))
    async with house(api, model, patience) as here:
        await here.project.fail(429, STEP[api], retry_after=1.3)
        began = time.monotonic()
        operation = await here.ask("hello")
        assert (operation.status, operation.reply) == ("completed", "at last")
        assert time.monotonic() - began >= 1.3
        assert len(here.waits) == (0 if patience else 1)
        assert len(model.asked) == 1
        assert inputs(model.asked[-1], "hello") == 1, "its input went in once"


@each
@at_once_and_put_off
async def test_a_rate_limit_inside_a_step_is_waited_for_as_long_as_it_says(api: Api, patience: float) -> None:
    model = Script(LIMITED, says("at last"))
    async with house(api, model, patience) as here:
        began = time.monotonic()
        operation = await here.ask("hello")
        assert (operation.status, operation.reply) == ("completed", "at last")
        assert time.monotonic() - began >= 1.0
        assert len(model.asked) == 2
        assert inputs(model.asked[-1], "hello") == 1, "its input went in once"


@each
async def test_results_of_tools_outlive_a_rate_limit(api: Api) -> None:
    model = Script(calls(("ledger_lookup", '{"year": 2024}')), LIMITED, says("so it is"))
    async with house(api, model) as here:
        await here.project.fail(429, "/submit_tool_outputs" if api == "threads" else "/nowhere", retry_after=0.2)
        operation = await here.ask("What about 2024?")
        assert (operation.status, operation.reply) == ("completed", "so it is")
        assert len(model.asked) == 3, "the tools were asked for once"
        assert inputs(model.asked[-1], "there is no tool") == 1, "the model was told once"


@each
@pytest.mark.parametrize("inside", [False, True], ids=["429", "inside"])
async def test_a_limit_that_stays_ends_the_turn_at_its_deadline_and_the_next_one_works(api: Api, inside: bool) -> None:
    model = Script(*[LIMITED] * (2 if inside else 0), says("again"))
    async with house(api, model) as here:
        if not inside:
            await here.project.fail(429, STEP[api], times=1000, retry_after=0.5)
        began = time.monotonic()
        operation = await here.ask("hello", turn=1.5)
        assert operation.status == "failed"
        assert operation.error is not None
        assert operation.error.code == "deadline_exceeded"
        # Without a deadline it would be tried a thousand times, half a second apart.
        assert time.monotonic() - began < 1.5 + 30
        await here.project.heal()
        operation = await here.ask("still there?")
        assert (operation.status, operation.reply) == ("completed", "again")


@each
@pytest.mark.parametrize("status", [401, 403])
async def test_an_expired_token_is_waited_for(api: Api, status: int) -> None:
    model = Script(says("signed in"))
    async with house(api, model) as here:
        await here.project.fail(status, "/", times=1000, code="Unauthorized", message="The access token has expired.")
        asking = asyncio.create_task(here.ask("hello"))
        await asyncio.sleep(0.5)
        assert not asking.done()
        await here.project.heal()
        operation = await asking
        assert (operation.status, operation.reply) == ("completed", "signed in")
