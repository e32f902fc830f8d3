"""Agents that the service itself connects: the SDK's tool, another assistant run as part of the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    Agent,
    ConnectedAgentTool,
    FunctionDefinition,
    FunctionToolDefinition,
    ThreadMessageOptions,
    ThreadRun,
    ToolDefinition,
)
from azure.core.exceptions import HttpResponseError

from emulators.foundry import FoundryEmulator
from emulators.foundry.model import ModelEvent, ModelRequest
from emulators.foundry.offline import OfflineModel

MODEL = "llama-3.3-70b"
LOCAL = FunctionToolDefinition(
    function=FunctionDefinition(
        name="look_up", description="Looks up.", parameters={"type": "object", "properties": {"n": {"type": "integer"}}}
    )
)


async def made(agents: AgentsClient, name: str, *tools: ToolDefinition) -> Agent:
    return await agents.create_agent(model=MODEL, name=name, instructions=f"I am {name}.", tools=list(tools))


def connected(agent: Agent, name: str = "stock_bot") -> ToolDefinition:
    (tool,) = ConnectedAgentTool(id=agent.id, name=name, description="Knows prices.").definitions
    return tool


def ask(text: str, name: str = "stock_bot") -> str:
    return f"@tool {name} {json.dumps({'query': text})}"


async def begun(agents: AgentsClient, agent: Agent, text: str) -> ThreadRun:
    thread = await agents.threads.create(messages=[ThreadMessageOptions(role="user", content=text)])
    return await agents.runs.create(thread.id, agent_id=agent.id)


async def until(agents: AgentsClient, run: ThreadRun, *statuses: str) -> ThreadRun:
    async with asyncio.timeout(30):
        while run.status not in statuses:
            await asyncio.sleep(0.02)
            run = await agents.runs.get(run.thread_id, run.id)
    return run


async def asked(agents: AgentsClient, agent: Agent, text: str) -> ThreadRun:
    return await until(agents, await begun(agents, agent, text), "completed", "failed", "expired", "requires_action")


async def said(agents: AgentsClient, run: ThreadRun) -> str:
    message = await agents.messages.get_last_message_text_by_role(run.thread_id, "assistant")  # type: ignore[arg-type] # takes the value, too
    assert message is not None
    return str(message.text.value)


async def calls(agents: AgentsClient, run: ThreadRun) -> list[dict[str, Any]]:
    """The calls of a run's steps, as they came over the wire."""
    found: list[dict[str, Any]] = []
    async for step in agents.run_steps.list(run.thread_id, run.id, order="asc"):  # takes the value, too
        found += step.as_dict()["step_details"].get("tool_calls", [])
    return found


async def test_a_call_is_a_run_of_the_other_assistant_and_its_answer_the_output(agents: AgentsClient) -> None:
    stocks = await made(agents, "stocks")
    main = await made(agents, "main", connected(stocks))
    run = await asked(agents, main, f"{ask('@say it costs 12')}\n@say twelve")
    assert (run.status, await said(agents, run)) == ("completed", "twelve")
    (call,) = await calls(agents, run)
    shown = call["connected_agent"]
    assert call["type"] == "connected_agent"
    assert (shown["name"], shown["agent_id"], shown["output"]) == ("stock_bot", stocks.id, "it costs 12")
    assert json.loads(shown["arguments"]) == {"query": "@say it costs 12"}
    theirs = await agents.runs.get(shown["thread_id"], shown["run_id"])
    assert (theirs.status, theirs.agent_id, theirs.instructions) == ("completed", stocks.id, "I am stocks.")
    asked_there = await agents.messages.get_last_message_text_by_role(shown["thread_id"], "user")  # type: ignore[arg-type]
    assert asked_there is not None
    assert asked_there.text.value == "@say it costs 12"


async def test_the_model_reads_the_answer_and_agents_are_asked_side_by_side(agents: AgentsClient) -> None:
    main = await made(
        agents, "main", connected(await made(agents, "a"), "first"), connected(await made(agents, "b"), "second")
    )
    run = await asked(agents, main, f"{ask('@say one pear', 'first')}\n{ask('@say two figs', 'second')}")
    answer = await said(agents, run)
    assert "one pear" in answer
    assert "two figs" in answer


async def test_a_stream_tells_of_the_call_and_its_answer(agents: AgentsClient) -> None:
    main = await made(agents, "main", connected(await made(agents, "stocks")))
    thread = await agents.threads.create(messages=[ThreadMessageOptions(role="user", content=ask("@say it costs 12"))])
    told: list[tuple[str, Any]] = []
    async with await agents.runs.stream(thread.id, agent_id=main.id) as stream:
        async for name, data, _ in stream:
            told.append((str(name), data))
    steps = [data for name, data in told if name == "thread.run.step.completed"]
    (call,) = steps[0].as_dict()["step_details"]["tool_calls"]
    assert call["connected_agent"]["output"] == "it costs 12"
    deltas = [data.as_dict()["delta"] for name, data in told if name == "thread.run.step.delta"]
    assert {call["type"] for delta in deltas for call in delta["step_details"]["tool_calls"]} == {"connected_agent"}
    assert {data.thread_id for name, data in told if name == "thread.run.completed"} == {thread.id}


async def test_an_agent_that_fails_is_told_to_the_model(agents: AgentsClient) -> None:
    main = await made(agents, "main", connected(await made(agents, "stocks")))
    run = await asked(agents, main, ask("@fail content_filter"))
    assert run.status == "completed"
    assert "stock_bot gave no answer: content_filter" in await said(agents, run)


async def test_connected_agents_have_none_of_their_own(agents: AgentsClient) -> None:
    middle = await made(agents, "middle", connected(await made(agents, "last"), "last_bot"))
    main = await made(agents, "main", connected(middle))
    run = await asked(agents, main, ask(ask("@say never", "last_bot")))
    assert "tool_user_error: Error: Assistant Tool Call Depth Error" in await said(agents, run)
    # Its own calls are still its own.
    assert await said(agents, await asked(agents, middle, ask("@say now", "last_bot") + "\n@say so")) == "so"


async def test_a_function_of_the_client_cannot_be_called_by_a_connected_agent(agents: AgentsClient) -> None:
    stocks = await made(agents, "stocks", LOCAL)
    main = await made(agents, "main", connected(stocks))
    run = await asked(agents, main, ask('@tool look_up {"n": 1}'))
    assert run.status == "failed"
    assert run.last_error is not None
    assert run.last_error.code == "tool_user_error"
    assert "a function that only a client could run" in run.last_error.message
    (call,) = await calls(agents, run)
    theirs = call["connected_agent"]
    assert (await agents.runs.get(theirs["thread_id"], theirs["run_id"])).status == "cancelled"


async def test_a_step_with_both_kinds_of_calls_asks_the_agent_first(agents: AgentsClient) -> None:
    main = await made(agents, "main", connected(await made(agents, "stocks")), LOCAL)
    run = await asked(agents, main, f'{ask("@say it costs 12")}\n@tool look_up {{"n": 1}}')
    assert run.status == "requires_action"
    served, own = await calls(agents, run)
    assert (served["connected_agent"]["output"], own["type"]) == ("it costs 12", "function")


async def test_an_agent_that_is_gone_fails_the_run(agents: AgentsClient) -> None:
    stocks = await made(agents, "stocks")
    main = await made(agents, "main", connected(stocks))
    await agents.delete_agent(stocks.id)
    run = await asked(agents, main, ask("@say hello"))
    assert run.last_error is not None
    assert (run.status, run.last_error.code) == ("failed", "tool_user_error")
    assert f"no assistant found with id '{stocks.id}'" in run.last_error.message


class Silent(OfflineModel):
    """The offline model, except that one agent never answers."""

    def __init__(self, name: str) -> None:
        self._instructions = f"I am {name}."

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        if request.instructions == self._instructions:
            await asyncio.Event().wait()
        async for event in super().step(request):
            yield event


async def test_what_is_cancelled_ends_with_the_agent_it_asked(connect_agents: Callable[[str], AgentsClient]) -> None:
    async with FoundryEmulator(model=Silent("stocks")) as emulator, connect_agents(emulator.endpoint) as agents:
        main = await made(agents, "main", connected(await made(agents, "stocks")))
        run = await begun(agents, main, ask("@say one"))
        shown: dict[str, Any] = {}
        async with asyncio.timeout(30):
            while "run_id" not in shown:
                await asyncio.sleep(0.02)
                shown = next((call["connected_agent"] for call in await calls(agents, run)), {})
        await agents.runs.cancel(run.thread_id, run.id)
        await until(agents, run, "cancelled")
        theirs = await agents.runs.get(shown["thread_id"], shown["run_id"])
        await until(agents, theirs, "cancelled")


async def test_what_is_too_late_expires(connect_agents: Callable[[str], AgentsClient]) -> None:
    silent = Silent("stocks")
    async with FoundryEmulator(model=silent, run_expiry=0.1) as emulator, connect_agents(emulator.endpoint) as agents:
        main = await made(agents, "main", connected(await made(agents, "stocks")))
        run = await begun(agents, main, ask("@say one"))
        assert (await until(agents, run, "expired", "completed", "failed")).status == "expired"


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        ({"id": "asst_none", "name": "a", "description": "x"}, "no assistant found with id 'asst_none'"),
        ({"id": "asst_none", "name": "bot-2", "description": "x"}, "connected_agent.name"),
        ({"name": "bot", "description": "x"}, "connected_agent.id"),
    ],
)
async def test_a_tool_that_connects_nobody_is_refused(agents: AgentsClient, tool: dict[str, str], why: str) -> None:
    definition: Any = {"type": "connected_agent", "connected_agent": tool}
    with pytest.raises(HttpResponseError, match=why):
        await agents.create_agent(model=MODEL, name="main", tools=[definition])
