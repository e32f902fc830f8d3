"""The pipeline in Azure Machine Learning: the SDK as it is, against a workspace that runs what is submitted."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aos.agents import PerpetualAgent
from aos.config import MLConfig, load_settings
from aos.lora.errors import ExtraMissing, TrainingDataInvalid
from aos.ml import MLPipelineManager
from aos.ml.azure_ml import _BOUNDS
from aos.ml.azure_ml_errors import (
    AzureMLJobFailed,
    AzureMLQuota,
    AzureMLRefused,
    AzureMLRequestInvalid,
    AzureMLSignIn,
    AzureMLTimedOut,
    AzureMLUnavailable,
    WorkspaceUnknown,
)
from aos.ml.azure_ml_request import AzureMLProgress, AzureMLRun
from tests.lora.tiny import ROLES, make_base, write_data
from tests.ml.azure_cloud import AzureCloud
from tests.ml.azure_ml_service import GROUP, ROOT, SUBSCRIPTION, WORKSPACE, AzureMLService

pytestmark = [
    pytest.mark.ml,
    pytest.mark.timeout(400),  # a training and its process take seconds, and a minute beside many others
    # What the SDK does with marshmallow 3 goes away with marshmallow 4.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:marshmallow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:azure.ai.ml"),
]
Azure = tuple[AzureCloud, AzureMLService]
WHERE = (SUBSCRIPTION, GROUP, WORKSPACE)
QUICK: dict[str, Any] = {"poll_seconds": 0.1, "timeout_seconds": 300}
HUB = "meta-llama/Llama-3.1-8B-Instruct"
DATA = "azureml://datastores/training/paths/ceo.jsonl"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def ml() -> MLPipelineManager:
    return MLPipelineManager(MLConfig(), settings=load_settings({}))


def params(data: str = DATA, **more: Any) -> dict[str, Any]:
    return {"model_name": HUB, "data_path": data, **more}


async def test_an_adapter_is_trained_registered_deployed_and_answers(
    azure: Azure, base: Path, ml: MLPipelineManager, tmp_path: Path
) -> None:
    _, service = azure
    service.hub[HUB] = base
    service.faults.slow_compute = 2
    data = write_data(tmp_path / "ceo.jsonl", "ceo")
    told: list[AzureMLProgress] = []
    run = await ml.run_pipeline(
        *WHERE,
        agent_role="ceo",
        training_params=params(str(data), max_steps=40, learning_rate=0.01, batch_size=8, epochs=100),
        adapter_config={"r": 8, "target_modules": ["q_proj", "v_proj", "gate_proj", "down_proj"]},
        tell=told.append,
        deploy=True,
        **QUICK,
    )
    assert run == AzureMLRun(
        adapter="ceo",
        job_name=run.job_name,
        studio_url=run.studio_url,
        status="Completed",
        compute="aos-gpu",
        compute_made=True,
        model_name="lora-ceo",
        model_version="1",
        deployment=run.deployment,
    )
    assert run.studio_url is not None
    assert run.studio_url.startswith(f"https://ml.azure.com/runs/{run.job_name}")
    assert list(dict.fromkeys(p.phase for p in told)) == [
        "compute",
        "submitting",
        "waiting",
        "registering",
        "deploying",
    ]
    assert {p.status for p in told if p.phase == "waiting"} >= {"Running", "Completed"}

    cluster = service.put["computes/aos-gpu"]["properties"]["properties"]
    assert cluster["vmSize"] == "Standard_NC24ads_A100_v4"
    assert (cluster["scaleSettings"]["minNodeCount"], cluster["scaleSettings"]["maxNodeCount"]) == (0, 1)
    job = service.jobs[run.job_name]["properties"]
    assert job["computeId"].endswith("/computes/aos-gpu")
    assert job["limits"]["timeout"] == "PT5M"
    model = service.put["models/lora-ceo/versions/1"]["properties"]
    assert model["modelUri"] == f"azureml://jobs/{run.job_name}/outputs/adapter"
    made = service.folder / run.job_name / "outputs/adapter"
    assert json.loads((made / "adapter_config.json").read_text())["r"] == 8
    report = json.loads((made / "training.json").read_text())
    assert report["eval_loss"] < report["base_eval_loss"]

    assert run.deployment is not None
    assert run.deployment.scoring_uri == "https://aos-ceo.northeurope.inference.ml.azure.com/score"
    deployment = service.put["onlineEndpoints/aos-ceo/deployments/version-1"]["properties"]
    assert deployment["model"].endswith("/models/lora-ceo/versions/1")
    assert service.put["onlineEndpoints/aos-ceo"]["properties"]["traffic"] == {"version-1": 100}
    assert await score(service, deployment, made, base, tmp_path) == ROLES["ceo"][0][1]


async def score(service: AzureMLService, deployment: Any, model: Path, base: Path, scratch: Path) -> str:
    """Does what an instance of the endpoint does: starts the scoring script on the model, and asks it."""
    code = service.put[deployment["codeConfiguration"]["codeId"].split(f"{WORKSPACE}/")[1]]["properties"]["codeUri"]
    folder = await service.fetch(code, scratch / "endpoint")
    (folder / "meta-llama").mkdir()
    (folder / HUB).symlink_to(base)
    script = (
        "import importlib, json, sys\n"
        f"score = importlib.import_module({deployment['codeConfiguration']['scoringScript'][:-3]!r})\n"
        "score.init()\n"
        "print(json.dumps(score.run(sys.argv[1])))\n"
        "print(json.dumps(score.run('{}')))"
    )
    asked = {"input_data": {"input_string": [{"role": "user", "content": ROLES["ceo"][0][0]}]}}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, json.dumps(asked)),
        cwd=folder,
        env={"AZUREML_MODEL_DIR": str(model.parent), **deployment["environmentVariables"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    first, second = ((await child.communicate())[0]).decode().splitlines()
    assert "input_data: Field required" in json.loads(second)["error"]
    return str(json.loads(first)["output"])


async def test_what_lies_in_azure_is_named_to_the_job_and_not_uploaded(azure: Azure, ml: MLPipelineManager) -> None:
    _, service = azure
    service.hold_jobs = True
    cluster = {"computeType": "AmlCompute", "provisioningState": "Succeeded", "properties": {"vmSize": "x"}}
    service.put["computes/mine"] = {"name": "mine", "location": "x", "properties": cluster}
    run = await ml.run_pipeline(
        *WHERE,
        agent_role="ceo",
        training_params={"model_name": "azureml:llama:3", "data_path": DATA, "eval_path": "https://x.blob/e.jsonl"},
        compute="mine",
        environment_variables={"HF_TOKEN": "t"},
        wait=False,
    )
    assert (run.status, run.compute_made, run.model_version) == ("Queued", False, None)
    job = service.jobs[run.job_name]["properties"]
    assert {name: given["uri"] for name, given in job["inputs"].items()} == {
        "data": DATA,
        "evaluation": "https://x.blob/e.jsonl",
        "base": f"{ROOT}/models/llama/versions/3",
    }
    assert job["command"].endswith("--eval ${{inputs.evaluation}} --base ${{inputs.base}}")
    assert job["environmentVariables"]["HF_TOKEN"] == "t"
    assert not [path for method, path in service.requests if "datastores" in path or method == "DELETE"]


async def test_an_agent_runs_it_for_its_own_adapter(azure: Azure) -> None:
    _, service = azure
    service.hold_jobs = True
    config = MLConfig(azure_ml_training_data=DATA, azure_ml_compute="ours", azure_ml_vm_size="Standard_NC4as_T4_v3")
    ml = MLPipelineManager(config, settings=load_settings({"AOS_BASE_MODEL": HUB}))
    where = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": WORKSPACE}
    run = await PerpetualAgent("cfo", ml=ml).act("run_azure_ml_pipeline", {**where, "wait": False})
    assert isinstance(run, AzureMLRun)
    assert (run.adapter, run.compute) == ("cfo", "ours")
    assert service.put["computes/ours"]["properties"]["properties"]["vmSize"] == "Standard_NC4as_T4_v3"


class TestWhatIsAskedWrongly:
    async def test_what_is_missing_is_named_with_its_setting(self, ml: MLPipelineManager) -> None:
        with pytest.raises(AzureMLRequestInvalid) as error:
            await ml.run_pipeline(*WHERE)
        for name in ("agent_role", "AOS_AML_ADAPTER", "AOS_BASE_MODEL", "training_params.data_path"):
            assert name in error.value.detail

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"subscription_id": "..."}, "subscription_id: "),
            ({"workspace_name": "no/ws"}, "workspace_name: "),
            ({"compute": "x y"}, "compute: "),
            ({"gpus": 4}, "gpus: "),
            ({"deploy": True, "training_params": params(model_name="azureml:llama:3")}, "Hugging Face hub"),
        ],
    )
    async def test_what_is_wrong_is_named(self, ml: MLPipelineManager, change: dict[str, Any], said: str) -> None:
        given: dict[str, Any] = dict(zip(("subscription_id", "resource_group", "workspace_name"), WHERE, strict=True))
        with pytest.raises(AzureMLRequestInvalid, match=said):
            await ml.run_pipeline(**{**given, "agent_role": "ceo", "training_params": params(), **change})

    async def test_the_data_is_checked_before_anything_is_made(
        self, azure: Azure, ml: MLPipelineManager, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.jsonl"
        bad.write_text("{}\n")
        with pytest.raises(TrainingDataInvalid, match="line 1"):
            await ml.run_pipeline(*WHERE, agent_role="ceo", training_params=params(str(bad)))
        assert not azure[1].requests

    async def test_without_the_extra_it_says_what_to_install(
        self, ml: MLPipelineManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "azure.ai.ml", None)
        with pytest.raises(ExtraMissing, match=r"agent-operating-system\[azureml\]"):
            await ml.run_pipeline(*WHERE, agent_role="ceo", training_params=params())


class TestWhatGoesWrong:
    async def run(self, ml: MLPipelineManager, **more: Any) -> AzureMLRun:
        return await ml.run_pipeline(*WHERE, **{"agent_role": "ceo", "training_params": params(), **QUICK, **more})

    async def test_nobody_is_signed_in(self, azure: Azure, ml: MLPipelineManager) -> None:
        azure[0].signed_in = False
        with pytest.raises(AzureMLSignIn, match="az login"):
            await self.run(ml)

    async def test_there_is_no_such_workspace(self, azure: Azure, ml: MLPipelineManager) -> None:
        with pytest.raises(WorkspaceUnknown, match="'other' in resource group 'rg-aos'"):
            await ml.run_pipeline(SUBSCRIPTION, GROUP, "other", agent_role="ceo", training_params=params())

    async def test_the_identity_may_not(self, azure: Azure, ml: MLPipelineManager) -> None:
        azure[1].faults.refuse["PUT "] = [(403, "AuthorizationFailed", "no action computes/write")]
        with pytest.raises(AzureMLSignIn, match=r"AzureML Data Scientist.*computes/write"):
            await self.run(ml)

    async def test_the_quota_does_not_allow_a_cluster(self, azure: Azure, ml: MLPipelineManager) -> None:
        azure[1].faults.slow_compute = 2
        azure[1].faults.failed_compute = "24 cores are more than the 0 left of the subscription"
        with pytest.raises(AzureMLQuota, match=r"making compute aos-gpu.*24 cores"):
            await self.run(ml)

    async def test_the_quota_does_not_allow_a_job(self, azure: Azure, ml: MLPipelineManager) -> None:
        azure[1].faults.refuse["/jobs/"] = [(400, "UserError", "The quota of jobs is exceeded")]
        with pytest.raises(AzureMLQuota, match="submitting job ceo-"):
            await self.run(ml)

    async def test_a_failed_job_says_why(self, azure: Azure, base: Path, ml: MLPipelineManager, tmp_path: Path) -> None:
        data = write_data(tmp_path / "ceo.jsonl", "ceo")
        with pytest.raises(AzureMLJobFailed, match=r"Failed: UserError: .*TrainingJobInvalid.*no query") as error:
            await self.run(
                ml,
                training_params={"model_name": str(base), "data_path": str(data)},
                adapter_config={"target_modules": ["query"]},
            )
        assert error.value.job_name in azure[1].jobs
        assert (error.value.studio_url or "").startswith("https://ml.azure.com")

    async def test_a_job_that_takes_too_long_is_cancelled(self, azure: Azure, ml: MLPipelineManager) -> None:
        azure[1].hold_jobs = True
        # There already: of the time, however little is left, it is the job that takes too much.
        cluster = {"computeType": "AmlCompute", "provisioningState": "Succeeded", "properties": {"vmSize": "x"}}
        azure[1].put["computes/aos-gpu"] = {"name": "aos-gpu", "location": "x", "properties": cluster}
        with pytest.raises(AzureMLTimedOut, match=r"was Queued after 3 s and was cancelled") as error:
            await self.run(ml, timeout_seconds=3)
        assert azure[1].jobs[str(error.value.job_name)]["properties"]["status"] == "Canceled"

    @pytest.mark.parametrize("phase", ["submitting", "waiting"])
    async def test_who_gives_up_leaves_no_job_behind(self, azure: Azure, ml: MLPipelineManager, phase: str) -> None:
        azure[1].hold_jobs = True
        reached = asyncio.Event()
        work = asyncio.create_task(self.run(ml, tell=lambda p: reached.set() if p.phase == phase else None))
        await asyncio.wait_for(reached.wait(), 100)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert [job["properties"]["status"] for job in azure[1].jobs.values()] == ["Canceled"]

    async def test_a_service_that_is_away_for_a_moment_is_asked_again(
        self, azure: Azure, ml: MLPipelineManager
    ) -> None:
        azure[1].hold_jobs = True
        azure[1].faults.refuse["GET "] = [(503, "ServerBusy", "later")]
        assert (await self.run(ml, wait=False)).status == "Queued"
        azure[1].faults.refuse["GET "] = [(503, "ServerBusy", "later")] * 9
        with pytest.raises(AzureMLUnavailable, match=r"HTTP 503|ServerBusy"):
            await self.run(ml)

    async def test_what_the_service_refuses_is_said(self, azure: Azure, ml: MLPipelineManager) -> None:
        azure[1].faults.refuse["/jobs/"] = [(400, "UserError", "the image cannot be built")]
        with pytest.raises(AzureMLRefused, match="the image cannot be built"):
            await self.run(ml)

    async def test_a_service_that_is_away_while_a_job_runs_does_not_lose_its_adapter(
        self, azure: Azure, ml: MLPipelineManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, service = azure
        service.hold_jobs = True
        # It is away for longer than the SDK tries, at a look at the job and when its adapter is registered.
        monkeypatch.setitem(_BOUNDS, "retry_total", 0)
        service.faults.refuse["GET " + ROOT + "/jobs/"] = [(503, "ServerBusy", "later")] * 2
        service.faults.refuse["/models/"] = [(503, "ServerBusy", "later")] * 2

        def tell(progress: AzureMLProgress) -> None:
            if progress.job_name in service.jobs:
                service.jobs[progress.job_name]["properties"]["status"] = "Completed"

        run = await self.run(ml, tell=tell)
        assert (run.status, run.model_version) == ("Completed", "1")
        assert len(service.jobs) == 1

    async def test_a_version_that_cannot_be_deployed_leaves_the_one_before_it_serving(
        self, azure: Azure, ml: MLPipelineManager
    ) -> None:
        _, service = azure
        service.hold_jobs = True

        def tell(progress: AzureMLProgress) -> None:
            if progress.job_name in service.jobs:
                service.jobs[progress.job_name]["properties"]["status"] = "Completed"

        first = await self.run(ml, tell=tell, deploy=True)
        endpoint = service.put["onlineEndpoints/aos-ceo"]
        endpoint["properties"] |= {"authMode": "AMLToken", "description": "changed in the studio"}
        service.faults.refuse["/deployments/"] = [(400, "UserError", "the image cannot be built")]
        with pytest.raises(AzureMLRefused, match="the image cannot be built"):
            await self.run(ml, tell=tell, deploy=True)
        kept = service.put["onlineEndpoints/aos-ceo"]["properties"]
        assert kept["traffic"] == {"version-1": 100}
        second = await self.run(ml, tell=tell, deploy=True)
        assert first.deployment is not None
        assert second.deployment is not None
        led = service.put["onlineEndpoints/aos-ceo"]["properties"]
        assert led["traffic"] == {second.deployment.deployment: 100}
        assert (led["authMode"], led["description"]) == ("AMLToken", "changed in the studio")

    async def test_an_endpoint_of_another_adapter_is_not_taken(self, azure: Azure, ml: MLPipelineManager) -> None:
        _, service = azure
        theirs = {"tags": {"adapter": "north_sea"}, "location": "x", "properties": {"authMode": "Key", "traffic": {}}}
        service.put["onlineEndpoints/aos-north-sea"] = {"name": "aos-north-sea", **theirs}
        with pytest.raises(AzureMLRefused, match=r"aos-north-sea serves adapter 'north_sea': give 'north-sea' another"):
            await self.run(ml, agent_role="north-sea", deploy=True)
        assert not service.jobs, "it is known before a node is paid for"
