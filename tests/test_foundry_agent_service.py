"""The Foundry Agent Service as its users meet it: the code of its guide, and the example, on an emulated project."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos.config import MLConfig
from aos.config_ml import SETTING_NAMES
from aos.ml import FoundryAgentServiceClient, FoundryAgentServiceConfig
from aos.ml.foundry_agent_service import FoundryResponse, ThreadInfo
from aos.orchestration import ModelOrchestrator, ModelType
from emulators.foundry import FoundryEmulator
from tests.orchestration.model_server import ModelServer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
async def foundry() -> AsyncIterator[FoundryEmulator]:
    async with FoundryEmulator() as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def environment(foundry: FoundryEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("FOUNDRY_", "AZURE_AI_", "OPENAI_", "VLLM_", "AML_", "ML", "LOCAL_MODEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FOUNDRY_AGENT_SERVICE_ENDPOINT", foundry.endpoint)
    monkeypatch.setenv("FOUNDRY_AGENT_SERVICE_API_KEY", "your-api-key")


@pytest.fixture
async def client() -> AsyncIterator[FoundryAgentServiceClient]:
    async with FoundryAgentServiceClient() as client:
        yield client


async def test_basic_usage() -> None:
    config = FoundryAgentServiceConfig.from_env()
    client = FoundryAgentServiceClient(config)
    await client.initialize()
    response = await client.send_message(
        message="Analyze the customer feedback trends from last quarter", domain="customer_analytics"
    )
    assert isinstance(response, FoundryResponse)
    assert response.success
    assert response.content
    assert response.model == "llama-3.3-70b"
    assert response.usage.get("total_tokens") > 0  # type: ignore[operator]  # None would be a failure
    await client.close()


async def test_stateful_threads(client: FoundryAgentServiceClient) -> None:
    thread_id = await client.create_thread(metadata={"purpose": "customer_support"})
    response1 = await client.send_message("What's our Q3 revenue?", thread_id=thread_id)
    response2 = await client.send_message("How does that compare to Q2?", thread_id=thread_id)
    response3 = await client.send_message("What's the forecast for Q4?", thread_id=thread_id)
    assert [r.success for r in (response1, response2, response3)] == [True] * 3
    assert {r.thread_id for r in (response1, response2, response3)} == {thread_id}
    # Each question carries all that went before.
    inputs = [r.usage["input_tokens"] for r in (response1, response2, response3)]
    assert inputs == sorted(set(inputs))


async def test_integration_with_the_orchestrator() -> None:
    orchestrator = ModelOrchestrator()
    await orchestrator.initialize()
    result = await orchestrator.process_model_request(
        model_type=ModelType.FOUNDRY_AGENT_SERVICE,
        domain="leadership",
        user_input="What are the top 3 strategic priorities?",
        conversation_id="conv-001",
    )
    assert result["reply"]
    assert result["thread_id"]
    assert (result["success"], result["source"]) == (True, "foundry_agent_service")
    assert result["execution_time"] > 0
    await orchestrator.close()


async def test_custom_configuration(foundry: FoundryEmulator) -> None:
    config = FoundryAgentServiceConfig(
        endpoint_url=foundry.endpoint,
        api_key="your-api-key",
        agent_id="aos-agent-001",
        model="llama-3.3-70b",
        enable_stateful_threads=True,
        enable_entra_agent_id=True,
        enable_foundry_tools=True,
        temperature=0.8,
        max_tokens=2048,
        top_p=0.95,
        timeout=90,
        max_retries=5,
    )
    client = FoundryAgentServiceClient(config)
    # The agent is to exist; one that does not is an error that names it.
    response = await client.send_message("Hello")
    await client.close()
    assert not response.success
    assert "aos-agent-001" in (response.error or "")


async def test_thread_management(client: FoundryAgentServiceClient) -> None:
    thread_id = await client.create_thread(
        metadata={"purpose": "financial_analysis", "user_id": "user-123", "department": "finance"}
    )
    thread_info = await client.get_thread_info(thread_id)
    assert isinstance(thread_info, ThreadInfo)
    assert thread_info.message_count == 0
    assert thread_info.last_accessed is not None
    assert thread_info.metadata["user_id"] == "user-123"
    assert await client.delete_thread(thread_id) is True


async def test_foundry_tools(client: FoundryAgentServiceClient) -> None:
    response = await client.send_message(
        message="Analyze sales data and create a visualization",
        domain="sales_analytics",
        tools=["data_analysis", "visualization", "statistical_modeling"],
    )
    assert response.success
    # The emulated project has no code interpreter to run, so that none is reported.
    assert ", ".join(response.tools_used) == ""


async def test_ml_config(foundry: FoundryEmulator) -> None:
    ml_config = MLConfig(
        enable_foundry_agent_service=True,
        foundry_agent_service_endpoint=foundry.endpoint,
        foundry_agent_service_api_key="your-api-key",
        foundry_agent_id="your-agent-id",
        foundry_model="llama-3.3-70b",
        foundry_enable_stateful_threads=True,
        foundry_enable_entra_agent_id=True,
        foundry_enable_foundry_tools=True,
    )
    config = FoundryAgentServiceConfig.from_ml_config(ml_config)
    assert (config.endpoint_url, config.agent_id) == (foundry.endpoint, "your-agent-id")
    async with FoundryAgentServiceClient(config) as client:
        assert await client.health_check()


async def test_metrics_and_health(client: FoundryAgentServiceClient) -> None:
    await client.send_message("Hello")
    metrics = client.get_metrics()
    assert f"Total requests: {metrics['total_requests']}" == "Total requests: 1"
    rate = f"Success rate: {metrics['successful_requests'] / metrics['total_requests'] * 100:.1f}%"
    assert rate == "Success rate: 100.0%"
    assert f"Average latency: {metrics['average_latency']:.3f}s" != "Average latency: 0.000s"
    assert metrics["total_tokens_used"] > 0
    assert await client.health_check() is True


async def test_troubleshooting() -> None:
    with pytest.raises(ValueError, match="Foundry Agent Service endpoint URL not configured"):
        await FoundryAgentServiceClient(FoundryAgentServiceConfig(api_key="k")).initialize()
    with pytest.raises(ValueError, match="Foundry Agent Service API key not configured"):
        await FoundryAgentServiceClient(FoundryAgentServiceConfig("https://your-endpoint.azure.com")).initialize()


async def test_a_missing_agent_id_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with FoundryAgentServiceClient():
        assert "Agent ID not configured" in caplog.text


async def test_migration_from_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ModelServer().serve() as server:
        monkeypatch.setenv("VLLM_SERVER_URL", f"{server.url}/v1")
        async with ModelOrchestrator() as orchestrator:
            before = await orchestrator.process_model_request(
                model_type=ModelType.VLLM, domain="leadership", user_input="Your prompt", conversation_id="conv-001"
            )
            after = await orchestrator.process_model_request(
                model_type=ModelType.FOUNDRY_AGENT_SERVICE,
                domain="leadership",
                user_input="Your prompt",
                conversation_id="conv-001",
            )
            assert before.keys() == after.keys()
            assert (before["source"], after["source"]) == ("vllm", "foundry_agent_service")
            model_type = await orchestrator.select_optimal_model(domain="leadership")
            assert model_type is ModelType.FOUNDRY_AGENT_SERVICE


async def test_the_example_runs(foundry: FoundryEmulator) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "examples/foundry_agent_service_example.py"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 100)
    text = output.decode()
    assert process.returncode == 0, errors.decode()
    assert "failed" not in text
    assert "2 messages in conv_" in text
    assert "-- deleted: True" in text
    assert "== Orchestrator: foundry_agent_service" in text
    assert "-- 3 of 3 answered" in text
    assert "4 of 4 requests succeeded" in text


async def test_the_example_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOUNDRY_AGENT_SERVICE_API_KEY")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "examples/foundry_agent_service_example.py"), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 1
    assert "FOUNDRY_AGENT_SERVICE_API_KEY" in errors.decode()


@pytest.mark.parametrize("number", [0, 1])
async def test_the_guide_runs_as_it_stands(number: int) -> None:
    guide = (ROOT / "docs/models.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL)[number]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0, errors.decode()
    assert b"llama-3.3-70b" in output


def test_the_guide_knows_every_setting() -> None:
    guide = (ROOT / "docs/models.md").read_text()
    names = {name for names in SETTING_NAMES.values() for name in names}
    assert {name for name in names if f"`{name}" not in guide} == set()
