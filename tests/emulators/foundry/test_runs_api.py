from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    Agent,
    AgentThread,
    FunctionDefinition,
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
)

from emulators.foundry.model import count_tokens

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
    for _ in range(500):
        if run.status not in ("queued", "in_progress", "cancelling"):
            return run
        await asyncio.sleep(0.005)
        run = await agents.runs.get(run.thread_id, run.id)
    raise AssertionError(f"still {run.status}")


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
