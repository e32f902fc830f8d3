from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from aos.errors import ConversationGone, FoundryRefused, FoundryUnavailable
from aos.ml import (
    FoundryAgentServiceClient,
    FoundryAgentServiceConfig,
    InvalidModelRequest,
    ModelSettingError,
)
from emulators.foundry import FoundryEmulator
from tests.foundry.pacing import HeldModel
from tests.foundry.project import Project, running
from tests.ml.proxy import losing_first_answer

VERSIONS = "POST /agents/{name}/versions"
RESPONSES = "POST /openai/v1/responses"


async def definition(project: Project, agent: str) -> dict[str, Any]:
    found = await project.http.get(f"/api/projects/local/agents/{agent}", params={"api-version": "v1"})
    latest: dict[str, Any] = found.json()["versions"]["latest"]["definition"]
    return latest


@pytest.fixture
async def other(config: FoundryAgentServiceConfig) -> AsyncIterator[FoundryAgentServiceClient]:
    """As if in another process."""
    async with FoundryAgentServiceClient(dataclasses.replace(config)) as client:
        yield client


async def test_an_answer_tells_who_gave_it(client: FoundryAgentServiceClient) -> None:
    response = await client.send_message("@say 42", domain="ceo")
    assert (response.content, response.success, response.error) == ("42", True, None)
    assert response.model == "llama-3.3-70b-ceo"
    assert response.thread_id
    assert response.usage["total_tokens"] == response.usage["input_tokens"] + response.usage["output_tokens"] > 0
    assert response.metadata["deployment"] == "llama-3.3-70b-ceo"
    assert response.metadata["domain_deployment"] is True


async def test_a_domain_without_deployment_becomes_context(client: FoundryAgentServiceClient, project: Project) -> None:
    response = await client.send_message("@say x", domain="customer_analytics")
    assert response.model == response.metadata["deployment"] == "llama-3.3-70b"
    assert response.metadata["domain_deployment"] is False
    assert "customer_analytics" in (await definition(project, response.agent_id or ""))["instructions"]


async def test_settings_reach_the_service(project: Project, config: FoundryAgentServiceConfig) -> None:
    own = dataclasses.replace(config, temperature=0.25, top_p=0.5, max_tokens=2)
    async with FoundryAgentServiceClient(own) as client:
        response = await client.send_message("@say one two three four five", system_prompt="Count.")
    made = await definition(project, response.agent_id or "")
    assert (made["temperature"], made["top_p"], made["instructions"]) == (0.25, 0.5, "Count.")
    assert response.metadata["incomplete"] == "max_output_tokens"
    assert response.content.startswith("one")
    assert len(response.content) < len("one two three four five")


async def test_agents_are_found_again(
    client: FoundryAgentServiceClient, other: FoundryAgentServiceClient, project: Project
) -> None:
    prompt = "An agent of its own."
    before = await project.calls(VERSIONS)
    answers = await asyncio.gather(*(client.send_message("@say hi", system_prompt=prompt) for _ in range(20)))
    answers.append(await other.send_message("@say hi", system_prompt=prompt))
    assert {answer.content for answer in answers} == {"hi"}
    assert len({answer.agent_id for answer in answers}) == 1
    assert await project.calls(VERSIONS) == before + 1


async def test_an_agent_deleted_outside_is_made_again(client: FoundryAgentServiceClient, project: Project) -> None:
    first = await client.send_message("@say a", system_prompt="To be deleted.")
    await project.delete_agent(first.agent_id or "")
    second = await client.send_message("@say b", first.thread_id, system_prompt="To be deleted.")
    assert (second.content, second.thread_id) == ("b", first.thread_id)


async def test_tools_by_the_names_of_callers(client: FoundryAgentServiceClient, project: Project) -> None:
    response = await client.send_message("@say x", tools=["data_analysis", "visualization", "statistical_modeling"])
    assert response.success
    assert response.tools_used == []
    assert [tool["type"] for tool in (await definition(project, response.agent_id or ""))["tools"]] == [
        "code_interpreter"
    ]
    with pytest.raises(InvalidModelRequest, match="'telepathy' unknown") as error:
        await client.send_message("x", tools=["telepathy"])
    assert error.value.code == "unknown_tool"


async def test_threads_remember_and_outlive_the_process(
    client: FoundryAgentServiceClient, other: FoundryAgentServiceClient
) -> None:
    thread = await client.create_thread({"purpose": "support"})
    fresh = await other.get_thread_info(thread)
    assert (fresh.message_count, fresh.metadata, fresh.agent_id) == (0, {"purpose": "support"}, None)
    await client.send_message("@say one", thread)
    response = await other.send_message("@say two", thread)
    info = await client.get_thread_info(thread)
    assert (info.thread_id, info.message_count, info.metadata) == (thread, 2, {"purpose": "support"})
    assert info.agent_id == response.agent_id
    assert fresh.last_accessed
    assert info.last_accessed
    assert info.last_accessed > fresh.last_accessed
    assert abs(info.created_at.timestamp() - time.time()) < 60
    assert await other.delete_thread(thread)
    assert not await other.delete_thread(thread)
    with pytest.raises(ConversationGone):
        await client.get_thread_info(thread)
    gone = await client.send_message("@say x", thread)
    assert (gone.success, gone.metadata["error_code"]) == (False, "conversation_gone")


@pytest.mark.parametrize(
    "metadata",
    [{"aos_app": "x"}, {"k" * 65: "v"}, {"k": "v" * 513}, {f"k{n}": "v" for n in range(14)}],
    ids=["reserved", "long key", "long value", "many"],
)
async def test_metadata_that_is_not_kept_is_refused(
    client: FoundryAgentServiceClient, metadata: dict[str, str]
) -> None:
    with pytest.raises(InvalidModelRequest, match="metadata"):
        await client.create_thread(metadata)


async def test_without_threads(project: Project, config: FoundryAgentServiceConfig) -> None:
    async with FoundryAgentServiceClient(dataclasses.replace(config, enable_stateful_threads=False)) as client:
        response = await client.send_message("@say alone")
        assert (response.content, response.thread_id) == ("alone", None)
        with pytest.raises(InvalidModelRequest, match="FOUNDRY_ENABLE_STATEFUL_THREADS"):
            await client.create_thread()
        with pytest.raises(InvalidModelRequest, match="FOUNDRY_ENABLE_STATEFUL_THREADS"):
            await client.send_message("x", thread_id="conv_1")
        # Nobody can know what became of it.
        await project.fail(503, "/responses")
        before = await project.calls(RESPONSES)
        assert not (await client.send_message("@say again")).success
        assert await project.calls(RESPONSES) == before + 1


@pytest.mark.parametrize(
    ("message", "domain"), [(" ", None), ("x" * 1_000_001, None), ("x", ""), ("x", "a\nb"), ("x", "d" * 65)]
)
async def test_bad_input(client: FoundryAgentServiceClient, message: str, domain: str | None) -> None:
    with pytest.raises(InvalidModelRequest):
        await client.send_message(message, domain=domain)
    assert client.get_metrics()["total_requests"] == 0


async def test_an_existing_agent(project: Project, config: FoundryAgentServiceConfig) -> None:
    body = {"definition": {"kind": "prompt", "model": "llama-3.3-70b-cfo", "tools": [{"type": "code_interpreter"}]}}
    path = "/api/projects/local/agents/aos-agent-001/versions"
    (await project.http.post(path, params={"api-version": "v1"}, json=body)).raise_for_status()
    before = await project.calls(VERSIONS)
    for agent_id in ("aos-agent-001", "aos-agent-001:1"):
        async with FoundryAgentServiceClient(dataclasses.replace(config, agent_id=agent_id)) as client:
            response = await client.send_message("@say here", domain="sales", tools=["visualization"])
            await client.send_message("@say on", response.thread_id, domain="sales")
        assert (response.content, response.agent_id, response.model) == ("here", "aos-agent-001", "llama-3.3-70b-cfo")
    assert await project.calls(VERSIONS) == before
    items = await project.adapter.items_after(response.thread_id or "", None)
    assert ["sales" in item.text for item in items] == [True, False, False, False, False]
    async with FoundryAgentServiceClient(dataclasses.replace(config, agent_id="nobody")) as client:
        missing = await client.send_message("x")
    assert (missing.success, missing.metadata["error_code"]) == (False, "agent_not_found")


async def test_functions_of_an_existing_agent_do_not_block_the_thread(
    project: Project, config: FoundryAgentServiceConfig
) -> None:
    function = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    body = {"definition": {"kind": "prompt", "model": "llama-3.3-70b", "tools": [function]}}
    path = "/api/projects/local/agents/with-functions/versions"
    (await project.http.post(path, params={"api-version": "v1"}, json=body)).raise_for_status()
    async with FoundryAgentServiceClient(dataclasses.replace(config, agent_id="with-functions")) as client:
        thread = await client.create_thread()
        asked = await client.send_message("@tool look {}", thread)
        assert (asked.success, asked.metadata["error_code"]) == (False, "functions_not_supported")
        assert "look" in (asked.error or "")
        assert (await client.send_message("@say on", thread)).content == "on"
        with pytest.raises(FoundryRefused, match="code_interpreter"):
            await client.ask("x", tools=["data_analysis"])


async def test_a_refusal_that_changed_nothing_is_retried(client: FoundryAgentServiceClient, project: Project) -> None:
    await client.send_message("@say warm")
    await project.fail(429, "/responses", times=2, retry_after=0.02)
    response = await client.send_message("@say through")
    assert response.content == "through"
    assert client.get_metrics()["retries"] == 2


async def test_retries_end(client: FoundryAgentServiceClient, project: Project) -> None:
    await client.send_message("@say warm")
    before = await project.calls(RESPONSES)
    await project.fail(429, "/responses", times=50)
    response = await client.send_message("x")
    assert (response.success, response.metadata["error_code"]) == (False, "foundry_unavailable")
    assert await project.calls(RESPONSES) == before + 4
    with pytest.raises(FoundryUnavailable):
        await client.ask("x")


async def test_an_unknown_end_is_looked_up_before_asking_again(
    client: FoundryAgentServiceClient, project: Project
) -> None:
    thread = await client.create_thread()
    await client.send_message("@say first", thread)
    await project.fail(503, "/responses")
    assert (await client.send_message("@say second", thread)).content == "second"
    assert (await client.get_thread_info(thread)).message_count == 2


async def test_the_answer_to_another_process_is_not_taken_for_ones_own(
    client: FoundryAgentServiceClient, config: FoundryAgentServiceConfig, project: Project
) -> None:
    thread = await client.create_thread()
    await client.send_message("@say first", thread)
    async with FoundryAgentServiceClient(config) as other:
        await other.send_message("@say go on", thread)
    await project.fail(503, "/responses")
    response = await client.send_message("@say go on", thread)
    assert (response.content, response.metadata.get("adopted")) == ("go on", None)
    assert (await client.get_thread_info(thread)).message_count == 3


async def test_an_answer_that_was_lost_on_its_way_is_adopted() -> None:
    async with running(FoundryEmulator()) as project, losing_first_answer(project) as proxy:
        config = FoundryAgentServiceConfig(f"{proxy.url}/api/projects/local", "local", retry_delay=0.01)
        async with FoundryAgentServiceClient(config) as client:
            response = await client.send_message("@say only once")
            assert (response.content, response.metadata["adopted"]) == ("only once", True)
            assert await project.calls(RESPONSES) == 1
            assert (await client.send_message("@say next", response.thread_id)).content == "next"


async def test_a_message_has_its_time() -> None:
    model = HeldModel()
    async with running(FoundryEmulator(model=model, on_disconnect="drop")) as project:
        config = FoundryAgentServiceConfig(project.emulator.endpoint, "local", timeout=0.5)
        async with FoundryAgentServiceClient(config) as client:
            response = await asyncio.wait_for(client.send_message("@say late"), 30)
        assert (response.success, response.metadata["error_code"]) == (False, "timeout")
        assert "FOUNDRY_TIMEOUT" in (response.error or "")
        assert await project.calls(RESPONSES) <= 1, "it is the time of all tries together"
        model.go.set()


async def test_a_missing_model_names_those_that_exist(config: FoundryAgentServiceConfig) -> None:
    async with FoundryAgentServiceClient(dataclasses.replace(config, model="gpt-nope")) as client:
        response = await client.send_message("x")
    assert response.metadata["error_code"] == "deployment_not_found"
    assert "llama-3.3-70b-ceo" in (response.error or "")


async def test_health(client: FoundryAgentServiceClient, project: Project) -> None:
    assert await client.health_check()
    await project.fail(500, "/deployments", times=9)
    assert not await client.health_check()
    async with FoundryAgentServiceClient(FoundryAgentServiceConfig("http://127.0.0.1:9", "k")) as dead:
        assert not await dead.health_check()


async def test_metrics(client: FoundryAgentServiceClient) -> None:
    began = time.monotonic()
    assert client.get_metrics()["average_latency"] == 0
    responses = [await client.send_message(f"@say {n}") for n in range(2)]
    await client.send_message("@fail content_filter")
    metrics = client.get_metrics()
    assert (metrics["total_requests"], metrics["successful_requests"], metrics["failed_requests"]) == (3, 2, 1)
    assert metrics["total_tokens_used"] == sum(response.usage["total_tokens"] for response in responses)
    assert 0 < metrics["average_latency"] < time.monotonic() - began


class Identity:
    """An Entra identity that hands out a token."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def get_token(self, *scopes: str, **more: Any) -> AccessToken:
        self.scopes += scopes
        return AccessToken("entra-token", int(time.time()) + 3600)

    async def close(self) -> None: ...

    async def __aenter__(self) -> Identity:
        return self

    async def __aexit__(self, *args: object) -> None: ...


async def test_entra(project: Project, config: FoundryAgentServiceConfig) -> None:
    body = {"definition": {"kind": "prompt", "model": "llama-3.3-70b"}}
    path = "/api/projects/local/agents/signed-in/versions"
    (await project.http.post(path, params={"api-version": "v1"}, json=body)).raise_for_status()
    identity = Identity()
    # Management goes over TLS only, so that an agent has to exist here.
    own = dataclasses.replace(config, api_key="", agent_id="signed-in")
    async with FoundryAgentServiceClient(own, identity) as client:
        assert (await client.send_message("@say signed in")).content == "signed in"
    assert set(identity.scopes) == {"https://ai.azure.com/.default"}


async def test_initialize_needs_settings() -> None:
    for config in (FoundryAgentServiceConfig(api_key="k"), FoundryAgentServiceConfig("https://x")):
        with pytest.raises(ModelSettingError, match="not configured"):
            await FoundryAgentServiceClient(config).initialize()


async def test_an_answer_counts_although_its_use_could_not_be_noted(
    client: FoundryAgentServiceClient, project: Project
) -> None:
    thread = await client.create_thread()
    await project.fail(500, f"/conversations/{thread}", method="POST", times=9)
    response = await client.send_message("@say heard", thread)
    assert (response.success, response.content) == (True, "heard")


async def test_messages_to_one_thread_at_once_wait_for_each_other() -> None:
    async with running(FoundryEmulator(latency_ms=50)) as project:
        config = FoundryAgentServiceConfig(project.emulator.endpoint, "local", max_retries=8, retry_delay=0.05)
        async with FoundryAgentServiceClient(config) as client:
            thread = await client.create_thread()
            answers = await asyncio.gather(*(client.send_message(f"@say {n}", thread) for n in range(3)))
            assert [answer.content for answer in answers] == ["0", "1", "2"]
            assert (await client.get_thread_info(thread)).message_count == 3


async def test_what_others_wrote_into_a_thread_s_metadata_stays(
    client: FoundryAgentServiceClient, project: Project
) -> None:
    thread = await client.create_thread({"purpose": "support"})
    conversations = project.clients.openai.conversations
    known = (await conversations.retrieve(thread)).metadata
    assert isinstance(known, dict)
    await conversations.update(thread, metadata={**known, "ticket": "42"})
    assert (await client.send_message("Hello", thread_id=thread)).success
    info = await client.get_thread_info(thread)
    assert info is not None
    assert (info.metadata, bool(info.agent_id)) == ({"purpose": "support", "ticket": "42"}, True)
