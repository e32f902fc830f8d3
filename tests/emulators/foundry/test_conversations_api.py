from __future__ import annotations

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.conversations import Conversation, ConversationItemList, Message
from openai.types.conversations.conversation_item import ConversationItem
from openai.types.responses import ResponseFunctionToolCallItem, ResponseFunctionToolCallOutputItem
from pydantic import TypeAdapter

ITEM: TypeAdapter[ConversationItem] = TypeAdapter(ConversationItem)


def text_of(item: ConversationItem) -> str:
    assert isinstance(item, Message)
    part = item.content[0]
    assert part.type in ("input_text", "output_text")
    return part.text


async def test_a_conversation_is_created_read_updated_and_deleted(runtime: AsyncOpenAI) -> None:
    made = await runtime.conversations.create(metadata={"a": "1"})
    Conversation.model_validate(made.to_dict())
    assert made.id.startswith("conv_")
    assert await runtime.conversations.retrieve(made.id) == made
    updated = await runtime.conversations.update(made.id, metadata={"b": "2"})
    assert (updated.metadata, updated.created_at) == ({"b": "2"}, made.created_at)
    deleted = await runtime.conversations.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "conversation.deleted")
    for call in (
        runtime.conversations.retrieve(made.id),
        runtime.conversations.delete(made.id),
        runtime.conversations.update(made.id, metadata={}),
        runtime.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await call
        assert caught.value.code == "not_found"


async def test_items_of_every_kind_keep_their_content(runtime: AsyncOpenAI) -> None:
    made = await runtime.conversations.create(
        items=[
            {"role": "user", "content": "plain"},
            {"role": "assistant", "content": "spoken"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"x": 1}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "42"},
            {"role": "developer", "content": [{"type": "input_text", "text": "part"}]},
        ]
    )
    items = [item async for item in runtime.conversations.items.list(made.id, order="asc")]
    for item in items:
        ITEM.validate_python(item.to_dict())
    plain, spoken, call, output, part = items
    assert (text_of(plain), text_of(spoken), text_of(part)) == ("plain", "spoken", "part")
    assert isinstance(call, ResponseFunctionToolCallItem)
    assert (call.call_id, call.name, call.arguments) == ("call_1", "f", '{"x": 1}')
    assert isinstance(output, ResponseFunctionToolCallOutputItem)
    assert (output.call_id, output.output) == ("call_1", "42")


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_paging_ends_and_keeps_order(runtime: AsyncOpenAI, limit: int) -> None:
    made = await runtime.conversations.create()
    texts = [f"m{number}" for number in range(7)]
    for text in texts:
        created = await runtime.conversations.items.create(made.id, items=[{"role": "user", "content": text}])
        ConversationItemList.model_validate(created.to_dict())
    items = runtime.conversations.items
    forth = [item async for item in items.list(made.id, order="asc", limit=limit)]
    assert [text_of(item) for item in forth] == texts
    assert [text_of(item) async for item in items.list(made.id, limit=limit)] == texts[::-1]
    later = [text_of(item) async for item in items.list(made.id, order="asc", after=forth[3].id or "", limit=limit)]
    assert later == texts[4:]
    with pytest.raises(openai.BadRequestError):
        await items.list(made.id, after="msg_unknown")


async def test_one_item_is_read_and_deleted(runtime: AsyncOpenAI) -> None:
    made = await runtime.conversations.create(
        items=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    )
    items = runtime.conversations.items
    first, second = [item async for item in items.list(made.id, order="asc")]
    assert first.id is not None
    assert second.id is not None
    assert text_of(await items.retrieve(first.id, conversation_id=made.id)) == "a"
    assert (await items.delete(first.id, conversation_id=made.id)).id == made.id
    assert [item.id async for item in items.list(made.id)] == [second.id]
    for call in (items.retrieve(first.id, conversation_id=made.id), items.delete(first.id, conversation_id=made.id)):
        with pytest.raises(openai.NotFoundError):
            await call


async def test_an_open_call_may_be_answered_by_adding_an_item(runtime: AsyncOpenAI) -> None:
    made = await runtime.conversations.create(
        items=[{"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}]
    )
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_1"):
        await runtime.responses.create(model="llama-3.3-70b", conversation=made.id, input="hello")
    await runtime.conversations.items.create(
        made.id, items=[{"type": "function_call_output", "call_id": "call_1", "output": "gave up"}]
    )
    answer = await runtime.responses.create(model="llama-3.3-70b", conversation=made.id, input="hello")
    assert answer.status == "completed"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "robot", "content": "x"}, "items[0].role"),
        ({"role": "user"}, "items[0].content"),
        ({"type": "hologram"}, "items[0]"),
        ({"type": "function_call_output", "output": "x"}, "items[0].call_id"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "items[0].content[0].text"),
    ],
)
async def test_a_bad_item_is_refused_with_its_place(http: httpx2.AsyncClient, item: object, param: str) -> None:
    answer = await http.post("/openai/v1/conversations", json={"items": [item]})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_payload", param)


async def test_an_output_without_a_call_and_too_many_items_are_refused(runtime: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="No tool call found for function call output with call_id call_9"):
        await runtime.conversations.create(items=[{"type": "function_call_output", "call_id": "call_9", "output": "x"}])
    with pytest.raises(openai.BadRequestError):
        await runtime.conversations.create(items=[{"role": "user", "content": "x"}] * 21)
