"""The samples of the ML pipeline, with a model that is small enough to be trained here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aos.agents import PerpetualAgent
from aos.config import STORAGE, MLConfig, Settings, load_settings
from aos.errors import UnknownAgent
from aos.lora.data import read_examples
from aos.lora.errors import TrainingDataInvalid
from aos.lora.sources import open_account
from aos.ml import MLPipelineManager

pytestmark = pytest.mark.ml


def test_an_agent_trains_its_adapter(
    base: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agent = PerpetualAgent(adapter_name="ceo")
    params = {"model_name": str(base), "data_path": str(data["ceo"]), "output_dir": "./outputs", "max_steps": 2}
    shape = {"task_type": "causal_lm", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
    reports = asyncio.run(
        agent.act(
            "trigger_lora_training",
            {"training_params": params, "adapters": [{"adapter_name": "lora_qv", **shape}, shape]},
        )
    )
    assert [report.adapter for report in reports] == ["lora_qv", "ceo"]
    assert (tmp_path / "outputs/lora_qv/v1/adapter_config.json").exists()


def test_one_manager_trains_lists_and_tells(
    base: Path, data: dict[str, Path], tmp_path: Path, storage_settings: Settings
) -> None:
    settings = load_settings({"AOS_ADAPTERS_DIR": str(tmp_path / "home"), STORAGE: storage_settings.storage})
    ml_manager = MLPipelineManager(MLConfig(), settings=settings)
    shape = {"task_type": "causal_lm", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    seen: list[str] = []

    async def both() -> None:
        """Two agents share the manager: their trainings do not run into each other."""

        def follow(*_: object) -> None:
            seen.append("/".join(ml_manager.get_training_status(role).state for role in ("cfo", "coo")))

        await asyncio.gather(
            *(
                ml_manager.train_adapter(
                    agent_role=role,
                    training_params={"model_name": str(base), "data_path": str(data["cfo"]), "max_steps": 2},
                    adapter_config=shape,
                    tell=follow,
                )
                for role in ("cfo", "coo")
            )
        )

    asyncio.run(both())
    assert "running/queued" in seen
    assert "running/running" not in seen
    assert ml_manager.list_adapters() == ["cfo", "coo"]
    assert ml_manager.get_adapter_config("coo").r == 4
    status = ml_manager.get_training_status("cfo")
    assert status.state == "succeeded"
    assert status.report is not None
    assert status.report.steps == 2
    published = asyncio.run(ml_manager.publish("coo"))
    assert (published.adapter, published.report.data_hash) == ("coo", status.report.data_hash)
    # Another process finds the same on disk.
    other = MLPipelineManager(MLConfig(), settings=settings)
    assert other.list_adapters() == ["cfo", "coo"]
    assert other.get_training_status("cfo").state == "succeeded"


def test_an_agent_of_the_registry_is_trained_on_the_data_that_its_entry_names(
    base: Path, data: dict[str, Path], tmp_path: Path, storage_settings: Settings
) -> None:
    settings = load_settings(
        {
            "AOS_ADAPTERS_DIR": str(tmp_path / "home"),
            "AOS_BASE_MODEL": str(base),
            "AGENT_CONFIG_BLOB_CONTAINER": "registered-training",
            STORAGE: storage_settings.storage,
        }
    )
    shape = {"task_type": "causal_lm", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    knowledge = {"domain": "treasury", "training_data_path": "training-data/cfo/cash.jsonl", "adapter_config": shape}
    entry = {"agent_id": "cfo", "purpose": "Keep the cash.", "domain_knowledge": knowledge}

    async def upload() -> None:
        async with open_account(settings) as account:
            registry = await account.container("registered-training")
            document = json.dumps({"version": "1.0", "agents": [entry]})
            await registry.upload_blob("agent_registry.json", document, overwrite=True)
            blobs = await account.container("training-data")
            await blobs.upload_blob("cfo/cash.jsonl", data["cfo"].read_bytes(), overwrite=True)
            await blobs.upload_blob("cfo/bad.jsonl", b"{}\n", overwrite=True)

    asyncio.run(upload())
    ml_manager = MLPipelineManager(MLConfig(), settings=settings)
    report = asyncio.run(ml_manager.train_adapter("cfo", {"max_steps": 1}))
    assert (report.adapter, report.config.r, report.config.target_modules) == ("treasury", 4, ("q_proj",))
    assert report.data_hash == read_examples(data["cfo"]).data_hash
    # The agent itself, which says no more than that it is to be trained.
    agent = PerpetualAgent("treasury", agent_id="cfo", ml=ml_manager)
    [again] = asyncio.run(agent.act("trigger_lora_training", {"training_params": {"max_steps": 1}}))
    assert (again.adapter, again.version, again.data_hash) == ("treasury", 2, report.data_hash)
    assert (again.config.r, again.config.target_modules) == (4, ("q_proj",))
    with pytest.raises(UnknownAgent, match=r"no agent 'cto'.*it has cfo"):
        asyncio.run(ml_manager.train_adapter("cto", {}))
    for path, said in (
        ("training-data/cfo/none.jsonl", "neither a file nor a blob"),
        ("training-data/cfo/bad.jsonl", "line 1"),
    ):
        with pytest.raises(TrainingDataInvalid, match=said):
            asyncio.run(ml_manager.train_adapter("cfo", {"data_path": path}))
    assert ml_manager.get_training_status("cfo").state == "failed"
