from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
MODEL = "llama-3.3-70b"


async def raw(runtime: AsyncOpenAI, text: str) -> list[ResponseStreamEvent]:
    async with await runtime.responses.create(model=MODEL, input=text, stream=True) as stream:
        events = [event async for event in stream]
    for number, event in enumerate(events):
        EVENT.validate_python(event.to_dict())
        assert event.sequence_number == number
    return events


async def test_a_text_is_streamed_in_the_order_of_the_wire(runtime: AsyncOpenAI) -> None:
    events = await raw(runtime, "@say one two three")
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "one two three"
    first, last = events[0], events[-1]
    assert first.type == "response.created"
    assert (first.response.status, first.response.output) == ("in_progress", [])
    assert last.type == "response.completed"
    assert last.response.output_text == "one two three"
    assert last.response.usage is not None
    Response.model_validate(last.response.to_dict())
    assert await runtime.responses.retrieve(last.response.id) == last.response


async def test_calls_are_streamed_with_their_arguments(runtime: AsyncOpenAI) -> None:
    events = await raw(runtime, '@tool f {"x": 1}\n@tool g {}')
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        *["response.output_item.added", "response.function_call_arguments.delta"] * 2,
        *["response.function_call_arguments.done", "response.output_item.done"] * 2,
        "response.completed",
    ]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [(event.output_index, event.arguments) for event in done] == [(0, '{"x": 1}'), (1, "{}")]


async def test_the_stream_helper_follows_text_and_calls(runtime: AsyncOpenAI) -> None:
    async with runtime.responses.stream(model=MODEL, input="@say one two three") as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert snapshots == ["one ", "one two ", "one two three"]
    assert (final.status, final.output_text) == ("completed", "one two three")
    async with runtime.responses.stream(model=MODEL, input='@tool f {"x": 1}') as stream:
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("f", '{"x": 1}')


async def test_the_stream_helper_adds_to_a_conversation(runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    async with runtime.responses.stream(model=MODEL, input="@say hello", conversation=conversation.id) as stream:
        final = await stream.get_final_response()
    assert final.output_text == "hello"
    items = [item.type async for item in runtime.conversations.items.list(conversation.id)]
    assert items == ["message", "message"]


@pytest.mark.parametrize(
    ("text", "event", "status"),
    [
        ("@fail server_error", "response.failed", "failed"),
        ("@fail content_filter", "response.incomplete", "incomplete"),
    ],
)
async def test_a_stream_ends_with_what_went_wrong(runtime: AsyncOpenAI, text: str, event: str, status: str) -> None:
    last = (await raw(runtime, text))[-1]
    assert last.type == event
    assert last.to_dict()["response"]["status"] == status  # type: ignore[index]


async def test_a_refusal_comes_before_the_stream(runtime: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await runtime.responses.create(model=MODEL, input="@fail context_length_exceeded", stream=True)
    assert caught.value.code == "context_length_exceeded"
