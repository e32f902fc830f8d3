from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from aos.config import MLConfig, Settings
from aos.errors import AosError
from aos.kernel.clock import SystemClock
from aos.ml import InvalidModelRequest, ModelSettingError
from aos.orchestration import ModelOrchestrator, ModelRefused, ModelType, ModelUnavailable
from aos.storage.account import StorageAccount
from tests.foundry.project import Project
from tests.orchestration.model_server import ModelServer


class StandingClock(SystemClock):
    """On which the pause of a circuit does not end."""

    def now(self) -> float:
        return 1_000_000.0


MODELS_ON_SERVER = ["vllm", "openai", "agent_framework", "local_model", "azure_ml"]


def served(server: ModelServer, **more: Any) -> MLConfig:
    """Every model but Foundry on the server."""
    url = f"{server.url}/v1"
    return MLConfig.model_validate(
        {
            "vllm_server_url": url,
            "openai_base_url": url,
            "openai_model": "gpt",
            "openai_api_key": "sk",
            "local_model_url": url,
            "local_model_name": "llama3",
            "agent_framework_endpoint": url,
            "agent_framework_model": "af",
            "azure_ml_endpoints": {"": {"scoring_uri": f"{server.url}/score", "key": "aml"}},
            "model_retries": 0,
            **more,
        }
    )


def foundry(project: Project, **more: Any) -> dict[str, Any]:
    return {
        "foundry_agent_service_endpoint": project.emulator.endpoint,
        "foundry_agent_service_api_key": "local",
        "foundry_retry_delay": 0.01,
        **more,
    }


@pytest.mark.parametrize("model_type", MODELS_ON_SERVER)
async def test_every_model_answers_and_remembers(server: ModelServer, model_type: str) -> None:
    async with ModelOrchestrator(served(server)) as orchestrator:
        first = await orchestrator.process_model_request(model_type, "sales", "hello", "c1")
        second = await orchestrator.process_model_request(model_type, "sales", "again", "c1")
        other = await orchestrator.process_model_request(model_type, "sales", "new", "c2")
    assert (first["success"], first["model_type"], first["source"]) == (True, model_type, model_type)
    assert first["fallback_from"] is None
    name = {"azure_ml": "scored", "vllm": "llama-3.3-70b", "openai": "gpt", "local_model": "llama3"}.get(
        model_type, "af"
    )
    assert first["reply"] == f"{name}: 2 hello"
    assert second["reply"] == f"{name}: 4 again"
    assert other["reply"] == f"{name}: 2 new"
    assert first["thread_id"] == second["thread_id"] != other["thread_id"]
    if model_type != "azure_ml":
        assert first["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
        assert first["model"] == name
    sent = server.requests[1].get("messages") or server.requests[1]["input_data"]["input_string"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert "sales" in str(sent[0]["content"])
    key = {"openai": "Bearer sk", "azure_ml": "Bearer aml"}.get(model_type, "Bearer none")
    assert set(server.keys) == {key}


async def test_foundry_answers_and_remembers(project: Project) -> None:
    async with ModelOrchestrator(MLConfig(**foundry(project))) as orchestrator:
        kind = ModelType.FOUNDRY_AGENT_SERVICE
        first = await orchestrator.process_model_request(kind, "ceo", "@say one", "c1")
        second = await orchestrator.process_model_request(kind, "ceo", "@say two", "c1")
        assert (first["reply"], first["model"], second["reply"]) == ("one", "llama-3.3-70b-ceo", "two")
        assert first["thread_id"] == second["thread_id"]
        assert first["usage"]["total_tokens"] > 0
        await project.delete_conversation(first["thread_id"])
        third = await orchestrator.process_model_request(kind, "ceo", "@say three", "c1")
    assert third["reply"] == "three"
    assert third["thread_id"] != first["thread_id"]
    assert third["metadata"]["thread_replaced"] is True


async def test_two_first_questions_share_a_thread(project: Project) -> None:
    async with ModelOrchestrator(MLConfig(**foundry(project))) as orchestrator:
        answers = await asyncio.gather(
            *(orchestrator.process_model_request("foundry_agent_service", "x", "@say hi", "same") for _ in range(3))
        )
    assert len({answer["thread_id"] for answer in answers}) == 1


async def test_conversations_outlive_the_process(
    project: Project, server: ModelServer, storage_settings: Settings
) -> None:
    config = served(server, **foundry(project))
    threads = []
    for _ in range(2):
        account = StorageAccount(storage_settings)
        async with ModelOrchestrator(config, account=account) as orchestrator:
            answer = await orchestrator.process_model_request("foundry_agent_service", "ceo", "@say x", "shared")
            chat = await orchestrator.process_model_request("vllm", "cfo", "hi", "shared")
            threads.append((answer["thread_id"], chat["thread_id"]))
        await account.close()
    assert threads[0] == threads[1]
    assert chat["reply"] == "llama-3.3-70b: 4 hi"


async def test_vllm_serves_the_adapter_of_a_domain(server: ModelServer) -> None:
    async with ModelOrchestrator(served(server)) as orchestrator:
        own = await orchestrator.process_model_request("vllm", "ceo", "hi", "c1")
        base = await orchestrator.process_model_request("vllm", "cto", "hi", "c2")
    assert (own["model"], own["metadata"]["domain_deployment"]) == ("llama-3.3-70b-ceo", True)
    assert (base["model"], base["metadata"]["domain_deployment"]) == ("llama-3.3-70b", False)


async def test_azure_ml_has_endpoints_per_domain(server: ModelServer) -> None:
    endpoints = {"ceo": {"scoring_uri": f"{server.url}/v1/chat/completions", "key": "k1"}}
    body = {"azure_ml_endpoints": endpoints, "openai_api_key": None}
    async with ModelOrchestrator(served(server, **body)) as orchestrator:
        # OpenAI's form carries the model's name, which an endpoint has only one of.
        with pytest.raises(ModelSettingError, match="AML_CFO_SCORING_URI"):
            await orchestrator.process_model_request("azure_ml", "cfo", "hi", "c1")
        server.failures = [424]
        with pytest.raises(ModelRefused, match="asked to fail"):
            await orchestrator.process_model_request("azure_ml", "CEO", "hi", "c1")
    assert server.keys == ["Bearer k1"]


@pytest.mark.parametrize(
    ("model_type", "setting"),
    [
        ("foundry_agent_service", "FOUNDRY_AGENT_SERVICE_ENDPOINT"),
        ("azure_ml", "MLENDPOINTURL"),
        ("vllm", "VLLM_SERVER_URL"),
        ("openai", "OPENAI_API_KEY"),
        ("agent_framework", "AGENT_FRAMEWORK_ENDPOINT"),
        ("local_model", "LOCAL_MODEL_URL"),
    ],
)
async def test_what_is_not_configured_is_named(model_type: str, setting: str) -> None:
    async with ModelOrchestrator(MLConfig()) as orchestrator:
        with pytest.raises(ModelSettingError, match=setting):
            await orchestrator.process_model_request(model_type, "d", "x", "c")


async def test_without_agent_framework(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent_framework", None)
    async with ModelOrchestrator(served(server)) as orchestrator:
        with pytest.raises(ModelSettingError, match="pip install agent-framework-core"):
            await orchestrator.process_model_request("agent_framework", "d", "x", "c")


@pytest.mark.parametrize("model_type", MODELS_ON_SERVER)
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (429, ModelUnavailable, "model_unavailable"),
        (503, ModelUnavailable, "model_unavailable"),
        (401, ModelRefused, "model_unauthorized"),
        (400, ModelRefused, "model_refused"),
    ],
)
async def test_failures_are_typed(
    server: ModelServer, model_type: str, status: int, kind: type[AosError], code: str
) -> None:
    server.failures = [status]
    async with ModelOrchestrator(served(server, model_fallback=False)) as orchestrator:
        with pytest.raises(kind) as error:
            await orchestrator.process_model_request(model_type, "d", "x", "c")
        assert error.value.code == code
        # What failed is not part of the conversation.
        answer = await orchestrator.process_model_request(model_type, "d", "y", "c")
    assert answer["reply"].endswith(": 2 y")


@pytest.mark.parametrize("model_type", MODELS_ON_SERVER)
async def test_a_conversation_outgrows_its_model(server: ModelServer, model_type: str) -> None:
    server.context = 10_000
    async with ModelOrchestrator(served(server)) as orchestrator:

        async def say(text: str) -> str:
            return str((await orchestrator.process_model_request(model_type, "d", text, "c"))["reply"])

        for number in range(7):
            assert (await say(f"{number} " + "x" * 1000)).endswith("x")
        sent = server.requests[-1].get("messages") or server.requests[-1]["input_data"]["input_string"]
        assert [message["role"] for message in sent[:2]] == ["system", "user"]
        assert "5 xxx" in str(sent), "what was said last is known"
        assert "0 xxx" not in str(sent)
        asked = len(server.requests)
        await say("and now?")
        assert len(server.requests) == asked + 1, "what did not fit is not tried again"
        with pytest.raises(ModelRefused) as error:
            await say("x" * 11_000)
        assert error.value.code == "context_length_exceeded"
        assert await say("still there?")


@pytest.mark.parametrize("model_type", MODELS_ON_SERVER)
@pytest.mark.parametrize(
    "said",
    [
        # As llama.cpp says it, and as OpenAI-compatible gateways do that put only the code as OpenAI has it.
        {"message": "request (9000 tokens) exceeds the available context size (4096 tokens)", "code": 400},
        {"message": "Please reduce your prompt.", "code": "context_length_exceeded"},
    ],
)
async def test_servers_say_differently_that_a_conversation_is_too_long(
    server: ModelServer, model_type: str, said: dict[str, object]
) -> None:
    server.context, server.too_long = 4000, said
    async with ModelOrchestrator(served(server)) as orchestrator:
        for _ in range(3):
            answer = await orchestrator.process_model_request(model_type, "d", "x" * 1500, "c")
            assert str(answer["reply"]).endswith("x")


@pytest.mark.parametrize("model_type", MODELS_ON_SERVER)
async def test_a_page_of_a_proxy_and_a_slow_model(server: ModelServer, model_type: str) -> None:
    async with ModelOrchestrator(served(server, model_fallback=False)) as orchestrator:
        server.html = True
        with pytest.raises(ModelUnavailable):
            await orchestrator.process_model_request(model_type, "d", "x", "c")
        server.html, server.delay = False, 0.4
        with pytest.raises(ModelUnavailable):
            await orchestrator.process_model_request(model_type, "d", "x", "c", timeout=0.1)


async def test_overload_is_retried(server: ModelServer) -> None:
    server.failures = [429]
    async with ModelOrchestrator(served(server, model_retries=1)) as orchestrator:
        answer = await orchestrator.process_model_request("vllm", "d", "x", "c", fallback=False)
    assert answer["fallback_from"] is None
    assert len(server.requests) == 2


async def test_another_model_answers_and_the_result_says_so(server: ModelServer, project: Project) -> None:
    config = served(server, **foundry(project, foundry_agent_service_endpoint="http://127.0.0.1:9/api/projects/p"))
    config = config.model_copy(update={"foundry_max_retries": 0})
    async with ModelOrchestrator(config, clock=StandingClock()) as orchestrator:
        for _ in range(6):
            answer = await orchestrator.process_model_request("foundry_agent_service", "ceo", "hi", "c")
            assert (answer["model_type"], answer["fallback_from"]) == ("vllm", "foundry_agent_service")
        assert answer["failures"][0]["error_code"] == "circuit_open"
        status = orchestrator.get_orchestrator_status()
        assert (status["fallbacks"], status["circuits"]["foundry_agent_service"]) == (6, "open")
        assert await orchestrator.select_optimal_model("ceo") is ModelType.VLLM
        with pytest.raises(AosError) as refused:
            await orchestrator.process_model_request("foundry_agent_service", "ceo", "hi", "c", fallback=False)
        assert refused.value.code == "circuit_open"


async def test_a_refusal_is_not_taken_to_another_model(server: ModelServer, project: Project) -> None:
    async with ModelOrchestrator(served(server, **foundry(project))) as orchestrator:
        with pytest.raises(AosError, match="content_filter"):
            await orchestrator.process_model_request("foundry_agent_service", "ceo", "@fail content_filter", "c")
    assert server.requests == []


async def test_tools_are_foundrys(server: ModelServer, project: Project) -> None:
    async with ModelOrchestrator(served(server, **foundry(project))) as orchestrator:
        with pytest.raises(InvalidModelRequest, match="foundry_agent_service has"):
            await orchestrator.process_model_request("vllm", "d", "x", "c", tools=["data_analysis"])
        await project.fail(500, "/responses", times=99)
        with pytest.raises(AosError) as error:
            await orchestrator.process_model_request("foundry_agent_service", "d", "x", "c", tools=["data_analysis"])
        assert error.value.code == "foundry_unavailable"
    assert server.requests == []


async def test_foundry_is_preferred_while_it_is_healthy(server: ModelServer, project: Project) -> None:
    async with ModelOrchestrator(served(server, **foundry(project))) as orchestrator:
        assert await orchestrator.select_optimal_model(domain="leadership") is ModelType.FOUNDRY_AGENT_SERVICE
    await project.fail(503, "/deployments", times=99)
    async with ModelOrchestrator(served(server, **foundry(project))) as orchestrator:
        assert await orchestrator.select_optimal_model(domain="leadership") is ModelType.VLLM
        health = await orchestrator.health()
        assert health["healthy"]
        assert not health["models"]["foundry_agent_service"]["healthy"]
        assert health["models"]["foundry_agent_service"]["problem"]
        assert {kind for kind, model in health["models"].items() if model["healthy"]} == set(MODELS_ON_SERVER)
    async with ModelOrchestrator(MLConfig()) as orchestrator:
        with pytest.raises(ModelSettingError, match="FOUNDRY_AGENT_SERVICE_ENDPOINT"):
            await orchestrator.select_optimal_model("leadership")
        assert not (await orchestrator.health())["healthy"]


async def test_a_batch_keeps_its_order_and_its_bound(server: ModelServer) -> None:
    server.delay, server.together = 0.02, 3
    requests: list[dict[str, Any]] = [
        {"model_type": "vllm", "domain": "d", "user_input": f"q{n}", "conversation_id": f"c{n}"} for n in range(12)
    ]
    requests.append({"domain": "d", "user_input": "best", "conversation_id": "c"})
    requests.append({"model_type": "nope", "domain": "d", "user_input": "x", "conversation_id": "c"})
    requests.append({"domain": "d", "user_input": "x"})
    requests.append({"domain": "d", "user_input": "x", "conversation_id": "c", "temprature": 1})
    async with ModelOrchestrator(served(server, max_concurrent_requests=3)) as orchestrator:
        batch = await asyncio.wait_for(orchestrator.batch_process_requests(requests), 60)
    assert (batch["total_requests"], batch["successful_requests"], batch["failed_requests"]) == (16, 13, 3)
    assert [result["reply"] for result in batch["results"][:2]] == ["llama-3.3-70b: 2 q0", "llama-3.3-70b: 2 q1"]
    assert batch["results"][12]["model_type"] == "vllm"
    assert "nope" in batch["results"][13]["error"]
    assert "conversation_id is missing" in batch["results"][14]["error"]
    assert "temprature" in batch["results"][15]["error"]
    assert server.most_running == 3


@pytest.mark.parametrize(
    "change",
    [
        {"user_input": " "},
        {"user_input": "x" * 250_001},
        {"domain": ""},
        {"domain": "a\nb"},
        {"conversation_id": "c" * 257},
        {"timeout": 0},
        {"model_type": "gpt"},
    ],
)
async def test_bad_requests(server: ModelServer, change: dict[str, Any]) -> None:
    request: dict[str, Any] = {"model_type": "vllm", "domain": "d", "user_input": "x", "conversation_id": "c", **change}
    async with ModelOrchestrator(served(server)) as orchestrator:
        with pytest.raises(InvalidModelRequest):
            await orchestrator.process_model_request(**request)
    assert server.requests == []
