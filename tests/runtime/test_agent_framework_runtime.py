from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from runtime import AgentExists, AgentFrameworkRuntime, CircuitOpen, RuntimeConfig, RuntimeConfigError, outgoing
from runtime.outgoing import FAILURES_TO_OPEN
from tests.model_server import Answer, ModelServer, model_server


@pytest.fixture(scope="session")
async def served() -> AsyncIterator[ModelServer]:
    async with model_server() as model:
        yield model


@pytest.fixture
def model(served: ModelServer) -> ModelServer:
    served.reset()
    return served


@pytest.fixture
async def runtime(model: ModelServer) -> AsyncIterator[AgentFrameworkRuntime]:
    defaults = {"base_url": model.url, "model": "llama-3.3-70b"}
    async with AgentFrameworkRuntime(RuntimeConfig(custom_config={"agent_framework": defaults})) as runtime:
        yield runtime


async def test_an_agent_answers_through_the_endpoint(runtime: AgentFrameworkRuntime, model: ModelServer) -> None:
    settings = {"model": "llama-3.3-70b-cto", "instructions": "Be brief.", "temperature": 0.5, "api_key": "secret"}
    agent = await runtime.create_agent("my-agent", config=settings)
    assert runtime.get_agent("my-agent") is agent
    session = agent.create_session()
    assert (await agent.run("Hi?", session=session)).text == "Done."
    await agent.run("Again?", session=session)
    asked = model.asked[-1]
    assert (asked["model"], asked["temperature"]) == ("llama-3.3-70b-cto", 0.5)
    assert [message["content"] for message in asked["messages"]] == ["Be brief.", "Hi?", "Done.", "Again?"]
    assert model.keys[-1] == "Bearer secret"


async def test_its_tools_run_here(runtime: AgentFrameworkRuntime, model: ModelServer) -> None:
    def add(first: int, second: int) -> int:
        """Adds two numbers."""
        return first + second

    agent = await runtime.create_agent("adder", tools=[add])
    model.answers(Answer(None, [("a", "add", '{"first": 2, "second": 40}')]), Answer("It is 42."))
    assert (await agent.run("2 + 40?")).text == "It is 42."
    assert model.asked[0]["tools"][0]["function"]["name"] == "add"
    assert json.loads(model.asked[1]["messages"][-1]["content"]) == 42


async def test_a_streamed_answer_is_whole_with_its_tools_and_session(
    runtime: AgentFrameworkRuntime, model: ModelServer
) -> None:
    def add(first: int, second: int) -> int:
        """Adds two numbers."""
        return first + second

    agent = await runtime.create_agent("adder", tools=[add])
    session = agent.create_session()
    model.answers(Answer(None, [("a", "add", '{"first": 2, "second": 40}')]), Answer("It is 42."))
    stream = agent.run("2 + 40?", stream=True, session=session)
    pieces = [piece.text async for piece in stream]
    assert "".join(pieces).strip() == (await stream.get_final_response()).text.strip() == "It is 42."
    await agent.run("Again?", session=session)
    said = [(message["role"], (message.get("content") or "").strip()) for message in model.asked[-1]["messages"]]
    assert said[-2:] == [("assistant", "It is 42."), ("user", "Again?")]


async def test_agents_are_kept_by_name(runtime: AgentFrameworkRuntime) -> None:
    for name in ("b", "a"):
        await runtime.create_agent(name)
    assert runtime.list_agents() == ["b", "a"]
    with pytest.raises(AgentExists, match="'a'"):
        await runtime.create_agent("a")
    assert await runtime.remove_agent("a")
    assert not await runtime.remove_agent("a")
    assert runtime.get_agent("a") is None
    await runtime.create_agent("a")
    await runtime.close()
    assert runtime.list_agents() == []


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"base_url": "ftp://x"}, "agent x/base_url"),
        ({"temperature": 3}, "agent x/temperature"),
        ({"modell": "m"}, "agent x/modell"),
        ({"model": ""}, "agent x/model"),
    ],
)
async def test_wrong_settings_are_named(runtime: AgentFrameworkRuntime, config: dict[str, object], named: str) -> None:
    with pytest.raises(RuntimeConfigError) as wrong:
        await runtime.create_agent("x", config)
    assert list(wrong.value.faults) == [named]
    assert runtime.list_agents() == []


async def test_what_no_default_gives_is_required() -> None:
    runtime = AgentFrameworkRuntime(RuntimeConfig())
    with pytest.raises(RuntimeConfigError) as wrong:
        await runtime.create_agent("x")
    assert set(wrong.value.faults) == {"agent x/model", "agent x/base_url"}
    listed = AgentFrameworkRuntime(RuntimeConfig(custom_config={"agent_framework": ["model"]}))
    with pytest.raises(RuntimeConfigError, match="is not an object"):
        await listed.create_agent("x")


@pytest.mark.parametrize(("enabled", "calls"), [(True, 2), (False, 1)])
async def test_retries_are_those_of_the_runtime(model: ModelServer, enabled: bool, calls: int) -> None:
    defaults = {"base_url": model.url, "model": "llama-3.3-70b"}
    config = RuntimeConfig(max_retries=1, retry_enabled=enabled, custom_config={"agent_framework": defaults})
    model.answers(Answer(status=503, error={"message": "busy"}, headers={"retry-after-ms": "1"}))
    async with AgentFrameworkRuntime(config) as runtime:
        agent = await runtime.create_agent("x")
        with pytest.raises(Exception, match="busy"):
            await agent.run("Hi?")
    assert len(model.asked) == calls


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_that_keeps_failing_is_left_alone(model: ModelServer, streamed: bool) -> None:
    defaults = {"base_url": model.url, "model": "llama-3.3-70b"}
    config = RuntimeConfig(retry_enabled=False, custom_config={"agent_framework": defaults})
    async with AgentFrameworkRuntime(config) as runtime:
        agent = await runtime.create_agent("my-agent")

        async def ask() -> None:
            if streamed:
                await agent.run("Hi?", stream=True).get_final_response()
            else:
                await agent.run("Hi?")

        model.answers(Answer(status=503, error={"message": "busy"}))
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(Exception, match="busy"):
                await ask()
        asked = len(model.asked)
        with pytest.raises(CircuitOpen):
            await ask()
        assert len(model.asked) == asked


async def test_who_reads_a_streamed_answer_slowly_keeps_nobody_from_the_model(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "OPEN_SECONDS", 0.0)
    defaults = {"base_url": model.url, "model": "llama-3.3-70b"}
    config = RuntimeConfig(retry_enabled=False, custom_config={"agent_framework": defaults})
    async with AgentFrameworkRuntime(config) as runtime:
        agent = await runtime.create_agent("my-agent")
        model.answers(*[Answer(status=503, error={"message": "busy"})] * FAILURES_TO_OPEN, Answer("It works again."))
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(Exception, match="busy"):
                await agent.run("Hi?")
        stream = agent.run("Hi?", stream=True)  # the one call that tries whether the model is well again
        pieces = [(await anext(aiter(stream))).text]
        assert (await agent.run("And I?")).text == "It works again."
        pieces += [piece.text async for piece in stream]
        assert "".join(pieces).strip() == "It works again."
