"""One place from which all adapters are trained, looked at and asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self
from weakref import WeakKeyDictionary

from aos.config import MLConfig, Settings, load_settings
from aos.errors import AosError
from aos.kernel.clock import SystemClock
from aos.lora.data import read_examples
from aos.lora.errors import UnknownAdapter
from aos.lora.folder import find, newest
from aos.lora.job import AdapterConfig, Progress, TrainingJob, TrainingReport
from aos.lora.process import run_training
from aos.lora.sources import local_data, open_registry
from aos.lora.training import read_report
from aos.ml.azure_ml_errors import AzureMLRequestInvalid
from aos.ml.azure_ml_request import AzureMLProgress, AzureMLRequest, AzureMLRun, is_remote
from aos.ml.registered import registered_training
from aos.ml.retries import Retries
from aos.ml.scoring import ScoringEndpoints

if TYPE_CHECKING:
    from aos.lora.registry import AdapterVersion

TrainingState = Literal["queued", "running", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class TrainingStatus:
    """How the last training of an adapter stands.

    Attributes:
        progress: While it runs.
        report: Once it succeeded.
        error: Why it failed.
    """

    adapter: str
    state: TrainingState
    progress: Progress | None = None
    report: TrainingReport | None = None
    error: str | None = None


class MLPipelineManager:
    """Trains adapters, one at a time on this machine or in Azure ML, and asks deployed ones.

    Any number of agents may share one.

    It needs no closing: what it opens, it opens for a call. `async with` keeps connections for as long as that.

    Args:
        config: Scoring endpoints, time-outs and retries; from the environment without it.
        settings: Where adapters lie (`AOS_ADAPTERS_DIR`), and the storage account of the registry.
        concurrency: Trainings at a time; each one holds a base model in memory.
    """

    def __init__(
        self, config: MLConfig | None = None, *, settings: Settings | None = None, concurrency: int = 1
    ) -> None:
        self._config = config or MLConfig.from_env()
        self._settings = settings or load_settings()
        self._concurrency = concurrency
        self._homes = [Path(self._settings.adapters_dir)]
        self._statuses: dict[str, TrainingStatus] = {}
        # The seeds call one manager from several event loops, one after the other.
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._endpoints: ScoringEndpoints | None = None

    async def __aenter__(self) -> Self:
        self._endpoints = self._scoring()
        return self

    async def __aexit__(self, *_: object) -> None:
        endpoints, self._endpoints = self._endpoints, None
        if endpoints is not None:
            await endpoints.close()

    # --- training

    async def train_adapter(
        self,
        agent_role: str,
        training_params: Mapping[str, Any],
        adapter_config: Mapping[str, Any] | None = None,
        *,
        tell: Callable[[Progress], None] | None = None,
    ) -> TrainingReport:
        """Trains the adapter of a role and returns what became of it.

        Args:
            agent_role: Name of the adapter. Without a `data_path` it is an agent of the registry, whose entry says
                which adapter, which data, and, without an `adapter_config`, which shape.
            training_params: As `aos.lora.job.TrainingParams`; `output_dir` is `AOS_ADAPTERS_DIR` without one and
                `model_name` is `AOS_BASE_MODEL`. `data_path` may be a blob (`container/name`) of the storage account.
            adapter_config: As `aos.lora.job.AdapterConfig`; a name in it is the adapter's instead of the role. One that
                holds a name alone leaves the shape to the registry, like none.
            tell: Is told how far it is.

        Raises:
            TrainingJobInvalid, TrainingDataInvalid, BaseModelMissing, ExtraMissing: Nothing was trained.
            UnknownAgent: There is no data path, neither here nor in the registry.
            TrainingRunning: It is being trained by another process.
            TrainingFailed: The same call again goes on from its last checkpoint.
        """
        job = await self._job(agent_role, training_params, adapter_config)
        adapter = job.adapter
        home = Path(job.params.output_dir)
        if home not in self._homes:
            self._homes.append(home)
        self._statuses[adapter] = TrainingStatus(adapter, "queued")

        def follow(progress: Progress) -> None:
            self._statuses[adapter] = TrainingStatus(adapter, "running", progress)
            if tell is not None:
                tell(progress)

        try:
            async with self._gate(), self._data_at_hand(job) as ready:
                self._statuses[adapter] = TrainingStatus(adapter, "running")
                report = await run_training(ready, follow)
        except BaseException as error:
            why = error.detail if isinstance(error, AosError) else type(error).__name__
            self._statuses[adapter] = replace(self._statuses[adapter], state="failed", error=why)
            raise
        self._statuses[adapter] = TrainingStatus(adapter, "succeeded", report=report)
        return report

    async def _job(self, role: str, params: Mapping[str, Any], config: Mapping[str, Any] | None) -> TrainingJob:
        """A job from what a caller gave, and what settings and the registry say where nothing was given."""
        given = {key: value for key, value in params.items() if value is not None}
        adapter = str((config or {}).get("adapter_name") or role)
        if "data_path" not in given and self._settings.storage_configured:
            registered = await registered_training(role, self._settings)
            if registered.data_path:
                given["data_path"] = registered.data_path
            given_config = {key: value for key, value in (config or {}).items() if value is not None}
            if not given_config.keys() - {"adapter_name"}:
                # A name alone is no shape.
                given_config = {**registered.config, **given_config}
            config = given_config
            adapter = str(config.get("adapter_name") or registered.adapter)
        if self._settings.base_model:
            given.setdefault("model_name", self._settings.base_model)
        return TrainingJob.read(adapter, {"output_dir": self._settings.adapters_dir, **given}, config)

    @asynccontextmanager
    async def _data_at_hand(self, job: TrainingJob) -> AsyncIterator[TrainingJob]:
        """The job with its data as files of this machine; what was a blob is fetched for as long as it takes."""
        with TemporaryDirectory() as folder:
            here: dict[str, str] = {}
            for field in ("data_path", "eval_path"):
                path = getattr(job.params, field)
                if path is not None and not is_remote(path):
                    scratch = Path(folder) / field
                    scratch.mkdir()
                    here[field] = str(await local_data(path, self._settings, scratch))
            yield job.model_copy(update={"params": job.params.model_copy(update=here)})

    def get_training_status(self, agent_role: str) -> TrainingStatus:
        """The last training of an adapter, by this manager or, before that, on this machine.

        Raises:
            UnknownAdapter: It was never trained here.
        """
        known = self._statuses.get(agent_role)
        if known is not None:
            return known
        return TrainingStatus(agent_role, "succeeded", report=read_report(self._find(agent_role)))

    def list_adapters(self) -> list[str]:
        """Names of the adapters on this machine."""
        return sorted({name for home in self._homes for name in newest(home)})

    def get_adapter_config(self, agent_role: str) -> AdapterConfig:
        """With what shape an adapter was last trained.

        Raises:
            UnknownAdapter: Names those that exist.
        """
        return read_report(self._find(agent_role)).config

    def _find(self, adapter: str) -> Path:
        for home in reversed(self._homes):
            if adapter in newest(home):
                return find(home, adapter)
        known = ", ".join(self.list_adapters()) or "none"
        raise UnknownAdapter(f"There is no adapter {adapter!r} in {', '.join(map(str, self._homes))}; known: {known}.")

    def _gate(self) -> asyncio.Semaphore:
        return self._gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._concurrency))

    # --- the registry that all processes share

    async def publish(self, agent_role: str) -> AdapterVersion:
        """Enters the newest version of an adapter into the registry of the storage account."""
        async with open_registry(self._settings) as registry:
            return await registry.register(self._find(agent_role))

    # --- Azure Machine Learning

    async def run_pipeline(
        self,
        subscription_id: str,
        resource_group: str,
        workspace_name: str,
        *,
        agent_role: str | None = None,
        training_params: Mapping[str, Any] | None = None,
        adapter_config: Mapping[str, Any] | None = None,
        tell: Callable[[AzureMLProgress], None] | None = None,
        **options: Any,
    ) -> AzureMLRun:
        """Trains an adapter in Azure Machine Learning: compute, job, registered model, an endpoint if asked.

        Args:
            agent_role: Name of the adapter; `AOS_AML_ADAPTER` without it.
            training_params: As `train_adapter`; `data_path` is `AOS_AML_TRAINING_DATA` without one, and may be an
                `azureml:` or https address, which the job reads itself. A file or blob is checked and uploaded.
            tell: Is told how far it is.
            options: As `aos.ml.azure_ml_request.AzureMLRequest`: `compute` (`AOS_AML_COMPUTE`), `vm_size`
                (`AOS_AML_VM_SIZE`), `wait`, `timeout_seconds`, `deploy`, ...

        Raises:
            AzureMLRequestInvalid: Names every argument that is missing or wrong.
            TrainingJobInvalid, TrainingDataInvalid, ExtraMissing: Nothing was submitted.
            AzureMLSignIn, WorkspaceUnknown, AzureMLQuota, AzureMLRefused, AzureMLUnavailable, AzureMLTimedOut.
            AzureMLJobFailed: With what the service says about it.
        """
        config = self._config
        role = agent_role or config.azure_ml_adapter
        params = {"data_path": config.azure_ml_training_data, **(training_params or {})}
        missing = {
            "agent_role (or AOS_AML_ADAPTER)": role,
            "training_params.model_name (or AOS_BASE_MODEL)": params.get("model_name") or self._settings.base_model,
            "training_params.data_path (or AOS_AML_TRAINING_DATA)": params["data_path"],
        }
        if role is None or not all(missing.values()):
            named = ", ".join(name for name, value in missing.items() if not value)
            raise AzureMLRequestInvalid(f"The pipeline does not know what to train: give {named}.")
        defaults = {"compute": config.azure_ml_compute, "vm_size": config.azure_ml_vm_size}
        values = {key: value for key, value in defaults.items() if value is not None}
        values |= {
            "subscription_id": subscription_id,
            "resource_group": resource_group,
            "workspace_name": workspace_name,
        }
        job = await self._job(role, params, adapter_config)
        AzureMLRequest.read({**values, **options, "job": job})
        async with self._data_at_hand(job) as ready:
            for path in (ready.params.data_path, ready.params.eval_path):
                if path is not None and not is_remote(path):
                    await asyncio.to_thread(read_examples, Path(path))
            request = AzureMLRequest.read({**values, **options, "job": ready})
            from aos.ml.azure_ml import AzureMLWorkspace

            async with AzureMLWorkspace(request, self._settings, tell) as workspace:
                return await workspace.run()

    # --- inference

    async def infer(self, agent: str, prompt: str) -> str:
        """What a deployed adapter answers (`AML_<AGENT>_SCORING_URI`, else `MLENDPOINTURL`).

        An endpoint without a key is signed in to with the app's identity. An overloaded one is asked again, within the
        time-out of a request for each try.

        Raises:
            ModelSettingError: No endpoint is configured; names the settings.
            ModelUnavailable, ModelRefused: From the endpoint.
        """
        clock = SystemClock()
        timeout, most = self._config.model_timeout, self._config.model_retries
        messages = [{"role": "user", "content": prompt}]
        retries = Retries(most, 0.5, clock)
        if self._endpoints is not None and self._endpoints.find(agent)[0].key:
            kept = self._endpoints
            return (
                await retries.run(lambda: kept.score(agent, messages), until=clock.now() + timeout * (most + 1))
            ).text
        needed = self._scoring().find(agent)[0].key is None
        async with self._credential(needed=needed) as credential:
            endpoints = self._scoring(credential)
            try:
                scored = await retries.run(
                    lambda: endpoints.score(agent, messages), until=clock.now() + timeout * (most + 1)
                )
            finally:
                await endpoints.close()
        return scored.text

    def _scoring(self, credential: Any = None) -> ScoringEndpoints:
        return ScoringEndpoints(self._config.azure_ml_endpoints, self._config.model_timeout, credential)

    @asynccontextmanager
    async def _credential(self, *, needed: bool) -> AsyncIterator[Any]:
        if not needed:
            yield None
            return
        from aos.identity import identity

        credential = identity(self._settings)
        try:
            yield credential
        finally:
            await credential.close()
