"""Azure Functions that the service calls itself, on the responses protocol: the SDK's tool, queues in Azurite."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import (
    AzureFunctionBinding,
    AzureFunctionDefinition,
    AzureFunctionDefinitionFunction,
    AzureFunctionStorageQueue,
    AzureFunctionTool,
    FunctionTool,
    PromptAgentDefinition,
    Tool,
)
from azure.core.exceptions import HttpResponseError
from openai import AsyncOpenAI

from emulators.azurite import Azurite
from tests.emulators.foundry.test_azure_functions import MODEL, SCHEMA, Function


@pytest_asyncio.fixture
async def function(azurite: Azurite) -> AsyncIterator[Function]:
    function = Function(azurite)
    async with function.input, function.output:
        yield function


def tool(function: Function) -> AzureFunctionTool:
    def binding(queue: str) -> AzureFunctionBinding:
        where = AzureFunctionStorageQueue(queue_service_endpoint=function.endpoint, queue_name=queue)
        return AzureFunctionBinding(storage_queue=where)

    return AzureFunctionTool(
        azure_function=AzureFunctionDefinition(
            function=AzureFunctionDefinitionFunction(name="double", description="Doubles.", parameters=SCHEMA),
            input_binding=binding(function.input.queue_name),
            output_binding=binding(function.output.queue_name),
        )
    )


async def made(project: AIProjectClient, *tools: Tool) -> dict[str, Any]:
    """An agent, as what `responses.create` takes."""
    name = f"clerk-{uuid.uuid4().hex[:6]}x"
    definition = PromptAgentDefinition(model=MODEL, instructions="Doubles.", tools=list(tools))
    await project.agents.create_version(name, definition=definition)
    return {"agent_reference": {"type": "agent_reference", "name": name}}


async def answer(function: Function, count: int = 1) -> None:
    for call in reversed(await function.calls(count)):
        await function.reply(f"twice {call['n']}", call["CorrelationId"])


async def test_the_service_calls_and_the_model_goes_on(
    project: AIProjectClient, runtime: AsyncOpenAI, function: Function
) -> None:
    agent = await made(project, tool(function))
    conversation = await runtime.conversations.create()
    asking = asyncio.create_task(
        runtime.responses.create(
            conversation=conversation.id,
            input='@tool double {"n": 1}\n@tool double {"n": 2}',
            extra_body=agent,
        )
    )
    await answer(function, 2)
    response = await asking
    assert "twice 1" in response.output_text
    assert "twice 2" in response.output_text
    kinds = [str(item.type) for item in response.output]
    assert kinds == ["azure_function_call"] * 2 + ["azure_function_call_output"] * 2 + ["message"]
    assert response.usage is not None
    assert response.usage.output_tokens > 0
    kept = [str(item.type) async for item in runtime.conversations.items.list(conversation.id, order="asc")]
    assert kept == ["message", *kinds]
    following = await runtime.responses.create(conversation=conversation.id, input="@say on", extra_body=agent)
    assert following.output_text == "on"


async def test_a_stream_tells_of_the_call_and_its_output(
    project: AIProjectClient, runtime: AsyncOpenAI, function: Function
) -> None:
    agent = await made(project, tool(function))
    replying = asyncio.create_task(answer(function))
    done: list[str] = []
    async with await runtime.responses.create(input='@tool double {"n": 4}', extra_body=agent, stream=True) as events:
        async for event in events:
            if event.type == "response.output_item.done":
                done.append(str(event.item.type))
            elif event.type == "response.completed":
                assert "twice 4" in event.response.output_text
    await replying
    assert done == ["azure_function_call", "azure_function_call_output", "message"]


async def test_a_step_with_both_kinds_of_calls_waits_for_the_client(
    project: AIProjectClient, runtime: AsyncOpenAI, function: Function
) -> None:
    other = FunctionTool(name="triple", description="x", parameters=SCHEMA, strict=False)
    agent = await made(project, tool(function), other)
    conversation = await runtime.conversations.create()
    replying = asyncio.create_task(answer(function))
    first = await runtime.responses.create(
        conversation=conversation.id, input='@tool double {"n": 1}\n@tool triple {"n": 1}', extra_body=agent
    )
    await replying
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert "azure_function_call_output" in [str(item.type) for item in first.output]
    second = await runtime.responses.create(
        conversation=conversation.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "threefold"}],
        extra_body=agent,
    )
    assert "twice 1" in second.output_text
    assert "threefold" in second.output_text


async def test_a_tool_without_its_queues_and_a_connected_agent_are_refused(project: AIProjectClient) -> None:
    for bad, why in (
        ({"type": "azure_function", "azure_function": {"function": {"name": "double"}}}, "input_binding"),
        ({"type": "connected_agent", "connected_agent": {"id": "a", "name": "b", "description": "c"}}, "unknown tool"),
    ):
        definition: Any = {"kind": "prompt", "model": MODEL, "tools": [bad]}
        with pytest.raises(HttpResponseError, match=why):
            await project.agents.create_version("clerk-bad", definition=definition)
