from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    Agent,
    AgentThread,
    AsyncAgentEventHandler,
    FunctionDefinition,
    FunctionToolDefinition,
    MessageDeltaChunk,
    RequiredFunctionToolCall,
    RunStep,
    RunStepDeltaChunk,
    SubmitToolOutputsAction,
    ThreadMessage,
    ThreadMessageOptions,
    ThreadRun,
    ToolOutput,
)
from azure.core.exceptions import HttpResponseError

from emulators.foundry import FoundryEmulator
from emulators.foundry.model import ModelEvent, ModelRequest, TextDelta
from emulators.foundry.responses_api import OnDisconnect

Connect = Callable[[str], AgentsClient]
MODEL = "llama-3.3-70b"
RUN = ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
STEP = ["thread.run.step.created", "thread.run.step.in_progress"]
MESSAGE = [*STEP, "thread.message.created", "thread.message.in_progress"]
SAID = ["thread.message.completed", "thread.run.step.completed", "thread.run.completed", "done"]


class Recorder(AsyncAgentEventHandler[str]):
    """Keeps what the SDK made of every event."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.runs: list[ThreadRun] = []
        self.steps: list[RunStep] = []
        self.messages: list[ThreadMessage] = []
        self.deltas: list[RunStepDeltaChunk] = []
        self.errors: list[str] = []
        self.unhandled: list[str] = []
        self.done = 0

    async def on_message_delta(self, delta: MessageDeltaChunk) -> str:
        self.text += delta.text
        return delta.text

    async def on_thread_message(self, message: ThreadMessage) -> None:
        self.messages.append(message)

    async def on_thread_run(self, run: ThreadRun) -> None:
        self.runs.append(run)

    async def on_run_step(self, step: RunStep) -> None:
        self.steps.append(step)

    async def on_run_step_delta(self, delta: RunStepDeltaChunk) -> None:
        self.deltas.append(delta)

    async def on_error(self, data: str) -> None:
        self.errors.append(data)

    async def on_done(self) -> None:
        self.done += 1

    async def on_unhandled_event(self, event_type: str, event_data: str) -> None:
        self.unhandled.append(event_type)


async def prepared(agents: AgentsClient, text: str, *names: str) -> tuple[Agent, AgentThread]:
    tools = [FunctionToolDefinition(function=FunctionDefinition(name=n, parameters={"type": "object"})) for n in names]
    agent = await agents.create_agent(model=MODEL, tools=[*tools])
    return agent, await agents.threads.create(messages=[ThreadMessageOptions(role="user", content=text)])


async def test_a_text_is_streamed_in_the_order_of_the_service(agents: AgentsClient) -> None:
    agent, thread = await prepared(agents, "@say one two\nthree" + "\n@say  ünï")
    async with await agents.runs.stream(thread.id, agent_id=agent.id, event_handler=Recorder()) as events:
        names = [name async for name, _, _ in events]
    assert names == [*RUN, *MESSAGE, *["thread.message.delta"] * 3, *SAID]
    assert events.text == "one two\nünï"
    assert [str(run["status"]) for run in events.runs] == ["queued", "queued", "in_progress", "completed"]
    first, last = events.messages[0], events.messages[-1]
    assert (first["status"], first["content"]) == ("in_progress", [])
    assert (last["status"], last.text_messages[0].text.value) == ("completed", "one two\nünï")
    assert [str(step["status"]) for step in events.steps] == ["in_progress", "in_progress", "completed"]
    assert (events.done, events.errors, events.unhandled) == (1, [], [])
    stored = await agents.runs.get(thread.id, events.runs[-1].id)
    assert stored.usage.as_dict() == events.runs[-1].usage.as_dict()
    assert (await agents.messages.get(thread.id, last.id)).text_messages[0].text.value == "one two\nünï"


async def test_calls_are_streamed_and_their_outputs_go_on_in_a_second_stream(agents: AgentsClient) -> None:
    agent, thread = await prepared(agents, '@tool f {"x": 1}\n@tool g {}\n@say fine', "f", "g")
    async with await agents.runs.stream(thread.id, agent_id=agent.id, event_handler=Recorder()) as events:
        names = [name async for name, _, _ in events]
    assert names == [*RUN, *STEP, *["thread.run.step.delta"] * 4, "thread.run.requires_action", "done"]
    waiting = events.runs[-1]
    assert isinstance(waiting.required_action, SubmitToolOutputsAction)
    calls = waiting.required_action.submit_tool_outputs.tool_calls
    assert all(isinstance(call, RequiredFunctionToolCall) for call in calls)
    rebuilt: dict[int, dict[str, str]] = {}
    for delta in events.deltas:
        for part in delta.as_dict()["delta"]["step_details"]["tool_calls"]:
            call = rebuilt.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] += part.get("id", "")
            call["name"] += part["function"].get("name", "")
            call["arguments"] += part["function"]["arguments"]
    assert list(rebuilt.values()) == [
        {"id": call.id, "name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in calls
    ]
    outputs = [ToolOutput(tool_call_id=call.id, output="1") for call in calls]
    second = Recorder()
    await agents.runs.submit_tool_outputs_stream(thread.id, waiting.id, tool_outputs=outputs, event_handler=second)
    names = [name async for name, _, _ in second]
    resumed = ["thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"]
    assert names == [*resumed, *MESSAGE, "thread.message.delta", *SAID]
    assert second.text == "fine"
    assert second.steps[0]["step_details"]["tool_calls"][0]["function"]["output"] == "1"


async def test_the_sdk_runs_tools_while_it_streams(connect_agents: Connect, emulator: FoundryEmulator) -> None:
    def get_kpis() -> str:
        """Key figures."""
        return json.dumps({"revenue": 7000})

    async with connect_agents(emulator.endpoint) as client:
        client.enable_auto_function_calls({get_kpis})
        agent, thread = await prepared(client, "@tool get_kpis {}", "get_kpis")
        async with await client.runs.stream(thread.id, agent_id=agent.id, event_handler=Recorder()) as events:
            await events.until_done()
    assert str(events.runs[-1]["status"]) == "completed"
    assert "revenue 7000" in events.text
    assert events.done == 2


@pytest.mark.parametrize("code", ["server_error", "rate_limit_exceeded", "content_filter"])
async def test_a_failed_run_ends_its_stream(agents: AgentsClient, code: str) -> None:
    agent, thread = await prepared(agents, f"@fail {code}")
    async with await agents.runs.stream(thread.id, agent_id=agent.id, event_handler=Recorder()) as events:
        names = [name async for name, _, _ in events]
    assert names == [*RUN, "thread.run.failed", "done"]
    assert events.runs[-1].last_error.code == code


async def test_an_incomplete_run_keeps_its_text(agents: AgentsClient) -> None:
    agent, thread = await prepared(agents, "@say one two three")
    async with await agents.runs.stream(
        thread.id, agent_id=agent.id, max_completion_tokens=1, event_handler=Recorder()
    ) as events:
        names = [name async for name, _, _ in events]
    end = ["thread.message.incomplete", "thread.run.step.completed", "thread.run.incomplete", "done"]
    assert names == [*RUN, *MESSAGE, "thread.message.delta", *end]
    assert events.messages[-1].text_messages[0].text.value == "one "


async def test_a_thread_and_its_run_are_streamed_together(http: httpx2.AsyncClient, agents: AgentsClient) -> None:
    agent = await agents.create_agent(model=MODEL)
    body = {
        "assistant_id": agent.id,
        "stream": True,
        "thread": {"messages": [{"role": "user", "content": "@say hello"}]},
    }
    async with http.stream("POST", "/threads/runs?api-version=v1", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in answer.aiter_lines()]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == ["thread.created", *RUN, *MESSAGE, "thread.message.delta", *SAID]
    assert lines[1].startswith('data: {"id":"thread_')
    assert [line for line in lines if line][-2:] == ["event: done", "data: [DONE]"]


async def test_a_refusal_comes_before_the_stream(agents: AgentsClient) -> None:
    agent, thread = await prepared(agents, "@tool f {}", "f")
    async with await agents.runs.stream(thread.id, agent_id=agent.id, event_handler=Recorder()) as events:
        await events.until_done()
    with pytest.raises(HttpResponseError, match="already has an active run") as caught:
        await agents.runs.stream(thread.id, agent_id=agent.id, event_handler=Recorder())
    assert caught.value.status_code == 400


class Endless:
    """A model that speaks until it is stopped."""

    kind = "endless"

    def check(self, request: ModelRequest) -> None: ...

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        while True:
            yield TextDelta("on ")
            await asyncio.sleep(0.005)

    async def close(self) -> None: ...


async def test_a_cancelled_run_says_so_in_its_stream(connect_agents: Connect) -> None:
    async with FoundryEmulator(model=Endless()) as emulator, connect_agents(emulator.endpoint) as client:
        agent, thread = await prepared(client, "go")
        async with await client.runs.stream(thread.id, agent_id=agent.id, event_handler=Recorder()) as events:
            names: list[str] = []
            async for name, _, _ in events:
                if name == "thread.message.delta" and name not in names:
                    await client.runs.cancel(thread.id, events.runs[0].id)
                names.append(name)
    end = ["thread.run.cancelling", "thread.message.incomplete", "thread.run.step.cancelled", "thread.run.cancelled"]
    assert names[-5:] == [*end, "done"]


@pytest.mark.parametrize(("on_disconnect", "status"), [("finish", "in_progress"), ("drop", "cancelled")])
async def test_a_client_that_leaves_its_stream(
    connect_agents: Connect, on_disconnect: OnDisconnect, status: str
) -> None:
    async with (
        FoundryEmulator(model=Endless(), on_disconnect=on_disconnect) as emulator,
        connect_agents(emulator.endpoint) as client,
    ):
        agent, thread = await prepared(client, "go")
        url = f"{emulator.endpoint}/threads/{thread.id}/runs?api-version=v1"
        body = {"assistant_id": agent.id, "stream": True}
        async with (
            httpx2.AsyncClient(headers={"api-key": "k"}) as bare,
            bare.stream("POST", url, json=body) as answer,
        ):
            async for line in answer.aiter_lines():
                if line == "event: thread.message.delta":
                    break
        if status == "in_progress":
            await asyncio.sleep(0.2)  # time to notice that the client is gone
        async with asyncio.timeout(30):
            while True:
                (run,) = [run async for run in client.runs.list(thread.id)]
                if str(run["status"]) == status:
                    break
                await asyncio.sleep(0.005)
