from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import httpx2
import openai
import pytest
import pytest_asyncio
from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import FunctionTool, PromptAgentDefinition
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall

from emulators.foundry import FoundryEmulator
from emulators.foundry.model import count_tokens

Connect = Callable[[str], AbstractAsyncContextManager[tuple[AIProjectClient, AsyncOpenAI]]]
AGENT = {"agent_reference": {"type": "agent_reference", "name": "ledger"}}
MODEL = "llama-3.3-70b"
KPIS = FunctionTool(
    name="company-ledger_get_kpis",
    description="Key figures of a quarter",
    parameters={"type": "object", "properties": {"year": {"type": "integer"}, "quarter": {"type": "string"}}},
    strict=False,
)


@pytest_asyncio.fixture(scope="module", autouse=True)
async def agent(project: AIProjectClient) -> None:
    for instructions in ("You were the ledger.", "You are the ledger."):
        definition = PromptAgentDefinition(
            model="llama-3.3-70b-cfo", instructions=instructions, tools=[KPIS], temperature=0.3
        )
        await project.agents.create_version("ledger", definition=definition)


async def items_of(runtime: AsyncOpenAI, conversation: str) -> list[str]:
    return [item.type async for item in runtime.conversations.items.list(conversation, order="asc")]


def calls_of(response: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]


async def test_an_agent_calls_a_tool_and_answers_from_its_result(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    asked = await runtime.responses.create(
        conversation=conversation.id, input='@tool get_kpis {"year": 2025}', extra_body=AGENT
    )
    Response.model_validate(asked.to_dict())
    (call,) = calls_of(asked)
    assert (call.name, call.arguments, call.status) == ("company-ledger_get_kpis", '{"year": 2025}', "completed")
    assert call.call_id.startswith("call_")
    answered = await runtime.responses.create(
        conversation=conversation.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": '{"revenue": 1250000}'}],
        extra_body=AGENT,
    )
    Response.model_validate(answered.to_dict())
    assert calls_of(answered) == []
    assert "1,250,000" in answered.output_text
    assert "company-ledger_get_kpis" in answered.output_text
    assert await items_of(runtime, conversation.id) == ["message", "function_call", "function_call_output", "message"]


async def test_a_response_says_who_made_it_and_from_what(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    made = await runtime.responses.create(
        conversation=conversation.id, input="@say fine", metadata={"mine": "1"}, extra_body=AGENT
    )
    assert made.id.startswith("resp_")
    assert (made.status, made.model, made.object) == ("completed", "llama-3.3-70b-cfo", "response")
    assert made.metadata == {"mine": "1", "emulator": "offline", "model_kind": "offline"}
    assert made.conversation is not None
    assert made.conversation.id == conversation.id
    assert (made.instructions, made.temperature, len(made.tools)) == ("You are the ledger.", 0.3, 1)
    assert made.to_dict()["agent_reference"] == {"type": "agent_reference", "name": "ledger", "version": "2"}
    assert made.completed_at is not None
    assert made.completed_at >= made.created_at


async def test_a_version_may_be_named(runtime: AsyncOpenAI) -> None:
    reference = {"agent_reference": {"type": "agent_reference", "name": "ledger", "version": "1"}}
    assert (await runtime.responses.create(input="hi", extra_body=reference)).instructions == "You were the ledger."


async def test_usage_counts_all_that_is_read_and_written(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    first = await runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say one two three")
    second = await runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say four")
    assert first.usage is not None
    assert second.usage is not None
    asked = count_tokens("@say one two three")
    assert (first.usage.input_tokens, first.usage.output_tokens) == (asked, count_tokens("one two three"))
    history = asked + first.usage.output_tokens
    assert second.usage.input_tokens == history + count_tokens("@say four")
    assert second.usage.total_tokens == second.usage.input_tokens + second.usage.output_tokens
    with_tools = await runtime.responses.create(input="@say four", extra_body=AGENT)
    assert with_tools.usage is not None
    assert with_tools.usage.input_tokens > second.usage.input_tokens


async def test_a_call_counts_as_output(runtime: AsyncOpenAI) -> None:
    made = await runtime.responses.create(input='@tool get_kpis {"year": 2025}', extra_body=AGENT)
    assert made.usage is not None
    assert made.usage.output_tokens == count_tokens('company-ledger_get_kpis {"year": 2025}')


async def test_several_calls_wait_for_all_their_outputs(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    two = "@tool get_kpis {}\n@tool other {}"
    made = await runtime.responses.create(conversation=conversation.id, input=two, extra_body=AGENT)
    first, second = calls_of(made)
    assert (first.name, second.name) == ("company-ledger_get_kpis", "other")
    half = [{"type": "function_call_output", "call_id": first.call_id, "output": "1"}]
    with pytest.raises(openai.BadRequestError) as caught:
        await runtime.responses.create(conversation=conversation.id, input=half, extra_body=AGENT)  # type: ignore[arg-type]
    assert f"No tool output found for function call {second.call_id}" in caught.value.message
    assert await items_of(runtime, conversation.id) == ["message", "function_call", "function_call"]
