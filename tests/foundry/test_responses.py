from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from aos.errors import ConversationGone, FoundryRefused, FoundryUnavailable
from aos.kernel.recovery import missing_input
from aos.kernel.types import AgentRef, ConversationKey, ModelReply, ToolOutput
from emulators.foundry import FoundryEmulator
from tests.foundry.pacing import HeldModel, Patience
from tests.foundry.project import Project, running, spec


async def opened(project: Project) -> tuple[AgentRef, str]:
    wanted = spec("talker")
    ref = await project.adapter.ensure_agent(wanted)
    return ref, await project.adapter.open_conversation(ConversationKey(wanted.agent_id, "main"))


async def test_check_asks_the_service(project: Project) -> None:
    before = await project.calls("GET /deployments")
    await project.adapter.check()
    assert await project.calls("GET /deployments") == before + 1


async def test_a_conversation_remembers(project: Project) -> None:
    ref, remote_id = await opened(project)
    first = await project.adapter.respond(ref, remote_id, (), "@say one", 10)
    second = await project.adapter.respond(ref, remote_id, (), "@say two", 10)
    assert (first.text, second.text) == ("one", "two")
    assert first.calls == ()
    assert first.model == ref.deployment
    assert 0 < first.usage.input_tokens < second.usage.input_tokens
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    items = await project.adapter.items_after(remote_id, None)
    assert [(item.kind, item.text) for item in items] == [
        ("user", "@say one"),
        ("text", "one"),
        ("user", "@say two"),
        ("text", "two"),
    ]
    assert (items[1].item_id, items[3].item_id) == (first.anchor, second.anchor)


async def test_conversations_keep_apart(project: Project) -> None:
    ref, one = await opened(project)
    _, other = await opened(project)
    await project.adapter.respond(ref, one, (), "@say one", 10)
    assert await project.adapter.items_after(other, None) == []


async def test_parallel_calls_are_answered_together(project: Project) -> None:
    ref, remote_id = await opened(project)
    asked = '@tool ledger_lookup {"year": 2024}\n@tool ledger_lookup {"year": 2025}\n@say done'
    reply = await project.adapter.respond(ref, remote_id, (), asked, 10)
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [
        ("ledger_lookup", {"year": 2024}),
        ("ledger_lookup", {"year": 2025}),
    ]
    outputs = [ToolOutput(call.call_id, "1") for call in reply.calls]
    items = await project.adapter.items_after(remote_id, None)
    assert [item.kind for item in items] == ["user", "call", "call"]
    assert reply.anchor == items[-1].item_id
    assert (items[1].call_id, items[1].name, json.loads(items[1].arguments)) == (
        reply.calls[0].call_id,
        "ledger_lookup",
        {"year": 2024},
    )
    after = await project.adapter.respond(ref, remote_id, outputs, None, 10)
    assert after.text == "done"
    news = await project.adapter.items_after(remote_id, reply.anchor)
    assert [item.kind for item in news] == ["output", "output", "text"]
    assert [item.call_id for item in news[:2]] == [output.call_id for output in outputs]


async def test_outputs_come_before_the_text(project: Project) -> None:
    ref, remote_id = await opened(project)
    reply = await project.adapter.respond(ref, remote_id, (), '@tool ledger_lookup {"year": 2024}', 10)
    output = ToolOutput(reply.calls[0].call_id, '{"error": "abandoned"}')
    after = await project.adapter.respond(ref, remote_id, [output], "@say next", 10)
    assert after.text == "next"
    news = await project.adapter.items_after(remote_id, reply.anchor)
    assert [item.kind for item in news] == ["output", "user", "text"]


async def test_a_call_without_an_answer_is_refused_by_the_service(project: Project) -> None:
    ref, remote_id = await opened(project)
    reply = await project.adapter.respond(ref, remote_id, (), '@tool ledger_lookup {"year": 2024}', 10)
    with pytest.raises(FoundryRefused, match=f"No tool output found for function call {reply.calls[0].call_id}"):
        await project.adapter.respond(ref, remote_id, (), "next", 10)


async def test_items_are_read_over_several_pages(project: Project) -> None:
    _, remote_id = await opened(project)
    client = project.clients.openai.conversations.items
    for start in range(0, 240, 20):
        texts = [f"message {number}" for number in range(start, start + 20)]
        await client.create(remote_id, items=[{"type": "message", "role": "user", "content": text} for text in texts])
    items = await project.adapter.items_after(remote_id, None)
    assert [item.text for item in items] == [f"message {number}" for number in range(240)]
    after = await project.adapter.items_after(remote_id, items[99].item_id)
    assert after == items[100:]
    assert await project.adapter.items_after(remote_id, items[-1].item_id) == []


async def test_an_anchor_that_is_not_in_the_conversation_is_refused(project: Project) -> None:
    _, remote_id = await opened(project)
    with pytest.raises(FoundryRefused, match="msg_nowhere"):
        await project.adapter.items_after(remote_id, "msg_nowhere")


async def test_a_deleted_conversation_is_gone(project: Project) -> None:
    ref, remote_id = await opened(project)
    await project.delete_conversation(remote_id)
    with pytest.raises(ConversationGone):
        await project.adapter.respond(ref, remote_id, (), "hello", 10)
    with pytest.raises(ConversationGone):
        await project.adapter.items_after(remote_id, None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("@fail content_filter", "content_filter"),
        ("@fail context_length_exceeded", "context_length_exceeded"),
    ],
)
async def test_what_the_model_refuses_for_good(project: Project, text: str, code: str) -> None:
    ref, remote_id = await opened(project)
    with pytest.raises(FoundryRefused) as refused:
        await project.adapter.respond(ref, remote_id, (), text, 10)
    assert refused.value.code == code


async def test_a_failed_step_may_be_tried_again_but_its_input_stayed(project: Project) -> None:
    ref, remote_id = await opened(project)
    with pytest.raises(FoundryUnavailable) as failed:
        await project.adapter.respond(ref, remote_id, (), "@fail server_error", 10)
    assert failed.value.code == "server_error"
    items = await project.adapter.items_after(remote_id, None)
    assert [item.kind for item in items] == ["user"], "sending the text again would say it twice"
    assert failed.value.sent
    assert missing_input(items, (), "@fail server_error", "m") == (None, (), None)


async def test_an_answer_cut_short_before_any_text_is_refused(project: Project) -> None:
    ref, remote_id = await opened(project)
    with pytest.raises(FoundryRefused, match="incomplete: content_filter"):
        await project.adapter.respond(ref, remote_id, (), "@fail content_filter", 10)


async def given_up(step: Coroutine[Any, Any, ModelReply], model: HeldModel, patience: Patience) -> FoundryUnavailable:
    """Lets a step time out while the model works on it."""
    asking = asyncio.create_task(step)
    await model.began.wait()
    patience.end()
    with pytest.raises(FoundryUnavailable, match="in time") as late:
        await asking
    return late.value


async def test_the_answer_to_a_request_that_timed_out_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, patience = HeldModel(), Patience(monkeypatch)
    async with running(FoundryEmulator(model=model, on_disconnect="finish")) as project:
        ref, remote_id = await opened(project)
        respond = project.adapter.respond
        late = await given_up(respond(ref, remote_id, (), "@say late", patience.SECONDS), model, patience)
        assert late.sent
        with pytest.raises(FoundryUnavailable) as busy:
            await project.adapter.respond(ref, remote_id, (), "@say again", 10)
        assert (busy.value.code, busy.value.sent) == ("conversation_locked", True)
        model.go.set()
        reply = None
        async with asyncio.timeout(60):
            while reply is None:
                items = await project.adapter.items_after(remote_id, None)
                reply, outputs, text = missing_input(items, (), "@say late", ref.deployment)
                assert text is None, "the input is there already"
        assert (reply.text, reply.usage.adopted, outputs, text) == ("late", 1, (), None)
        assert reply.anchor == items[-1].item_id
        after = await project.adapter.respond(ref, remote_id, (), "@say next", 10)
        assert after.text == "next"


async def test_calls_of_a_request_that_timed_out_are_adopted_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    model, patience = HeldModel(), Patience(monkeypatch)
    async with running(FoundryEmulator(model=model, on_disconnect="finish")) as project:
        ref, remote_id = await opened(project)
        respond = project.adapter.respond
        asked = '@tool ledger_lookup {"year": 2024}\n@say done'
        await given_up(respond(ref, remote_id, (), asked, patience.SECONDS), model, patience)
        model.go.set()
        reply = None
        async with asyncio.timeout(60):
            while reply is None:
                items = await project.adapter.items_after(remote_id, None)
                reply, _, _ = missing_input(items, (), asked, ref.deployment)
        model.hold()
        outputs = (ToolOutput(reply.calls[0].call_id, "7"),)
        await given_up(respond(ref, remote_id, outputs, None, patience.SECONDS), model, patience)
        items = await project.adapter.items_after(remote_id, reply.anchor)
        assert missing_input(items, outputs, None, "m")[1] == (), "the output arrived and is not sent twice"


async def test_a_dropped_request_leaves_its_input_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, patience = HeldModel(), Patience(monkeypatch)
    async with running(FoundryEmulator(model=model, on_disconnect="drop")) as project:
        ref, remote_id = await opened(project)
        respond = project.adapter.respond
        await given_up(respond(ref, remote_id, (), "@say lost", patience.SECONDS), model, patience)
        items = await project.adapter.items_after(remote_id, None)
        assert missing_input(items, (), "@say lost", "m") == (None, (), None)


async def test_a_closed_adapter_opens_anew(project: Project) -> None:
    ref, remote_id = await opened(project)
    await project.adapter.close()
    assert (await project.adapter.respond(ref, remote_id, (), "@say here", 10)).text == "here"
