"""The port on Agent Framework, against a small OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from aos.config import load_settings
from aos.custom.adapter import AgentFrameworkAdapter
from aos.custom.definitions import CONTAINER, Definitions
from aos.custom.faults import HistoryGone, ModelRefused, ModelUnavailable
from aos.custom.history import BlobHistories
from aos.errors import AgentGone, SettingError
from aos.kernel.ports import AgentSpec, FunctionDefinition
from aos.kernel.types import AgentRef, ConversationKey, FunctionCall, ToolOutput, Usage
from aos.storage.account import StorageAccount
from tests.model_server import Answer, Body, ModelServer, say

LOOKUP = FunctionDefinition(
    "ledger_lookup",
    "Looks a figure up.",
    {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]},
)
KEY = ConversationKey("ceo", "c1")
_numbers = itertools.count(1)


def spec(**changes: str) -> AgentSpec:
    values = {"agent_id": f"agent{next(_numbers)}", "deployment": "llama-3.3-70b-ceo", "instructions": "Be brief."}
    return AgentSpec(**(values | changes), functions=(LOOKUP,), service_functions=(), service_agents=())


async def opened(adapter: AgentFrameworkAdapter) -> tuple[AgentRef, str]:
    return await adapter.ensure_agent(spec()), await adapter.open_conversation(KEY)


async def test_a_step_is_one_completion_of_the_deployment(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)
    model.script = say("Hello.")
    reply = await adapter.respond(agent, conversation, (), "Hi?", 10)
    assert (reply.text, reply.calls, reply.model) == ("Hello.", (), "llama-3.3-70b-ceo")
    assert reply.usage == Usage(11, 7, 18)
    (asked,) = model.asked
    assert asked["model"] == "llama-3.3-70b-ceo"
    assert asked["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}]
    assert asked["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "ledger_lookup",
                "description": "Looks a figure up.",
                "parameters": LOOKUP.parameters,
            },
        }
    ]
    assert model.keys == ["Bearer secret"]


async def test_calls_are_returned_and_their_outputs_go_on(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)
    calls = [("a", "ledger_lookup", '{"year": 1}'), ("b", "ledger_lookup", '{"year": 2}')]
    model.answers(Answer("Let me see.", calls), Answer("3 in all."))
    reply = await adapter.respond(agent, conversation, (), "Sum?", 10)
    assert reply.text == "Let me see."
    assert reply.calls == tuple(FunctionCall(*call) for call in calls)
    assert len(model.asked) == 1, "the tool loop of the framework is off"
    reply = await adapter.respond(agent, conversation, [ToolOutput("a", "1"), ToolOutput("b", "null")], None, 10)
    assert (reply.text, reply.calls) == ("3 in all.", ())
    shown = model.asked[1]["messages"][1:]
    assert [message["role"] for message in shown] == ["user", "assistant", "tool", "tool"]
    assert shown[1]["content"] == "Let me see."
    assert [call["id"] for call in shown[1]["tool_calls"]] == ["a", "b"]
    assert [(message["tool_call_id"], message["content"]) for message in shown[2:]] == [("a", "1"), ("b", "null")]


async def test_text_is_told_as_it_comes(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)
    calls = [("a", "ledger_lookup", '{"year": 1}'), ("b", "ledger_lookup", '{"year": 2}')]
    model.answers(Answer("Let me see.", calls), Answer("All in all three."), Answer(status=503, error={"message": "x"}))
    heard: list[str] = []
    reply = await adapter.respond(agent, conversation, (), "Sum?", 10, on_text=heard.append)
    assert "".join(heard).split() == ["Let", "me", "see."]
    assert len(heard) == 3
    assert reply.text == "".join(heard)
    assert reply.calls == tuple(FunctionCall(*call) for call in calls)
    assert reply.usage == Usage(11, 7, 18)
    heard.clear()
    outputs = [ToolOutput("a", "1"), ToolOutput("b", "2")]
    reply = await adapter.respond(agent, conversation, outputs, None, 10, on_text=heard.append)
    assert (reply.text.strip(), len(heard), reply.calls) == ("All in all three.", 4, ())
    with pytest.raises(ModelUnavailable):
        await adapter.respond(agent, conversation, (), "Again?", 10, on_text=heard.append)


async def test_an_agent_whose_model_is_not_served_may_fall_back(model: ModelServer, account: StorageAccount) -> None:
    settings = load_settings({"AOS_MODEL_ENDPOINT": model.url, "AOS_DEPLOYMENT_FALLBACK": "true"})
    adapter = AgentFrameworkAdapter(settings, BlobHistories(account), Definitions(account))
    try:
        assert (await adapter.ensure_agent(spec())).deployment == "llama-3.3-70b-ceo"
        lost = spec(deployment="llama-3.3-70b-cxo")
        ref = await adapter.ensure_agent(lost)
        assert ref.deployment == "llama-3.3-70b"
        await adapter.respond(ref, await adapter.open_conversation(KEY), (), "Hi?", 10)
        assert model.asked[0]["model"] == "llama-3.3-70b"
        model.models.append("llama-3.3-70b-cxo")
        assert (await adapter.ensure_agent(lost)).deployment == "llama-3.3-70b-cxo"
    finally:
        await adapter.close()


async def test_recovery_finds_a_step_or_nothing(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)
    assert await adapter.items_after(conversation, None) == []
    model.answers(Answer(status=500, error={"message": "boom"}), Answer("one"), Answer(None, [("a", "f", "{}")]))
    with pytest.raises(ModelUnavailable):
        await adapter.respond(agent, conversation, (), "Hi?", 10)
    assert await adapter.items_after(conversation, None) == [], "a step that failed leaves nothing"
    first = await adapter.respond(agent, conversation, (), "Hi?", 10)
    second = await adapter.respond(agent, conversation, (), "And?", 10)
    items = await adapter.items_after(conversation, None)
    assert [(item.kind, item.text) for item in items[:3]] == [("user", "Hi?"), ("text", "one"), ("user", "And?")]
    assert items[1].item_id == first.anchor
    after = await adapter.items_after(conversation, first.anchor)
    assert [(item.kind, item.call_id) for item in after] == [("user", ""), ("call", "a")]
    assert await adapter.items_after(conversation, second.anchor) == []


async def test_a_second_step_at_the_same_time_is_not_kept(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)
    both = asyncio.Event()
    model.script = lambda body: Answer("ok", held=both)
    steps = asyncio.gather(
        *(adapter.respond(agent, conversation, (), text, 60) for text in ("a", "b")), return_exceptions=True
    )
    async with asyncio.timeout(60):
        while len(model.asked) < 2:  # noqa: ASYNC110 - both have read the conversation by then
            await asyncio.sleep(0.01)
    both.set()
    results = await steps
    (failed,) = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(failed, ModelUnavailable)
    assert failed.sent
    assert len(await adapter.items_after(conversation, None)) == 2


async def test_call_ids_are_unique_whatever_the_server_says(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)
    model.script = lambda body: Answer(None, [("0", "f", ""), ("0", "f", '{"a": "\\ud800"}')])
    first = await adapter.respond(agent, conversation, (), "Hi?", 10)
    outputs = [ToolOutput(call.call_id, "x") for call in first.calls]
    second = await adapter.respond(agent, conversation, outputs, None, 10)
    assert len({call.call_id for call in (*first.calls, *second.calls)}) == 4
    assert first.calls[0].arguments == "{}"


async def test_an_agent_is_the_same_in_every_process(
    adapter: AgentFrameworkAdapter, model: ModelServer, account: StorageAccount
) -> None:
    wanted = spec(agent_id="Äe b")
    ref = await adapter.ensure_agent(wanted)
    assert await adapter.ensure_agent(wanted) is ref
    changed = await adapter.ensure_agent(spec(agent_id="Äe b", instructions="Be long."))
    assert (changed.name, changed.version == ref.version) == (ref.name, False)
    conversation = await adapter.open_conversation(KEY)
    settings = load_settings({"AOS_MODEL_ENDPOINT": model.url})
    other = AgentFrameworkAdapter(settings, BlobHistories(account), Definitions(account))
    try:
        assert await other.ensure_agent(wanted) == ref
        other = AgentFrameworkAdapter(settings, BlobHistories(account), Definitions(account))
        await other.respond(ref, conversation, (), "Hi?", 10)
        assert model.asked[0]["messages"][0]["content"] == "Be brief.", "the version that the turn began with"
        container = await account.container(CONTAINER)
        await container.delete_blob(f"{ref.name}/{ref.definition_hash}.json")
        with pytest.raises(AgentGone):
            await other.respond(ref, conversation, (), "Hi?", 10)
    finally:
        await other.close()


async def test_conversations_of_another_runtime_are_gone(adapter: AgentFrameworkAdapter) -> None:
    agent = await adapter.ensure_agent(spec())
    for remote_id in ("conv_123", "local_unknown"):
        with pytest.raises(HistoryGone):
            await adapter.respond(agent, remote_id, (), "Hi?", 10)
        with pytest.raises(HistoryGone):
            await adapter.items_after(remote_id, None)


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (Answer(status=429, error={"message": "slow"}, headers={"Retry-After": "7"}), ModelUnavailable, None),
        (Answer(status=503, error={"message": "busy"}), ModelUnavailable, None),
        (Answer(status=401, error={"message": "no"}), ModelRefused, "model_unauthorized"),
        (Answer(status=400, error={"message": "no", "code": "content_filter"}), ModelRefused, "content_filter"),
        (Answer(status=422, error={"message": "bad tools"}), ModelRefused, "model_refused"),
        (Answer(raw=b"<html>proxy</html>"), ModelUnavailable, None),
        (Answer("x", finish="content_filter"), ModelRefused, "content_filter"),
        (Answer(None, [("a", "f", '{"a')], finish="length"), ModelRefused, "max_output_tokens"),
        (Answer("late", delay=3), ModelUnavailable, None),
    ],
    ids=["429", "503", "401", "filtered", "422", "html", "filter", "length", "late"],
)
async def test_what_the_endpoint_says_is_an_error_of_ours(
    adapter: AgentFrameworkAdapter, model: ModelServer, answer: Answer, error: type[Exception], code: str | None
) -> None:
    agent, conversation = await opened(adapter)
    model.answers(answer)
    with pytest.raises(error) as caught:
        await adapter.respond(agent, conversation, (), "Hi?", 0.5 if answer.delay else 60)
    if isinstance(caught.value, ModelRefused):
        assert caught.value.code == code
    if isinstance(caught.value, ModelUnavailable) and answer.status == 429:
        assert (caught.value.retry_after, caught.value.sent) == (7.0, False)
    assert await adapter.items_after(conversation, None) == []


async def test_an_answer_cut_at_its_length_says_so(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)
    model.answers(Answer("Once upon", finish="length"))
    reply = await adapter.respond(agent, conversation, (), "Hi?", 5)
    assert (reply.text, reply.truncated) == ("Once upon", True)
    model.answers(Answer("a time"))
    assert not (await adapter.respond(agent, conversation, (), "Go on.", 5)).truncated


async def test_a_model_that_is_not_served_names_those_that_are(
    adapter: AgentFrameworkAdapter, model: ModelServer
) -> None:
    agent = await adapter.ensure_agent(spec(deployment="llama-3.3-70b-cxo"))
    conversation = await adapter.open_conversation(KEY)
    with pytest.raises(ModelRefused, match=r"Model not found.*'llama-3.3-70b-cxo'.*llama-3.3-70b-ceo") as caught:
        await adapter.respond(agent, conversation, (), "Hi?", 10)
    assert caught.value.code == "deployment_not_found"


async def test_a_conversation_outgrows_the_context(adapter: AgentFrameworkAdapter, model: ModelServer) -> None:
    agent, conversation = await opened(adapter)

    def small(body: Body) -> Answer:
        if len(json.dumps(body["messages"])) > 20_000:
            return Answer(status=400, error={"message": "This model's maximum context length is 5000 tokens."})
        return Answer("ok")

    model.script = small
    for number in range(4):
        await adapter.respond(agent, conversation, (), f"{number} " + "x" * 6000, 10)
    shown = [message["content"][:2] for message in model.asked[-1]["messages"] if message["role"] == "user"]
    assert shown[-1] == "3 "
    assert "0 " not in shown
    with pytest.raises(ModelRefused) as caught:
        await adapter.respond(agent, conversation, (), "x" * 30_000, 10)
    assert caught.value.code == "context_length_exceeded"


async def test_without_an_endpoint_the_setting_is_named(account: StorageAccount) -> None:
    adapter = AgentFrameworkAdapter(load_settings({}), BlobHistories(account), Definitions(account))
    with pytest.raises(SettingError, match="AOS_MODEL_ENDPOINT"):
        await adapter.check()


async def test_health_asks_the_endpoint(adapter: AgentFrameworkAdapter, account: StorageAccount) -> None:
    await adapter.check()
    dead = load_settings({"AOS_MODEL_ENDPOINT": "http://127.0.0.1:9/v1"})
    other = AgentFrameworkAdapter(dead, BlobHistories(account), Definitions(account))
    with pytest.raises(ModelUnavailable) as caught:
        await other.check()
    assert caught.value.sent is False
    await other.close()
