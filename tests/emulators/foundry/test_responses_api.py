from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx2
import openai
import pytest
import pytest_asyncio
from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import FunctionTool, PromptAgentDefinition
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseInputParam

from emulators.foundry import FoundryEmulator
from emulators.foundry.model import ModelEvent, ModelRequest, TextDelta, count_tokens
from emulators.foundry.offline import OfflineModel
from tests.foundry.pacing import HeldModel

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


async def until(runtime: AsyncOpenAI, conversation: str, count: int) -> None:
    """Wait until the conversation has so many items."""
    async with asyncio.timeout(30):
        while len(await items_of(runtime, conversation)) != count:  # noqa: ASYNC110  # only the API tells
            await asyncio.sleep(0.005)


def calls_of(response: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]


def outputs(results: dict[str, str]) -> ResponseInputParam:
    found: ResponseInputParam = []
    for call_id, output in results.items():
        found.append({"type": "function_call_output", "call_id": call_id, "output": output})
    return found


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
        input=outputs({call.call_id: '{"revenue": 1250000}'}),
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
    half = outputs({first.call_id: "1"})
    with pytest.raises(openai.BadRequestError) as caught:
        await runtime.responses.create(conversation=conversation.id, input=half, extra_body=AGENT)
    assert f"No tool output found for function call {second.call_id}" in caught.value.message
    assert await items_of(runtime, conversation.id) == ["message", "function_call", "function_call"]


async def test_outputs_for_unknown_or_answered_calls_are_refused(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    with pytest.raises(openai.BadRequestError, match="No tool call found for function call output with call_id call_x"):
        await runtime.responses.create(conversation=conversation.id, input=outputs({"call_x": "1"}), extra_body=AGENT)
    made = await runtime.responses.create(conversation=conversation.id, input="@tool get_kpis {}", extra_body=AGENT)
    answer = outputs({calls_of(made)[0].call_id: "1"})
    await runtime.responses.create(conversation=conversation.id, input=answer, extra_body=AGENT)
    with pytest.raises(openai.BadRequestError) as caught:
        await runtime.responses.create(conversation=conversation.id, input=answer, extra_body=AGENT)
    assert caught.value.code == "duplicate_function_call_output"
    await runtime.responses.create(conversation=conversation.id, input="@tool get_kpis {}", extra_body=AGENT)
    with pytest.raises(openai.BadRequestError, match="No tool output found"):
        await runtime.responses.create(conversation=conversation.id, input="never mind", extra_body=AGENT)


async def test_input_already_in_the_conversation_need_not_be_sent_again(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create(items=[{"role": "user", "content": "@say from the items"}])
    made = await runtime.responses.create(conversation=conversation.id, model=MODEL, input=[])
    assert made.output_text == "from the items"
    with pytest.raises(openai.BadRequestError) as caught:
        await runtime.responses.create(model=MODEL, input=[])
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    "override",
    [
        {"model": MODEL},
        {"instructions": "Be someone else."},
        {"tools": [{"type": "function", "name": "f", "parameters": {}, "strict": False}]},
        {"temperature": 0.1},
        {"tool_choice": "none"},
    ],
)
async def test_an_agent_cannot_be_overridden(runtime: AsyncOpenAI, override: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError, match="Not allowed when agent is specified") as caught:
        await runtime.responses.create(input="hi", extra_body={**AGENT, **override})
    assert caught.value.param == next(iter(override))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"agent_reference": {"type": "agent_reference", "name": "nobody"}}, 404, "not_found"),
        ({"agent_reference": {"type": "agent_reference", "name": "ledger", "version": "99"}}, 404, "not_found"),
        ({"agent_reference": {"name": "ledger"}}, 400, "invalid_payload"),
        ({"model": "gpt-9"}, 404, "DeploymentNotFound"),
        ({}, 400, "missing_required_parameter"),
        ({"model": MODEL, "conversation": "conv_none"}, 404, "not_found"),
        ({"model": MODEL, "previous_response_id": "resp_none"}, 404, "not_found"),
        ({"model": MODEL, "previous_response_id": "r", "conversation": "c"}, 400, "mutually_exclusive_parameters"),
        ({"model": MODEL, "temperature": 3}, 400, "invalid_payload"),
        ({"model": MODEL, "metadata": {"k": "v" * 513}}, 400, "invalid_payload"),
        ({"model": MODEL, "input": [{"type": "hologram"}]}, 400, "invalid_payload"),
        ({"model": MODEL, "tools": [{"type": "function", "name": "a b"}]}, 400, "invalid_payload"),
    ],
)
async def test_refusals(http: httpx2.AsyncClient, body: dict[str, object], status: int, code: str) -> None:
    answer = await http.post("/openai/v1/responses", json={"input": "hi", **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_chain_of_responses_is_one_history(runtime: AsyncOpenAI) -> None:
    first = await runtime.responses.create(model=MODEL, input="My dog is called Rex.")
    second = await runtime.responses.create(model=MODEL, input="@say noted", previous_response_id=first.id)
    third = await runtime.responses.create(
        model=MODEL, input="What did I say about my dog?", previous_response_id=second.id
    )
    assert "Rex" in third.output_text
    assert third.previous_response_id == second.id
    inputs = [item async for item in runtime.responses.input_items.list(third.id, limit=1)]
    assert len(inputs) == 1


async def test_a_stored_response_is_read_and_deleted_and_an_unstored_one_is_not_there(runtime: AsyncOpenAI) -> None:
    made = await runtime.responses.create(model=MODEL, input="@say kept")
    assert await runtime.responses.retrieve(made.id) == made
    await runtime.responses.delete(made.id)
    unstored = await runtime.responses.create(model=MODEL, input="@say lost", store=False)
    assert unstored.output_text == "lost"
    for response_id in (made.id, unstored.id):
        with pytest.raises(openai.NotFoundError):
            await runtime.responses.retrieve(response_id)
        with pytest.raises(openai.NotFoundError):
            await runtime.responses.delete(response_id)
        with pytest.raises(openai.NotFoundError):
            await runtime.responses.cancel(response_id)


async def test_a_failed_response_keeps_its_input_and_no_output(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    made = await runtime.responses.create(conversation=conversation.id, model=MODEL, input="@fail server_error")
    Response.model_validate(made.to_dict())
    assert (made.status, made.output) == ("failed", [])
    assert made.error is not None
    assert made.error.code == "server_error"
    assert await items_of(runtime, conversation.id) == ["message"]


async def test_filtered_content_leaves_an_incomplete_response(runtime: AsyncOpenAI) -> None:
    made = await runtime.responses.create(model=MODEL, input="@fail content_filter")
    Response.model_validate(made.to_dict())
    assert made.status == "incomplete"
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "content_filter"


async def test_an_answer_cut_short_is_kept_as_incomplete(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    made = await runtime.responses.create(
        conversation=conversation.id, model=MODEL, input="@say one two three four", max_output_tokens=2
    )
    Response.model_validate(made.to_dict())
    assert (made.status, made.output_text) == ("incomplete", "one two ")
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert await items_of(runtime, conversation.id) == ["message", "message"]


async def test_what_does_not_fit_the_context_is_refused_and_not_stored(connect: Connect) -> None:
    async with FoundryEmulator(context_window=50) as emulator, connect(emulator.endpoint) as (_, runtime):
        conversation = await runtime.conversations.create()
        await runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say short")
        for text in ("word " * 60, "@fail context_length_exceeded"):
            with pytest.raises(openai.BadRequestError) as caught:
                await runtime.responses.create(conversation=conversation.id, model=MODEL, input=text)
            assert caught.value.code == "context_length_exceeded"
        assert await items_of(runtime, conversation.id) == ["message", "message"]


async def test_a_background_response_is_polled_and_can_be_cancelled(connect: Connect) -> None:
    model = HeldModel()
    async with FoundryEmulator(model=model) as emulator, connect(emulator.endpoint) as (_, runtime):
        conversation = await runtime.conversations.create()
        made = await runtime.responses.create(
            conversation=conversation.id, model=MODEL, input="@say later", background=True
        )
        assert made.status == "in_progress"
        with pytest.raises(openai.ConflictError):
            await runtime.responses.delete(made.id)
        model.go.set()
        while made.status == "in_progress":
            made = await runtime.responses.retrieve(made.id)
        assert (made.status, made.output_text) == ("completed", "later")
        assert await runtime.responses.cancel(made.id) == made
        model.go.clear()
        second = await runtime.responses.create(
            conversation=conversation.id, model=MODEL, input="@say never", background=True
        )
        cancelled = await runtime.responses.cancel(second.id)
        Response.model_validate(cancelled.to_dict())
        assert (cancelled.status, cancelled.output) == ("cancelled", [])
        assert (await runtime.responses.retrieve(second.id)).status == "cancelled"
        assert await items_of(runtime, conversation.id) == ["message", "message", "message"]
        model.go.set()
        third = await runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say on")
        assert third.output_text == "on"
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            await runtime.responses.cancel(third.id)


async def test_a_conversation_is_locked_while_a_response_runs_and_others_are_not(connect: Connect) -> None:
    model = HeldModel()
    async with FoundryEmulator(model=model) as emulator, connect(emulator.endpoint) as (_, runtime):
        conversation = await runtime.conversations.create()
        running = asyncio.create_task(
            runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say first")
        )
        await until(runtime, conversation.id, 1)
        (item,) = [item async for item in runtime.conversations.items.list(conversation.id)]
        assert item.id is not None
        for call in (
            lambda: runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say second"),
            lambda: runtime.conversations.items.create(conversation.id, items=[{"role": "user", "content": "x"}]),
            lambda: runtime.conversations.items.delete(str(item.id), conversation_id=conversation.id),
            lambda: runtime.conversations.delete(conversation.id),
        ):
            with pytest.raises(openai.ConflictError) as caught:
                await call()
            assert caught.value.code == "conversation_locked"
        model.go.set()
        assert (await running).output_text == "first"
        assert (
            await runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say second")
        ).output_text == "second"


class Together(OfflineModel):
    """The offline model, which answers nobody before it has been asked by so many at once."""

    def __init__(self, parties: int) -> None:
        self._all = asyncio.Barrier(parties)

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        async with asyncio.timeout(30):
            await self._all.wait()
        async for event in super().step(request):
            yield event


async def test_conversations_run_side_by_side(connect: Connect) -> None:
    async with FoundryEmulator(model=Together(20)) as emulator, connect(emulator.endpoint) as (_, runtime):

        async def talk(number: int) -> list[str]:
            conversation = await runtime.conversations.create()
            for turn in range(2):
                await runtime.responses.create(conversation=conversation.id, model=MODEL, input=f"@say {number}.{turn}")
            items = [item async for item in runtime.conversations.items.list(conversation.id, order="asc")]
            return [item.to_dict()["content"][0]["text"] for item in items]  # type: ignore[index]

        histories = await asyncio.gather(*(talk(number) for number in range(20)))
        for number, history in enumerate(histories):
            assert history == [f"@say {number}.0", f"{number}.0", f"@say {number}.1", f"{number}.1"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_whose_client_left_is_finished(connect: Connect, stream: bool) -> None:
    model = HeldModel()
    async with FoundryEmulator(model=model) as emulator, connect(emulator.endpoint) as (_, runtime):
        conversation = await runtime.conversations.create()
        await leave(emulator, model, conversation.id, stream=stream)
        await asyncio.sleep(0.1)  # time to notice that the client is gone
        model.go.set()
        await until(runtime, conversation.id, 2)
        again = await runtime.responses.create(conversation=conversation.id, model=MODEL, input="@say back")
        assert again.status == "completed"
        assert await items_of(runtime, conversation.id) == ["message"] * 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_whose_client_left_is_dropped_if_so_set(connect: Connect, stream: bool) -> None:
    model = HeldModel()
    async with (
        FoundryEmulator(model=model, on_disconnect="drop") as emulator,
        connect(emulator.endpoint) as (_, runtime),
    ):
        conversation = await runtime.conversations.create()
        await leave(emulator, model, conversation.id, stream=stream)
        async with asyncio.timeout(30):
            while True:  # the lock goes when the response is dropped
                try:
                    await runtime.conversations.items.create(conversation.id, items=[{"role": "user", "content": "x"}])
                    break
                except openai.ConflictError:
                    await asyncio.sleep(0.02)
        assert await items_of(runtime, conversation.id) == ["message", "message"]


async def leave(emulator: FoundryEmulator, model: HeldModel, conversation: str, *, stream: bool) -> None:
    """Ask for a response and hang up while it is being made."""
    body = {"conversation": conversation, "model": MODEL, "input": "@say hello", "stream": stream}
    async with httpx2.AsyncClient(headers={"api-key": "k"}, timeout=None) as http:  # it hangs up itself
        asking = asyncio.create_task(http.post(f"{emulator.endpoint}/openai/v1/responses", json=body))
        async with asyncio.timeout(30):
            await model.began.wait()
        asking.cancel()
        await asyncio.wait([asking])


async def test_structured_output_is_json_of_the_schema(runtime: AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"year": {"type": "integer"}, "quarter": {"type": "string", "enum": ["Q1", "Q2", "Q3", "Q4"]}},
        "required": ["year", "quarter"],
        "additionalProperties": False,
    }
    made = await runtime.responses.create(
        model=MODEL,
        input="Which quarter was best? I think Q3 2025.",
        text={"format": {"type": "json_schema", "name": "period", "schema": schema}},
    )
    Response.model_validate(made.to_dict())
    assert json.loads(made.output_text) == {"year": 2025, "quarter": "Q3"}


async def test_running_responses_do_not_hold_the_emulator_open(connect: Connect) -> None:
    clock = asyncio.get_running_loop().time
    async with contextlib.AsyncExitStack() as stack:
        emulator = FoundryEmulator(latency_ms=60_000)
        async with emulator:
            _, runtime = await stack.enter_async_context(connect(emulator.endpoint))
            conversation = await runtime.conversations.create()
            running = asyncio.create_task(
                runtime.responses.create(model=MODEL, input="@say never", conversation=conversation.id)
            )
            await until(runtime, conversation.id, 1)
            started = clock()
        assert clock() - started < 30  # not the minute that the response would take
        assert (await running).status == "cancelled"


async def test_a_step_costs_milliseconds(runtime: AsyncOpenAI) -> None:
    clock = asyncio.get_running_loop().time
    conversation = await runtime.conversations.create()
    quick = 0
    for _ in range(300):  # on a busy machine some take longer; what costs each of them more leaves none below
        started = clock()
        await runtime.responses.create(model=MODEL, input="@say quick", conversation=conversation.id)
        quick += clock() - started < 0.03
        if quick == 8:
            return
    pytest.fail("steps take longer than 30 ms")


class Broken:
    """A model with a defect."""

    kind = "broken"

    def check(self, request: ModelRequest) -> None: ...

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("half an ans")
        raise ZeroDivisionError

    async def close(self) -> None: ...


async def test_a_defect_of_the_model_fails_the_response_and_frees_the_conversation(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with FoundryEmulator(model=Broken()) as emulator, connect(emulator.endpoint) as (_, runtime):
        conversation = await runtime.conversations.create()
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            await runtime.responses.create(model=MODEL, input="hi", conversation=conversation.id)
        async with await runtime.responses.create(
            model=MODEL, input="hi", conversation=conversation.id, stream=True
        ) as stream:
            events = [event async for event in stream]
        assert [event.type for event in events][-2:] == ["response.output_text.delta", "response.failed"]
        assert await items_of(runtime, conversation.id) == ["message", "message"]
    assert "ZeroDivisionError" in caplog.text


async def test_an_agent_whose_deployment_is_gone_is_refused(connect: Connect, tmp_path: Path) -> None:
    db = str(tmp_path / "state.db")
    async with (
        FoundryEmulator(db=db, deployments=["old"]) as emulator,
        connect(emulator.endpoint) as (project, _),
    ):
        await project.agents.create_version("ceo", definition=PromptAgentDefinition(model="old"))
    async with FoundryEmulator(db=db, deployments=["new"]) as emulator, connect(emulator.endpoint) as (_, runtime):
        reference = {"agent_reference": {"type": "agent_reference", "name": "ceo"}}
        with pytest.raises(openai.NotFoundError) as caught:
            await runtime.responses.create(input="hi", extra_body=reference)
        assert caught.value.code == "DeploymentNotFound"


async def test_content_parts_and_media_are_kept(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    made = await runtime.responses.create(
        model=MODEL,
        conversation=conversation.id,
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "@say seen"},
                    {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
                ],
            }
        ],
    )
    assert made.output_text == "seen"
    (image,) = [
        part
        async for item in runtime.conversations.items.list(conversation.id, order="asc")
        if item.type == "message"
        for part in item.content
        if part.type == "input_image"
    ]
    assert image.image_url == "https://example.com/a.png"


async def test_old_responses_go_and_their_conversations_stay(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FoundryEmulator() as emulator, connect(emulator.endpoint) as (_, runtime):
        conversation = (await runtime.conversations.create()).id
        made = [await runtime.responses.create(model=MODEL, conversation=conversation, input="hi") for _ in range(3)]
        monkeypatch.setattr("emulators.foundry.state.RESPONSE_KEPT", -10)  # all of them are too old by now
        last = await runtime.responses.create(model=MODEL, conversation=conversation, input="hi")
        for old in made[:2]:
            with pytest.raises(openai.NotFoundError):
                await runtime.responses.retrieve(old.id)
        for kept in (made[2], last):
            assert (await runtime.responses.retrieve(kept.id)).id == kept.id
        assert await items_of(runtime, conversation) == ["message"] * 8
