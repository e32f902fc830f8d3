from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import openai
import pytest
import pytest_asyncio
import uvicorn
from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import FunctionTool, PromptAgentDefinition
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseInputParam
from pydantic import JsonValue
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from emulators.foundry import FoundryEmulator

Connect = Callable[[str], AbstractAsyncContextManager[tuple[AIProjectClient, AsyncOpenAI]]]
Sdks = tuple[AIProjectClient, AsyncOpenAI]
MODEL = "llama-3.3-70b"


class Backend:
    """An OpenAI-compatible server that answers with what a test prepared and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, JsonValue]] = []
        self.deltas: list[dict[str, JsonValue]] = []
        self.finish: str | None = "stop"
        self.refusal: tuple[int, dict[str, JsonValue], dict[str, str]] | None = None
        self.url = ""

    async def complete(self, request: Request) -> HttpResponse:
        self.asked.append(await request.json())
        if self.refusal is not None:
            status, error, headers = self.refusal
            return JSONResponse({"error": error}, status, headers)
        return StreamingResponse(self._chunks(), media_type="text/event-stream")

    async def _chunks(self) -> AsyncIterator[str]:
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        for delta in self.deltas:
            yield _sse({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            await asyncio.sleep(0)
        yield _sse({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]})
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        yield _sse({**base, "choices": [], "usage": usage})
        yield "data: [DONE]\n\n"


def _sse(chunk: dict[str, object]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


@pytest_asyncio.fixture(scope="module")
async def served() -> AsyncIterator[Backend]:
    backend = Backend()
    app = Starlette(routes=[Route("/v1/chat/completions", backend.complete, methods=["POST"])])
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # who comes before the server does waits
    backend.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield backend
    server.should_exit = True
    await serving


@pytest_asyncio.fixture(scope="module")
async def forwarding(served: Backend, connect: Connect) -> AsyncIterator[Sdks]:
    async with FoundryEmulator(model=served.url) as emulator, connect(emulator.endpoint) as pair:
        yield pair


@pytest.fixture
def backend(served: Backend) -> Backend:
    served.asked, served.deltas, served.finish, served.refusal = [], [], "stop", None
    return served


async def test_a_conversation_with_tools_is_translated_both_ways(backend: Backend, forwarding: Sdks) -> None:
    project, runtime = forwarding
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}}
    tool = FunctionTool(name="get_kpis", description="Key figures", parameters=schema, strict=False)
    definition = PromptAgentDefinition(
        model="llama-3.3-70b-cfo", instructions="You count.", tools=[tool], temperature=0.1, top_p=0.5
    )
    await project.agents.create_version("cfo", definition=definition)
    reference = {"agent_reference": {"type": "agent_reference", "name": "cfo"}}
    conversation = await runtime.conversations.create()
    backend.deltas = [
        {"role": "assistant", "tool_calls": [_call_delta(0, "get_kpis", '{"ye')]},
        {"tool_calls": [_call_delta(0, None, 'ar": 2025}')]},
        {"tool_calls": [_call_delta(1, "get_kpis", '{"year": 2024}')]},
    ]
    backend.finish = "tool_calls"
    made = await runtime.responses.create(conversation=conversation.id, input="Compare.", extra_body=reference)
    Response.model_validate(made.to_dict())
    calls = [item for item in made.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [
        ("get_kpis", '{"year": 2025}'),
        ("get_kpis", '{"year": 2024}'),
    ]
    assert made.metadata == {"emulator": "forward", "model_kind": "forward"}
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (11, 7, 18)
    (asked,) = backend.asked
    assert (asked["model"], asked["temperature"], asked["top_p"]) == ("llama-3.3-70b-cfo", 0.1, 0.5)
    assert asked["tools"] == [
        {"type": "function", "function": {"name": "get_kpis", "description": "Key figures", "parameters": schema}}
    ]
    backend.deltas, backend.finish = [{"content": "Up "}, {"content": "by 5."}], "stop"
    outputs: ResponseInputParam = [
        {"type": "function_call_output", "call_id": call.call_id, "output": call.arguments} for call in calls
    ]
    answered = await runtime.responses.create(conversation=conversation.id, input=outputs, extra_body=reference)
    assert answered.output_text == "Up by 5."
    sent = [
        {"id": c.call_id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls
    ]
    assert backend.asked[1]["messages"] == [
        {"role": "system", "content": "You count."},
        {"role": "user", "content": "Compare."},
        {"role": "assistant", "tool_calls": sent},
        {"role": "tool", "tool_call_id": calls[0].call_id, "content": '{"year": 2025}'},
        {"role": "tool", "tool_call_id": calls[1].call_id, "content": '{"year": 2024}'},
    ]


def _call_delta(index: int, name: str | None, arguments: str) -> JsonValue:
    function: dict[str, JsonValue] = {"arguments": arguments}
    if name is None:
        return {"index": index, "function": function}
    return {"index": index, "id": f"b{index}", "type": "function", "function": {"name": name, **function}}


async def test_deltas_are_streamed_through(backend: Backend, forwarding: Sdks) -> None:
    backend.deltas = [{"content": "one "}, {"content": "two"}]
    async with forwarding[1].responses.stream(model=MODEL, input="count") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert deltas == ["one ", "two"]
    assert final.output_text == "one two"


@pytest.mark.parametrize(
    ("finish", "reason", "text"), [("length", "max_output_tokens", "part"), ("content_filter", "content_filter", "")]
)
async def test_an_early_end_is_reported(
    backend: Backend, forwarding: Sdks, finish: str, reason: str, text: str
) -> None:
    backend.deltas, backend.finish = [{"content": "part"}], finish
    made = await forwarding[1].responses.create(model=MODEL, input="go", max_output_tokens=5)
    assert (made.status, made.output_text) == ("incomplete", text)
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == reason
    assert backend.asked[0]["max_tokens"] == 5


@pytest.mark.parametrize(
    ("status", "error", "seen_status", "seen_code"),
    [
        (429, {"message": "slow down"}, 429, "rate_limit_exceeded"),
        (400, {"message": "too long", "code": "context_length_exceeded"}, 400, "context_length_exceeded"),
        (404, {"message": "no such model"}, 404, "DeploymentNotFound"),
        (500, {"message": "boom"}, 500, "server_error"),
        (401, {"message": "bad key"}, 502, "server_error"),
    ],
)
async def test_the_backends_refusals_reach_the_client(
    backend: Backend, forwarding: Sdks, status: int, error: dict[str, JsonValue], seen_status: int, seen_code: str
) -> None:
    runtime = forwarding[1]
    backend.refusal = (status, error, {"retry-after": "3"})
    conversation = await runtime.conversations.create()
    with pytest.raises(openai.APIStatusError) as caught:
        await runtime.responses.create(model=MODEL, input="go", conversation=conversation.id)
    assert (caught.value.status_code, caught.value.code) == (seen_status, seen_code)
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "3"
    assert len(backend.asked) == 1
    backend.refusal = None
    backend.deltas = [{"content": "again"}]
    assert (await runtime.responses.create(model=MODEL, input=[], conversation=conversation.id)).output_text == "again"


async def test_a_stream_reports_the_backends_refusal(backend: Backend, forwarding: Sdks) -> None:
    backend.refusal = (429, {"message": "slow down"}, {})
    async with await forwarding[1].responses.create(model=MODEL, input="go", stream=True) as stream:
        events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.error.code, last.response.error.message) == ("rate_limit_exceeded", "slow down")


async def test_a_stream_that_breaks_off_is_a_failure(backend: Backend, forwarding: Sdks) -> None:
    backend.deltas, backend.finish = [{"content": "half"}], None
    with pytest.raises(openai.InternalServerError, match="without finishing"):
        await forwarding[1].responses.create(model=MODEL, input="go")


async def test_an_absent_backend_is_a_bad_gateway(connect: Connect) -> None:
    async with FoundryEmulator(model="http://127.0.0.1:9/v1") as emulator, connect(emulator.endpoint) as (_, runtime):
        with pytest.raises(openai.InternalServerError) as caught:
            await runtime.responses.create(model=MODEL, input="go")
        assert caught.value.status_code == 502


async def test_a_choice_of_tool_and_a_format_are_passed_on(backend: Backend, forwarding: Sdks) -> None:
    backend.deltas = [{"content": "{}"}]
    await forwarding[1].responses.create(
        model=MODEL,
        input="go",
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    )
    (asked,) = backend.asked
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert asked["parallel_tool_calls"] is False
    assert asked["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
