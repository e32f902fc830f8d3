from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    Agent,
    AgentsNamedToolChoice,
    AgentThread,
    AgentThreadCreationOptions,
    FunctionDefinition,
    FunctionName,
    FunctionToolDefinition,
    ListSortOrder,
    MessageTextContent,
    RequiredFunctionToolCall,
    RunStep,
    RunStepFunctionToolCall,
    RunStepMessageCreationDetails,
    RunStepToolCallDetails,
    SubmitToolOutputsAction,
    ThreadMessageOptions,
    ThreadRun,
    ToolOutput,
    TruncationObject,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from emulators.foundry import FoundryEmulator
from emulators.foundry.model import Finished, ModelEvent, ModelRequest, TextDelta, count_tokens

Connect = Callable[[str], AgentsClient]
MODEL = "llama-3.3-70b"
SCHEMA = {"type": "object", "properties": {"year": {"type": "integer"}}}


def function(name: str) -> FunctionToolDefinition:
    return FunctionToolDefinition(function=FunctionDefinition(name=name, description="Key figures", parameters=SCHEMA))


async def assistant(agents: AgentsClient, *names: str) -> Agent:
    return await agents.create_agent(
        model=MODEL, name="ledger", instructions="You are the ledger.", tools=[function(name) for name in names]
    )


async def thread_with(agents: AgentsClient, text: str) -> AgentThread:
    return await agents.threads.create(messages=[ThreadMessageOptions(role="user", content=text)])


async def settled(agents: AgentsClient, run: ThreadRun) -> ThreadRun:
    """The run once nobody works on it."""
    async with asyncio.timeout(30):
        while run.status in ("queued", "in_progress", "cancelling"):
            await asyncio.sleep(0.005)
            run = await agents.runs.get(run.thread_id, run.id)
    return run


async def ran(agents: AgentsClient, text: str, *names: str) -> ThreadRun:
    agent, thread = await assistant(agents, *names), await thread_with(agents, text)
    return await settled(agents, await agents.runs.create(thread.id, agent_id=agent.id))


def asked(run: ThreadRun) -> list[RequiredFunctionToolCall]:
    assert run.status == "requires_action"
    assert isinstance(run.required_action, SubmitToolOutputsAction)
    calls = run.required_action.submit_tool_outputs.tool_calls
    return [call for call in calls if isinstance(call, RequiredFunctionToolCall)]


async def texts(agents: AgentsClient, thread_id: str) -> list[tuple[str, str]]:
    found = []
    async for message in agents.messages.list(thread_id, order=ListSortOrder.ASCENDING):
        assert all(isinstance(part, MessageTextContent) for part in message.content)
        found.append((str(message["role"]), "".join(part.text.value for part in message.text_messages)))
    return found


async def steps_of(agents: AgentsClient, run: ThreadRun) -> list[RunStep]:
    return [step async for step in agents.run_steps.list(run.thread_id, run.id, order=ListSortOrder.ASCENDING)]


async def test_a_run_calls_a_tool_and_answers_from_its_output(agents: AgentsClient) -> None:
    run = await ran(agents, '@tool get_kpis {"year": 2025}', "company_get_kpis")
    (call,) = asked(run)
    assert (call.type, call.function.name, call.function.arguments) == (
        "function",
        "company_get_kpis",
        '{"year": 2025}',
    )
    assert run.usage is None
    output = ToolOutput(tool_call_id=call.id, output='{"revenue": 1250000}')
    again = await agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=[output])
    assert (again.status, again.required_action) == ("queued", None)
    done = await settled(agents, again)
    assert (done.status, done.last_error, done.required_action) == ("completed", None, None)
    assert done.completed_at >= done.started_at >= done.created_at
    (_, said) = await texts(agents, run.thread_id)
    assert said[0] == "assistant"
    assert "1,250,000" in said[1]
    first, second = await steps_of(agents, done)
    assert (first.type, first.status, second.type, second.status) == (
        "tool_calls",
        "completed",
        "message_creation",
        "completed",
    )
    assert isinstance(first.step_details, RunStepToolCallDetails)
    (made,) = first.step_details.tool_calls
    assert isinstance(made, RunStepFunctionToolCall)
    assert made.as_dict() == {
        "id": call.id,
        "type": "function",
        "function": {"name": "company_get_kpis", "arguments": '{"year": 2025}', "output": '{"revenue": 1250000}'},
    }
    assert isinstance(second.step_details, RunStepMessageCreationDetails)
    message = await agents.messages.get(run.thread_id, second.step_details.message_creation.message_id)
    assert (message.run_id, message.agent_id, message.status) == (run.id, run.agent_id, "completed")
    assert (await agents.run_steps.get(run.thread_id, run.id, second.id)).as_dict() == second.as_dict()
    assert done.usage is not None
    assert first.usage is not None
    assert second.usage is not None
    assert done.usage.total_tokens == first.usage.total_tokens + second.usage.total_tokens
    assert second.usage.completion_tokens == count_tokens(said[1])


async def test_several_calls_are_asked_for_at_once_and_answered_together(agents: AgentsClient) -> None:
    run = await ran(agents, '@tool f {"year": 1}\n@tool g {"year": 2}', "f", "g")
    calls = asked(run)
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("f", {"year": 1}),
        ("g", {"year": 2}),
    ]
    outputs = [ToolOutput(tool_call_id=call.id, output=call.function.name) for call in reversed(calls)]
    await agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=outputs)
    assert (await settled(agents, await agents.runs.get(run.thread_id, run.id))).status == "completed"


async def test_without_parallel_calls_they_come_one_by_one(agents: AgentsClient) -> None:
    agent, thread = await assistant(agents, "f", "g"), await thread_with(agents, "@tool f {}\n@tool g {}")
    run = await settled(agents, await agents.runs.create(thread.id, agent_id=agent.id, parallel_tool_calls=False))
    names = []
    while run.status == "requires_action":
        (call,) = asked(run)
        names.append(call.function.name)
        outputs = [ToolOutput(tool_call_id=call.id, output="1")]
        run = await settled(agents, await agents.runs.submit_tool_outputs(thread.id, run.id, tool_outputs=outputs))
    assert (names, run.status, run.parallel_tool_calls) == (["f", "g"], "completed", False)
    assert [step.type for step in await steps_of(agents, run)] == ["tool_calls", "tool_calls", "message_creation"]


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Halting:
    """A model that says one word and then waits until it is let go."""

    kind = "halting"

    def __init__(self) -> None:
        self.speaking = asyncio.Event()
        self.go = asyncio.Event()
        self.requests: list[ModelRequest] = []

    def check(self, request: ModelRequest) -> None: ...

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self.requests.append(request)
        yield TextDelta("well ")
        self.speaking.set()
        await self.go.wait()
        yield TextDelta("then")
        yield Finished()

    async def close(self) -> None: ...


async def refused(call: Awaitable[object], message: str, status: int = 400) -> None:
    with pytest.raises(HttpResponseError, match=message) as caught:
        await call
    assert caught.value.status_code == status


def outputs_for(run: ThreadRun) -> list[ToolOutput]:
    return [ToolOutput(tool_call_id=call.id, output="1") for call in asked(run)]


async def test_outputs_must_be_those_asked_for(agents: AgentsClient, http: httpx2.AsyncClient) -> None:
    run = await ran(agents, "@tool f {}\n@tool g {}", "f", "g")
    whole = outputs_for(run)
    stranger = ToolOutput(tool_call_id="call_none", output="1")
    for wrong in (whole[:1], [], [*whole, stranger], [whole[0], stranger], [whole[0], whole[0]]):
        await refused(
            agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=wrong),
            f"Expected tool outputs for call_ids .*{whole[0].tool_call_id}",
        )
    body = {"tool_outputs": [{"tool_call_id": whole[0].tool_call_id, "output": 42}]}
    path = f"/threads/{run.thread_id}/runs/{run.id}/submit_tool_outputs?api-version=v1"
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_outputs[0].output")
    done = await settled(agents, await agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=whole))
    assert done.status == "completed"
    await refused(
        agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=whole),
        'Runs in status "completed" do not accept tool outputs',
    )


async def test_of_two_submissions_at_once_one_is_taken(agents: AgentsClient) -> None:
    run = await ran(agents, "@tool f {}", "f")
    sent = [agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=outputs_for(run)) for _ in range(5)]
    answers = await asyncio.gather(*sent, return_exceptions=True)
    assert sum(isinstance(answer, ThreadRun) for answer in answers) == 1
    assert (await settled(agents, await agents.runs.get(run.thread_id, run.id))).status == "completed"


async def test_a_thread_runs_one_run_at_a_time_and_takes_no_messages_meanwhile(agents: AgentsClient) -> None:
    run = await ran(agents, "@tool f {}", "f")
    await refused(
        agents.runs.create(run.thread_id, agent_id=str(run.agent_id)),
        f"Thread {run.thread_id} already has an active run {run.id}",
    )
    await refused(agents.messages.create(run.thread_id, role="user", content="x"), f"while a run {run.id} is active")
    await agents.runs.cancel(run.thread_id, run.id)
    await agents.messages.create(run.thread_id, role="user", content="@say on")
    again = await agents.runs.create(run.thread_id, agent_id=str(run.agent_id))
    assert (await settled(agents, again)).status == "completed"


async def test_of_many_runs_at_once_one_begins(agents: AgentsClient) -> None:
    agent, thread = await assistant(agents), await thread_with(agents, "@tool f {}")
    begun = await asyncio.gather(
        *(agents.runs.create(thread.id, agent_id=agent.id) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(run, ThreadRun) for run in begun) == 1
    assert len([run async for run in agents.runs.list(thread.id)]) == 1


async def test_a_waiting_run_is_cancelled(agents: AgentsClient) -> None:
    run = await ran(agents, "@tool f {}", "f")
    assert (await agents.runs.cancel(run.thread_id, run.id)).status == "cancelling"
    cancelled = await settled(agents, await agents.runs.get(run.thread_id, run.id))
    assert cancelled.status == "cancelled"
    assert (cancelled["required_action"], cancelled["last_error"]) == (None, None)
    assert cancelled.cancelled_at is not None
    (step,) = await steps_of(agents, run)
    assert (step.status, step.cancelled_at) == ("cancelled", cancelled.cancelled_at)
    await refused(agents.runs.cancel(run.thread_id, run.id), "Cannot cancel run with status 'cancelled'")
    await refused(
        agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=outputs_for(run)), "do not accept"
    )


async def test_a_run_at_work_is_cancelled_and_what_it_said_is_kept(connect_agents: Connect) -> None:
    model = Halting()
    async with FoundryEmulator(model=model) as emulator, connect_agents(emulator.endpoint) as client:
        agent, thread = await assistant(client), await thread_with(client, "hello")
        run = await client.runs.create(thread.id, agent_id=agent.id)
        assert (run["status"], run["started_at"]) == ("queued", None)
        await model.speaking.wait()
        assert (await client.runs.get(thread.id, run.id)).status == "in_progress"
        (step,) = await steps_of(client, run)
        assert step.status == "in_progress"
        assert (await client.runs.cancel(thread.id, run.id)).status == "cancelling"
        assert (await settled(client, await client.runs.get(thread.id, run.id))).status == "cancelled"
        (message,) = [found async for found in client.messages.list(thread.id, run_id=run.id)]
        assert (message.status, message.incomplete_details.reason) == ("incomplete", "run_cancelled")
        assert message.text_messages[0].text.value == "well "
        assert [step.status for step in await steps_of(client, run)] == ["cancelled"]


async def test_a_run_waits_until_it_expires(connect_agents: Connect) -> None:
    clock = Clock()
    async with FoundryEmulator(clock=clock) as emulator, connect_agents(emulator.endpoint) as client:
        run = await ran(client, "@tool f {}", "f")
        assert (run.expires_at - run.created_at).total_seconds() == 600
        outputs = outputs_for(run)
        clock.now += 599
        assert (await client.runs.get(run.thread_id, run.id)).status == "requires_action"
        clock.now += 1
        await refused(
            client.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=outputs),
            'Runs in status "expired" do not accept tool outputs',
        )
        expired = await client.runs.get(run.thread_id, run.id)
        assert (expired.status, expired.required_action) == ("expired", None)
        assert [step.status for step in await steps_of(client, run)] == ["expired"]
        await client.messages.create(run.thread_id, role="user", content="@say free")
        again = await client.runs.create(run.thread_id, agent_id=str(run.agent_id))
        assert (await settled(client, again)).status == "completed"


async def test_a_run_at_work_has_expired_when_its_time_is_over(connect_agents: Connect) -> None:
    model, clock = Halting(), Clock()
    async with (
        FoundryEmulator(model=model, clock=clock, run_expiry=1) as emulator,
        connect_agents(emulator.endpoint) as client,
    ):
        agent, thread = await assistant(client), await thread_with(client, "hello")
        run = await client.runs.create(thread.id, agent_id=agent.id)
        await model.speaking.wait()
        clock.now += 1
        seen = await client.runs.get(thread.id, run.id)
        assert seen.status == "expired"
        (message,) = [found async for found in client.messages.list(thread.id, run_id=run.id)]
        assert (message.status, message.incomplete_details.reason) == ("incomplete", "run_expired")


async def test_a_run_at_work_expires_by_itself(connect_agents: Connect) -> None:
    clock = Clock()
    clock.now += 0.95  # it stands still, and the wire has whole seconds: 50 ms are left to the run
    async with (
        FoundryEmulator(model=Halting(), clock=clock, run_expiry=0.01) as emulator,
        connect_agents(emulator.endpoint) as client,
    ):
        agent, thread = await assistant(client), await thread_with(client, "hello")
        run = await settled(client, await client.runs.create(thread.id, agent_id=agent.id))
        assert run.status == "expired"


@pytest.mark.parametrize("code", ["server_error", "rate_limit_exceeded", "content_filter", "context_length_exceeded"])
async def test_a_failed_run_tells_why_below_http_200(agents: AgentsClient, code: str) -> None:
    run = await ran(agents, f"@fail {code}")
    assert run.status == "failed"
    assert run.last_error.code == code
    assert run.last_error.message
    assert run.failed_at is not None
    again = await agents.runs.create(run.thread_id, agent_id=str(run.agent_id))
    assert (await settled(agents, again)).status == "failed"


async def test_a_run_can_fail_after_its_tools(agents: AgentsClient) -> None:
    run = await ran(agents, "@tool f {}\n@fail rate_limit_exceeded", "f")
    submitted = await agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=outputs_for(run))
    failed = await settled(agents, submitted)
    assert (failed.status, failed.last_error.code) == ("failed", "rate_limit_exceeded")
    assert [step.status for step in await steps_of(agents, run)] == ["completed"]


async def test_a_run_may_replace_what_its_assistant_says(connect_agents: Connect) -> None:
    model = Halting()
    model.go.set()
    async with FoundryEmulator(model=model) as emulator, connect_agents(emulator.endpoint) as client:
        agent, thread = await assistant(client, "f"), await thread_with(client, "one")
        plain = await client.runs.create(thread.id, agent_id=agent.id, additional_instructions="Be brief.")
        await settled(client, plain)
        run = await client.runs.create(
            thread.id,
            agent_id=agent.id,
            model="llama-3.3-70b-cfo",
            instructions="You are another.",
            additional_instructions="Be long.",
            additional_messages=[ThreadMessageOptions(role="user", content="two")],
            tools=[function("g")],
            tool_choice=AgentsNamedToolChoice(type="function", function=FunctionName(name="g")),
            temperature=0.5,
            max_completion_tokens=100,
            metadata={"turn": "1"},
        )
        done = await settled(client, run)
        assert (done.status, done.model, done.metadata) == ("completed", "llama-3.3-70b-cfo", {"turn": "1"})
        first, second = model.requests
        assert first.instructions == plain.instructions == "You are the ledger.\nBe brief."
        assert (first.deployment, [tool.name for tool in first.tools], first.tool_choice) == (MODEL, ["f"], "auto")
        assert first.tools[0].description == "Key figures"
        assert first.tools[0].parameters == SCHEMA
        assert second.instructions == "You are another.\nBe long."
        assert (second.deployment, [tool.name for tool in second.tools]) == ("llama-3.3-70b-cfo", ["g"])
        assert (second.tool_choice, second.temperature, second.max_output_tokens) == ("g", 0.5, 100)
        assert await texts(client, thread.id) == [
            ("user", "one"),
            ("assistant", "well then"),
            ("user", "two"),
            ("assistant", "well then"),
        ]
        assert (await client.get_agent(agent.id)).instructions == "You are the ledger."


async def test_an_old_thread_is_cut_to_fit(connect_agents: Connect) -> None:
    model = Halting()
    model.go.set()
    async with FoundryEmulator(model=model, context_window=50) as emulator, connect_agents(emulator.endpoint) as client:
        agent = await client.create_agent(model=MODEL)
        messages = [ThreadMessageOptions(role="user", content=f"m{number} {'word ' * 10}") for number in range(9)]
        thread = await client.threads.create(messages=messages)
        await settled(client, await client.runs.create(thread.id, agent_id=agent.id))
        assert [turn.text[:2] for turn in model.requests[0].history] == ["m5", "m6", "m7", "m8"]  # type: ignore[union-attr]
        cut = await client.runs.create(
            thread.id, agent_id=agent.id, truncation_strategy=TruncationObject(type="last_messages", last_messages=2)
        )
        await settled(client, cut)
        assert [turn.text[:2] for turn in model.requests[1].history] == ["m8", "we"]  # type: ignore[union-attr]
        await client.messages.create(thread.id, role="user", content="word " * 51)
        long = await settled(client, await client.runs.create(thread.id, agent_id=agent.id))
        assert (long.status, long.last_error.code) == ("failed", "context_length_exceeded")


async def test_token_limits_end_a_run_as_incomplete(agents: AgentsClient) -> None:
    agent, thread = await assistant(agents), await thread_with(agents, "@say one two three")
    run = await settled(agents, await agents.runs.create(thread.id, agent_id=agent.id, max_completion_tokens=2))
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_completion_tokens")
    message = await anext(aiter(agents.messages.list(thread.id)))
    assert (message.status, message.text_messages[0].text.value) == ("incomplete", "one two ")
    await agents.messages.create(thread.id, role="user", content="word " * 300)
    run = await settled(agents, await agents.runs.create(thread.id, agent_id=agent.id, max_prompt_tokens=256))
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_prompt_tokens")


async def test_a_thread_is_created_with_its_run(agents: AgentsClient) -> None:
    agent = await assistant(agents)
    thread = AgentThreadCreationOptions(
        messages=[ThreadMessageOptions(role="user", content="@say together")], metadata={"who": "me"}
    )
    run = await settled(agents, await agents.create_thread_and_run(agent_id=agent.id, thread=thread))
    assert run.status == "completed"
    assert (await agents.threads.get(run.thread_id)).metadata == {"who": "me"}
    assert await texts(agents, run.thread_id) == [("user", "@say together"), ("assistant", "together")]


async def test_runs_and_steps_are_listed_in_pages(agents: AgentsClient) -> None:
    agent, thread = await assistant(agents), await thread_with(agents, "@say x")
    assert [run async for run in agents.runs.list(thread.id)] == []
    made = []
    for _ in range(3):
        run = await settled(agents, await agents.runs.create(thread.id, agent_id=agent.id))
        made.append(run.id)
    assert [run.id async for run in agents.runs.list(thread.id, limit=2)] == made[::-1]
    assert len([step async for step in agents.run_steps.list(thread.id, made[0], limit=1)]) == 1


async def test_a_run_is_updated_while_it_waits(agents: AgentsClient) -> None:
    run = await ran(agents, "@tool f {}", "f")
    assert (await agents.runs.update(run.thread_id, run.id, metadata={"seen": "1"})).metadata == {"seen": "1"}
    submitted = await agents.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=outputs_for(run))
    assert (await settled(agents, submitted)).metadata == {"seen": "1"}


async def test_what_a_run_names_must_exist(agents: AgentsClient) -> None:
    agent, thread = await assistant(agents), await thread_with(agents, "x")
    with pytest.raises(ResourceNotFoundError, match="asst_none"):
        await agents.runs.create(thread.id, agent_id="asst_none")
    with pytest.raises(ResourceNotFoundError, match="gpt-none") as caught:
        await agents.runs.create(thread.id, agent_id=agent.id, model="gpt-none")
    assert caught.value.error is not None
    assert caught.value.error.code == "DeploymentNotFound"
    await refused(
        agents.runs.create(thread.id, agent_id=agent.id, tools=[function(f"f{number}") for number in range(129)]), "128"
    )
    for missing in (
        agents.runs.get(thread.id, "run_none"),
        agents.runs.cancel(thread.id, "run_none"),
        agents.runs.submit_tool_outputs(thread.id, "run_none", tool_outputs=[]),
        agents.run_steps.get(thread.id, "run_none", "step_none"),
    ):
        with pytest.raises(ResourceNotFoundError, match="run_none"):
            await missing
    assert [run async for run in agents.runs.list(thread.id)] == []


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("tool_choice", "perhaps", "tool_choice"),
        ("tool_choice", {"type": "function"}, "tool_choice"),
        ("truncation_strategy", {"type": "last_messages"}, "truncation_strategy"),
        ("truncation_strategy", {"type": "auto", "last_messages": 1}, "truncation_strategy"),
        ("temperature", 3, "temperature"),
        ("max_completion_tokens", 0, "max_completion_tokens"),
        ("additional_messages", [{"role": "user", "content": ""}], "additional_messages[0].content"),
        ("tools", [{"type": "function"}], "tools[0].function"),
        ("metadata", {"k": 1}, "metadata.k"),
    ],
)
async def test_a_bad_setting_is_refused_by_its_name_and_nothing_is_stored(
    http: httpx2.AsyncClient, agents: AgentsClient, field: str, value: object, param: str
) -> None:
    agent, thread = await assistant(agents), await thread_with(agents, "x")
    body = {"assistant_id": agent.id, field: value}
    answer = await http.post(f"/threads/{thread.id}/runs?api-version=v1", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert [run async for run in agents.runs.list(thread.id)] == []
    assert len(await texts(agents, thread.id)) == 1


async def test_a_thread_may_be_deleted_while_it_runs(connect_agents: Connect) -> None:
    model = Halting()
    async with FoundryEmulator(model=model) as emulator, connect_agents(emulator.endpoint) as client:
        agent, thread = await assistant(client), await thread_with(client, "hello")
        run = await client.runs.create(thread.id, agent_id=agent.id)
        await model.speaking.wait()
        await client.threads.delete(thread.id)
        with pytest.raises(ResourceNotFoundError):
            await client.runs.get(thread.id, run.id)


async def test_the_sdk_runs_tools_by_itself(connect_agents: Connect, emulator: FoundryEmulator) -> None:
    def get_kpis(year: int) -> str:
        """Key figures of a year.

        :param year: The year.
        """
        return json.dumps({"revenue": year * 1000})

    async with connect_agents(emulator.endpoint) as client:
        client.enable_auto_function_calls({get_kpis})
        agent = await client.create_agent(model=MODEL, tools=[function("get_kpis")])
        thread = await thread_with(client, '@tool get_kpis {"year": 2025}')
        run = await client.runs.create_and_process(thread.id, agent_id=agent.id, polling_interval=0)
        assert run.status == "completed"
        assert "2,025,000" in (await texts(client, thread.id))[1][1]


async def test_faults_and_counts_cover_the_protocol(agents: AgentsClient, emulator: FoundryEmulator) -> None:
    agent, thread = await assistant(agents), await thread_with(agents, "@say through")
    async with httpx2.AsyncClient(base_url=emulator.url) as admin:
        await admin.delete("/_emulator/calls")
        await admin.post("/_emulator/faults", json={"status": 429, "path_contains": "/runs", "retry_after": 0.01})
        await refused(agents.runs.create(thread.id, agent_id=agent.id), "Injected", 429)
        await admin.post("/_emulator/model_faults", json={"code": "rate_limit_exceeded", "times": 2})
        for _ in range(2):
            run = await settled(agents, await agents.runs.create(thread.id, agent_id=agent.id))
            assert (run.status, run.last_error.code) == ("failed", "rate_limit_exceeded")
        assert (await admin.get("/_emulator/model_faults")).json() == {"faults": []}
        run = await settled(agents, await agents.runs.create(thread.id, agent_id=agent.id))
        assert run.status == "completed"
        counts = (await admin.get("/_emulator/calls")).json()["counts"]
        assert counts["POST /threads/{thread}/runs"] == 4
        await admin.post("/_emulator/model_faults", json={"times": 3})
        assert (await admin.delete("/_emulator/model_faults")).json() == {"faults": []}
        bad = await admin.post("/_emulator/model_faults", json={"times": 0})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "times")
