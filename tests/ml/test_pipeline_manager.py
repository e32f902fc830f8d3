"""The manager and the agent that works it, as far as they need no training; see tests/lora for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aos.agents import PerpetualAgent
from aos.agents.perpetual import ActionInvalid
from aos.config import MLConfig, load_settings
from aos.lora.errors import TrainingJobInvalid, UnknownAdapter
from aos.ml import MLPipelineManager, ModelRefused, ModelSettingError, ModelUnavailable
from aos.registry.agents import parse_agents
from tests.orchestration.model_server import ModelServer


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer().serve() as server:
        yield server


def manager(url: str, home: Path, **config: Any) -> MLPipelineManager:
    endpoints = {
        "": {"scoring_uri": f"{url}/score", "key": "all"},
        "cfo": {"scoring_uri": f"{url}/score", "key": "cash"},
        "cto": {"scoring_uri": f"{url}/v1/chat/completions", "key": "tech"},
    }
    return MLPipelineManager(
        MLConfig.model_validate({"azure_ml_endpoints": endpoints, **config}),
        settings=load_settings({"AOS_ADAPTERS_DIR": str(home)}),
    )


class TestInference:
    async def test_each_agent_has_its_endpoint(self, server: ModelServer, tmp_path: Path) -> None:
        ml = manager(server.url, tmp_path)
        assert await ml.infer("cfo", "What is the Q2 forecast?") == "scored: 1 What is the Q2 forecast?"
        assert await ml.infer("CMO", "And the plan?") == "scored: 1 And the plan?"
        assert await ml.infer("cto", "And the stack?") == ": 1 And the stack?"
        assert server.keys == ["Bearer cash", "Bearer all", "Bearer tech"]

    async def test_one_pool_serves_many_agents_at_once(self, server: ModelServer, tmp_path: Path) -> None:
        async with manager(server.url, tmp_path) as ml:
            agents = [PerpetualAgent(name, ml=ml) for name in ("ceo", "cfo", "coo")] * 5
            answers = await asyncio.gather(
                *(agent.act("aml_infer", {"prompt": agent.adapter_name}) for agent in agents)
            )
        assert answers == [f"scored: 1 {agent.adapter_name}" for agent in agents]

    def test_one_manager_in_one_loop_after_the_other(self, tmp_path: Path) -> None:
        async def ask(ml: MLPipelineManager) -> str:
            async with ModelServer().serve() as server:
                ml._config = manager(server.url, tmp_path)._config
                return await ml.infer("cfo", "x")

        ml = manager("http://127.0.0.1:1", tmp_path)
        assert [asyncio.run(ask(ml)) for _ in range(2)] == ["scored: 1 x"] * 2

    async def test_an_overloaded_endpoint_is_asked_again(self, server: ModelServer, tmp_path: Path) -> None:
        server.failures = [503, 429]
        assert await manager(server.url, tmp_path).infer("cfo", "x") == "scored: 1 x"
        server.failures = [503] * 9
        with pytest.raises(ModelUnavailable, match="HTTP 503"):
            await manager(server.url, tmp_path, model_retries=1).infer("cfo", "x")
        assert len(server.failures) == 7

    async def test_what_is_wrong_is_said(self, server: ModelServer, tmp_path: Path) -> None:
        with pytest.raises(ModelSettingError, match="AML_CFO_SCORING_URI"):
            await MLPipelineManager(MLConfig(), settings=load_settings({})).infer("cfo", "x")
        server.failures = [401]
        with pytest.raises(ModelRefused, match="sign-in"):
            await manager(server.url, tmp_path).infer("cfo", "x")
        assert not server.failures, "a refusal is not tried again"
        server.delay = 5
        with pytest.raises(ModelUnavailable, match=r"within 0\.1 s"):
            await manager(server.url, tmp_path, model_timeout=0.1, model_retries=0).infer("cfo", "x")

    async def test_what_the_scoring_script_of_an_adapter_refuses_is_not_tried_again(
        self, server: ModelServer, tmp_path: Path
    ) -> None:
        server.error = "This model's maximum context length is 2048 tokens; the messages have 3000. Send fewer."
        with pytest.raises(ModelRefused, match="2048 tokens") as error:
            await manager(server.url, tmp_path).infer("cfo", "x")
        assert error.value.code == "context_length_exceeded"
        assert len(server.requests) == 1

    async def test_an_agent_asks_with_its_own_adapter_unless_told_otherwise(
        self, server: ModelServer, tmp_path: Path
    ) -> None:
        agent = PerpetualAgent(adapter_name="cfo", ml=manager(server.url, tmp_path))
        await agent.act("aml_infer", {"prompt": "x"})
        await agent.act("aml_infer", {"prompt": "x", "agent_id": "cmo"})
        assert server.keys == ["Bearer cash", "Bearer all"]


class TestActions:
    @pytest.mark.parametrize(
        ("action", "params", "said"),
        [
            ("dance", {}, "Known: trigger_lora_training, "),
            ("aml_infer", {}, "prompt: Field required"),
            ("aml_infer", {"prompt": ""}, "prompt: "),
            ("aml_infer", {"prompt": "x", "temperature": 1}, "temperature: "),
            ("aml_infer", {"prompt": "x"}, "Name the adapter"),
            ("trigger_lora_training", {}, "training_params: Field required"),
            ("trigger_lora_training", {"training_params": {}}, "Name the adapter"),
            ("trigger_lora_training", {"training_params": {}, "adapters": "ceo"}, "adapters: "),
        ],
    )
    async def test_a_wrong_action_says_what_is_wrong(self, action: str, params: dict[str, Any], said: str) -> None:
        with pytest.raises(ActionInvalid, match=said):
            await PerpetualAgent().act(action, params)

    async def test_the_agents_adapter_is_put_into_the_training(self, tmp_path: Path) -> None:
        ml = MLPipelineManager(MLConfig(), settings=load_settings({"AOS_ADAPTERS_DIR": str(tmp_path)}))
        agent = PerpetualAgent("ceo", ml=ml)
        params = {"model_name": "m", "data_path": str(tmp_path / "none.jsonl")}
        with pytest.raises(Exception, match=r"cannot be read|cannot be imported"):
            await agent.act("trigger_lora_training", {"training_params": params, "adapters": [{"r": 4}]})
        status = ml.get_training_status("ceo")
        assert status.state == "failed"
        assert status.error
        with pytest.raises(TrainingJobInvalid, match=r"config\.r"):
            await agent.act("trigger_lora_training", {"training_params": params, "adapters": [{"r": 0}]})

    def test_what_is_not_there_is_said(self, tmp_path: Path) -> None:
        ml = MLPipelineManager(MLConfig(), settings=load_settings({"AOS_ADAPTERS_DIR": str(tmp_path)}))
        assert ml.list_adapters() == []
        for ask in (ml.get_adapter_config, ml.get_training_status):
            with pytest.raises(UnknownAdapter, match="known: none"):
                ask("ceo")


def test_an_agent_of_the_registry_keeps_its_id_and_its_adapter() -> None:
    registry = parse_agents(
        b'{"version": "1.0", "agents": [{"agent_id": "watch", "agent_type": "perpetual", "purpose": "Watch.",'
        b' "domain_knowledge": {"domain": "cfo"}}]}'
    )
    agent = PerpetualAgent.from_entry(registry.entries["watch"])
    assert (agent.agent_id, agent.adapter_name, agent.purpose) == ("watch", "cfo", "Watch.")
    assert PerpetualAgent("ceo").agent_id == "ceo"
