from __future__ import annotations

import httpx2
import pytest
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    ListSortOrder,
    MessageImageUrlParam,
    MessageInputImageUrlBlock,
    MessageInputTextBlock,
    MessageTextContent,
    ThreadMessageOptions,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from emulators.foundry.thread_bodies import MAX_MESSAGE_CHARS

MODEL = "llama-3.3-70b"


async def contents(agents: AgentsClient, thread: str) -> list[str]:
    listed = agents.messages.list(thread, order=ListSortOrder.ASCENDING)
    return [message.text_messages[0].text.value async for message in listed]


async def test_a_thread_is_created_changed_listed_and_deleted(agents: AgentsClient) -> None:
    first = await agents.threads.create(metadata={"who": "me"})
    assert (first.id.partition("_")[0], first.object, first.metadata) == ("thread", "thread", {"who": "me"})
    assert (await agents.threads.get(first.id)).as_dict() == first.as_dict()
    changed = await agents.threads.update(first.id, metadata={"who": "you"})
    assert changed.metadata == {"who": "you"}
    second = await agents.threads.create()
    listed = [thread.id async for thread in agents.threads.list(limit=1)]
    assert listed[:2] == [second.id, first.id]
    await agents.messages.create(first.id, role="user", content="hello")
    await agents.threads.delete(first.id)
    for gone in (
        agents.threads.get(first.id),
        agents.threads.delete(first.id),
        agents.messages.create(first.id, role="user", content="x"),
        agents.runs.create(first.id, agent_id="asst_x"),
    ):
        with pytest.raises(ResourceNotFoundError, match=first.id):
            await gone


async def test_a_thread_may_begin_with_messages(agents: AgentsClient) -> None:
    messages = [
        ThreadMessageOptions(role="user", content="one", metadata={"n": "1"}),
        ThreadMessageOptions(role="assistant", content="two"),
    ]
    thread = await agents.threads.create(messages=messages)
    listed = [message async for message in agents.messages.list(thread.id, order=ListSortOrder.ASCENDING)]
    assert [message["role"] for message in listed] == ["user", "assistant"]
    assert listed[0].metadata == {"n": "1"}
    assert await contents(agents, thread.id) == ["one", "two"]


async def test_a_message_has_the_form_of_the_service(agents: AgentsClient) -> None:
    thread = await agents.threads.create()
    message = await agents.messages.create(thread.id, role="user", content="héllo", metadata={"a": "b"})
    assert message.id.startswith("msg_")
    assert (message.object, message.thread_id, message.status, message.metadata) == (
        "thread.message",
        thread.id,
        "completed",
        {"a": "b"},
    )
    (part,) = message.content
    assert isinstance(part, MessageTextContent)
    assert (part.text.value, part.text.annotations) == ("héllo", [])
    assert (await agents.messages.get(thread.id, message.id)).as_dict() == message.as_dict()
    changed = await agents.messages.update(thread.id, message.id, metadata={"a": "c"})
    assert changed.metadata == {"a": "c"}
    assert (await agents.messages.get(thread.id, message.id)).metadata == {"a": "c"}


async def test_content_may_come_in_blocks(agents: AgentsClient) -> None:
    thread = await agents.threads.create()
    blocks = [
        MessageInputTextBlock(text="look"),
        MessageInputImageUrlBlock(image_url=MessageImageUrlParam(url="https://example.com/a.png")),
    ]
    message = await agents.messages.create(thread.id, role="user", content=[*blocks])
    assert [part.type for part in message.content] == ["text", "image_url"]


async def test_messages_are_paged_in_both_orders(agents: AgentsClient) -> None:
    thread = await agents.threads.create()
    assert [message async for message in agents.messages.list(thread.id)] == []
    made = [(await agents.messages.create(thread.id, role="user", content=str(n))).id for n in range(5)]
    assert [message.id async for message in agents.messages.list(thread.id, limit=2)] == made[::-1]
    ascending = agents.messages.list(thread.id, limit=2, order=ListSortOrder.ASCENDING)
    assert [message.id async for message in ascending] == made


async def test_messages_can_be_narrowed_to_a_run(agents: AgentsClient) -> None:
    agent = await agents.create_agent(model=MODEL)
    thread = await agents.threads.create(messages=[ThreadMessageOptions(role="user", content="@say one")])
    first = await agents.runs.create_and_process(thread.id, agent_id=agent.id, polling_interval=0)
    await agents.messages.create(thread.id, role="user", content="@say two")
    second = await agents.runs.create_and_process(thread.id, agent_id=agent.id, polling_interval=0)
    for run, said in ((first, "one"), (second, "two")):
        (message,) = [message async for message in agents.messages.list(thread.id, run_id=run.id)]
        assert (message.text_messages[0].text.value, message.run_id, message.agent_id) == (said, run.id, agent.id)
    assert await contents(agents, thread.id) == ["@say one", "one", "@say two", "two"]


@pytest.mark.parametrize("content", ["", [{"type": "text", "text": ""}], []])
async def test_an_empty_message_is_refused(http: httpx2.AsyncClient, agents: AgentsClient, content: object) -> None:
    thread = await agents.threads.create()
    body = {"role": "user", "content": content}
    answer = await http.post(f"/threads/{thread.id}/messages?api-version=v1", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "content")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "system", "content": "x"}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": [{"type": "video"}]}, "content[0]"),
        ({"role": "user", "content": "x", "metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"role": "user", "content": "x" * (MAX_MESSAGE_CHARS + 1)}, "content"),
    ],
)
async def test_a_bad_message_is_refused_by_the_name_of_its_field(
    http: httpx2.AsyncClient, agents: AgentsClient, body: dict[str, object], param: str
) -> None:
    thread = await agents.threads.create()
    answer = await http.post(f"/threads/{thread.id}/messages?api-version=v1", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = await http.post("/threads?api-version=v1", json={"messages": [body]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(f"messages[0].{param.partition('[')[0]}")


async def test_files_are_refused_where_they_are_named(http: httpx2.AsyncClient, agents: AgentsClient) -> None:
    thread = await agents.threads.create()
    body = {"role": "user", "content": "x", "attachments": [{"file_id": "f", "tools": []}]}
    resources = {"file_search": {"vector_store_ids": ["vs"]}}
    for path, sent, param in (
        (f"/threads/{thread.id}/messages", body, "attachments"),
        ("/threads", {"messages": [body]}, "messages[0].attachments"),
        ("/threads", {"tool_resources": resources}, "tool_resources.file_search"),
        (f"/threads/{thread.id}", {"tool_resources": resources}, "tool_resources.file_search"),
        ("/assistants", {"model": MODEL, "tool_resources": resources}, "tool_resources.file_search"),
    ):
        answer = await http.post(path, params={"api-version": "v1"}, json=sent)
        assert (answer.status_code, answer.json()["error"]["param"]) == (501, param)


async def test_a_message_of_another_thread_is_not_found(agents: AgentsClient) -> None:
    mine, other = await agents.threads.create(), await agents.threads.create()
    message = await agents.messages.create(mine.id, role="user", content="x")
    with pytest.raises(ResourceNotFoundError, match=message.id):
        await agents.messages.get(other.id, message.id)
    with pytest.raises(HttpResponseError, match="is not in this list"):
        [found async for found in agents.messages.list(other.id, before=message.id)]
