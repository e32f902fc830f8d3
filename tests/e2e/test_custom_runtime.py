"""The custom runtime: the same registry, tools, HTTP and bus, with the model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.harness import REPLIES, World, world
from tests.model_server import Answer, Body, ModelServer, model_server


@pytest_asyncio.fixture(scope="module")
async def served() -> AsyncIterator[ModelServer]:
    async with model_server() as model:
        yield model


@pytest_asyncio.fixture(scope="module")
async def custom(served: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    state: Path = tmp_path_factory.mktemp("custom")
    settings = {"USE_FOUNDRY_RUNTIME": "false", "AOS_MODEL_ENDPOINT": served.url, "AOS_MODEL_API_KEY": "secret"}
    async with world(state, settings) as running:
        yield running


@pytest.fixture
def model(served: ModelServer) -> ModelServer:
    served.reset()
    return served


def looks_up(body: Body) -> Answer:
    """Calls the ledger first, then tells what it said."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Answer(f"The ledger says: {last['content']}")
    names = [tool["function"]["name"] for tool in body["tools"]]
    tool = next(name for name in names if name.endswith("get_kpis"))
    return Answer(None, [("call_1", tool, '{"year": 2025, "quarter": 3}')])


async def test_an_answer_over_http_rests_on_a_real_tool(custom: World, model: ModelServer) -> None:
    model.script = looks_up
    body = await custom.app.ask("ceo", "How was Q3?")
    assert (body["status"], body["agent_id"], body["model"]) == ("completed", "ceo", "llama-3.3-70b-ceo")
    (call,) = body["tool_calls"]
    assert (call["server"], call["status"]) == ("company-ledger", "succeeded")
    assert "revenue" in body["reply"]
    assert body["usage"] == {"input_tokens": 22, "output_tokens": 14, "total_tokens": 36}
    assert [asked["model"] for asked in model.asked] == ["llama-3.3-70b-ceo"] * 2
    assert set(model.keys) == {"Bearer secret"}


async def test_a_conversation_goes_on_after_a_restart(custom: World, model: ModelServer) -> None:
    model.script = looks_up
    first = await custom.app.ask("cfo", "Our code word is marigold.")
    await custom.app.kill()
    await custom.app.restart()
    await custom.app.ready("cfo")
    model.answers(Answer("marigold"))
    second = await custom.app.ask("cfo", "What is our code word?", conversation_id=first["conversation_id"])
    assert second["reply"] == "marigold"
    shown = model.asked[-1]["messages"]
    assert [message["role"] for message in shown] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert shown[1]["content"] == "Our code word is marigold."


async def test_an_event_is_answered_at_its_reply_to(custom: World, model: ModelServer) -> None:
    model.script = looks_up
    event = {"agent_id": "ceo", "event_type": "QuestionAsked", "payload": {"message": "How was Q3?"}}
    await custom.client.send("agent-events", event, message_id=uuid.uuid4().hex, reply_to=REPLIES)
    body = json.loads(str(await custom.client.receive()))
    assert body["status"] == "completed"
    assert body["response"].startswith("The ledger says:")


async def test_status_and_health_name_the_runtime(custom: World, model: ModelServer) -> None:
    await custom.app.ready()
    status = (await custom.app.http.get("agents/ceo/status")).json()
    assert (status["runtime"], status["type"], status["lora_adapter"]) == (
        "Custom Runtime",
        "PurposeDrivenAgent",
        "ceo",
    )
    assert status["is_running"] is True
    health = await custom.app.until("health", lambda body: body["checks"]["model"]["status"] == "healthy")
    assert health["runtime"] == "Custom Runtime"


async def test_a_model_that_refuses_fails_the_turn_and_the_next_one_works(custom: World, model: ModelServer) -> None:
    refused = Answer(status=400, error={"message": "no", "code": "content_filter"})
    model.script = lambda body: refused if body["messages"][-1]["role"] == "tool" else looks_up(body)
    failed = await custom.app.ask("ceo", "How was Q3?")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "content_filter")
    model.answers(Answer("Fine."))
    after = await custom.app.ask("ceo", "And now?", conversation_id=failed["conversation_id"])
    assert (after["status"], after["reply"]) == ("completed", "Fine.")
    shown = model.asked[-1]["messages"]
    calls = [call["id"] for message in shown for call in message.get("tool_calls") or []]
    assert calls == [message["tool_call_id"] for message in shown if message["role"] == "tool"], "each has its answer"


async def test_rollback_is_one_setting(custom: World, model: ModelServer) -> None:
    """The same conversation goes on under either runtime; the words said under the other one stay there."""
    model.answers(Answer("custom"))
    first = await custom.app.ask("coo", "@say foundry")
    conversation = first["conversation_id"]
    environment = custom.app._environment
    for runtime, said in (("true", "foundry"), ("false", "custom")):
        await custom.app.stop()
        environment["USE_FOUNDRY_RUNTIME"] = runtime
        await custom.app.restart()
        await custom.app.ready("coo")
        body = await custom.app.ask("coo", "@say foundry", conversation_id=conversation)
        assert (body["status"], body["reply"]) == ("completed", said)
