"""The samples that agents with adapters of their own were asked for with, run as they stand there.

Only the names of packages differ, and of the Azure ML workspace. The base model is a tiny one, which lies where the
samples name theirs; Azure is the one of these tests.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aos.agents import PerpetualAgent
from aos.config import STORAGE, Settings
from aos.ml import MLPipelineManager
from aos.storage.manager import UnifiedStorageManager
from tests.lora.tiny import make_base, write_data
from tests.ml.azure_cloud import AzureCloud
from tests.ml.azure_ml_service import GROUP, SUBSCRIPTION, WORKSPACE, AzureMLService

pytestmark = [
    pytest.mark.ml,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:marshmallow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:azure.ai.ml"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the samples name."""
    folder = tmp_path_factory.mktemp("samples")
    make_base(folder / "meta-llama/Llama-3.1-8B-Instruct")
    (folder / "data").mkdir()
    write_data(folder / "data/train.jsonl", "ceo")
    return folder


@pytest.fixture(autouse=True)
def settings(place: Path, azure: tuple[AzureCloud, AzureMLService], monkeypatch: pytest.MonkeyPatch) -> AzureMLService:
    monkeypatch.chdir(place)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AOS_ADAPTERS_DIR", "./outputs")
    monkeypatch.setenv("AOS_AML_ADAPTER", "board")
    monkeypatch.setenv("AOS_BASE_MODEL", "meta-llama/Llama-3.1-8B-Instruct")
    monkeypatch.setenv("AOS_AML_TRAINING_DATA", "./data/train.jsonl")
    monkeypatch.setenv("MLENDPOINTURL", "https://all.northeurope.inference.ml.azure.com/score")
    monkeypatch.setenv("MLENDPOINTKEY", "key-of-all")
    monkeypatch.setenv("AML_CFO_SCORING_URI", "https://cfo.northeurope.inference.ml.azure.com/score")
    monkeypatch.setenv("AML_CFO_KEY", "key-of-cfo")
    return azure[1]


def test_example_usage(settings: AzureMLService, place: Path) -> None:
    agent = PerpetualAgent()

    # Trigger LoRA training
    asyncio.run(
        agent.act(
            "trigger_lora_training",
            {
                "training_params": {
                    "model_name": "meta-llama/Llama-3.1-8B-Instruct",
                    "data_path": "./data/train.jsonl",
                    "output_dir": "./outputs",
                },
                "adapters": [
                    {
                        "adapter_name": "lora_qv",
                        "task_type": "causal_lm",
                        "r": 16,
                        "lora_alpha": 32,
                        "target_modules": ["q_proj", "v_proj"],
                    }
                ],
            },
        )
    )
    assert (place / "outputs/lora_qv/v1/adapter_model.safetensors").exists()

    # Run the full Azure ML pipeline
    run = asyncio.run(
        agent.act(
            "run_azure_ml_pipeline",
            {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": WORKSPACE},
        )
    )
    assert (run.adapter, run.status, run.model_name, run.model_version) == ("board", "Completed", "lora-board", "1")

    # Perform inference
    answer = asyncio.run(agent.act("aml_infer", {"agent_id": "cmo", "prompt": "What is the Q2 marketing plan?"}))
    assert answer == "all, key-of-all: What is the Q2 marketing plan?"


def test_multi_agent_ml_pipeline_sharing(settings: AzureMLService) -> None:
    ceo_agent = PerpetualAgent(adapter_name="ceo")
    cfo_agent = PerpetualAgent(adapter_name="cfo")
    coo_agent = PerpetualAgent(adapter_name="coo")

    said = [asyncio.run(agent.act("aml_infer", {"prompt": "x"})) for agent in (ceo_agent, cfo_agent, coo_agent)]
    assert said == ["all, key-of-all: x", "cfo, key-of-cfo: x", "all, key-of-all: x"]


def test_centralized_ml_pipeline_management(settings: AzureMLService, capsys: pytest.CaptureFixture[str]) -> None:
    ml_manager = MLPipelineManager()

    # Train a new adapter for the CEO agent
    asyncio.run(
        ml_manager.train_adapter(
            agent_role="ceo",
            training_params={
                "model_name": "meta-llama/Llama-3.1-8B-Instruct",
                "data_path": "./data/train.jsonl",
                "output_dir": "./outputs",
            },
            adapter_config={
                "task_type": "causal_lm",
                "r": 16,
                "lora_alpha": 32,
                "target_modules": ["q_proj", "v_proj"],
            },
        )
    )

    # List all adapters
    print(ml_manager.list_adapters())
    assert "'ceo'" in capsys.readouterr().out

    # Run the full pipeline
    run = asyncio.run(ml_manager.run_pipeline(SUBSCRIPTION, GROUP, WORKSPACE))
    assert (run.adapter, run.status) == ("board", "Completed")

    # Inference for CFO
    answer = asyncio.run(ml_manager.infer("cfo", "What is the Q2 financial forecast?"))
    assert answer == "cfo, key-of-cfo: What is the Q2 financial forecast?"


def test_unified_storage_management(monkeypatch: pytest.MonkeyPatch, storage_settings: Settings) -> None:
    monkeypatch.setenv(STORAGE, storage_settings.storage or "")
    storage = UnifiedStorageManager()

    async def use() -> object:
        async with storage:
            await storage.upload_blob("samples", "plan.json", b'{"growth": 2}')
            return await storage.load_json_from_blob("samples", "plan.json")

    assert asyncio.run(use()) == {"growth": 2}
