"""Trainings in Azure Machine Learning with its SDK, `azure-ai-ml` (v2), from the extra `azureml`.

The SDK blocks; every call of it runs in a thread. It takes three seconds to import, which happens there, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aos.config import Settings
from aos.errors import AosError
from aos.lora.azure_job import JOB
from aos.lora.azure_score import BASE
from aos.lora.errors import ExtraMissing
from aos.ml.azure_ml_code import conda, snapshot
from aos.ml.azure_ml_errors import (
    AzureMLJobFailed,
    AzureMLMissing,
    AzureMLQuota,
    AzureMLRefused,
    AzureMLTimedOut,
    AzureMLUnavailable,
    WorkspaceUnknown,
    azure_ml_errors,
    is_quota,
)
from aos.ml.azure_ml_request import AzureMLDeployment, AzureMLProgress, AzureMLRequest, AzureMLRun, Phase

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Environment, Job
    from azure.core.polling import LROPoller

log = logging.getLogger("aos.ml")

T = TypeVar("T")
Tell = Callable[[AzureMLProgress], None]
ENDED = frozenset({"Completed", "Failed", "Canceled", "NotResponding"})
"""States in which a job stays (Azure ML REST API, JobStatus)."""
CANCELLING = 60.0
"""Seconds that a caller who gives up waits for its job to be cancelled."""
_BOUNDS: dict[str, Any] = {"connection_timeout": 10, "read_timeout": 60, "retry_total": 3}


class AzureMLWorkspace:
    """A workspace, for as long as one run of the pipeline takes.

    Args:
        settings: `AZURE_CLIENT_ID` picks a user-assigned identity; otherwise whoever is signed in.
    """

    def __init__(self, request: AzureMLRequest, settings: Settings, tell: Tell | None = None) -> None:
        self._request = request
        self._settings = settings
        self._tell = tell or (lambda progress: None)
        self._client: MLClient | None = None
        self._closing: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        try:
            self._client = await asyncio.to_thread(self._connect)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client = None
        await asyncio.to_thread(self._close)

    async def run(self) -> AzureMLRun:
        """Finds or makes compute, submits the job, and, unless told not to, waits, registers and deploys.

        Cancelling this call, and a time-out, cancel the job.

        Raises:
            AzureMLSignIn, WorkspaceUnknown, AzureMLQuota, AzureMLRefused, AzureMLUnavailable, AzureMLTimedOut.
            AzureMLJobFailed: With what the service says about it.
        """
        ends = time.monotonic() + self._request.timeout_seconds
        if self._request.deploy:
            await self._has_endpoint()
        compute_made = await self._compute(ends)
        name = f"{self._request.job.adapter}-{uuid.uuid4().hex[:12]}"
        submitted = await self._submit(name)
        run = AzureMLRun(
            adapter=self._request.job.adapter,
            job_name=name,
            studio_url=submitted.studio_url,
            status=submitted.status or "Queued",
            compute=self._request.compute,
            compute_made=compute_made,
        )
        if not self._request.wait:
            return run
        status = await self._wait(run, ends)
        version = await self._register(run, ends)
        deployment = await self._deploy(version, ends) if self._request.deploy else None
        return replace(
            run,
            status=status,
            model_name=self._request.model_name,
            model_version=version,
            deployment=deployment,
        )

    # --- compute

    async def _compute(self, ends: float) -> bool:
        """Makes the cluster if there is none; whether it did."""
        name = self._request.compute
        self._say("compute")
        try:
            with azure_ml_errors(f"compute {name}"):
                found = await asyncio.to_thread(lambda: self._ml.compute.get(name))
        except AzureMLMissing:
            await self._make_compute(ends)
            return True
        if found.provisioning_state == "Failed":
            said = "; ".join(error.get("message", "") for error in found.provisioning_errors or [])
            kind = AzureMLQuota if is_quota(said) else AzureMLRefused
            raise kind(f"compute {name} cannot be used, making it failed: {said or 'see the studio'}. Delete it.")
        return False

    async def _make_compute(self, ends: float) -> None:
        request = self._request

        def begin() -> LROPoller[Any]:
            from azure.ai.ml.entities import AmlCompute

            cluster = AmlCompute(
                name=request.compute,
                size=request.vm_size,
                min_instances=0,
                max_instances=request.max_nodes,
                idle_time_before_scale_down=300,
            )
            making: LROPoller[Any] = self._ml.compute.begin_create_or_update(cluster)
            return making

        await self._finish(f"making compute {request.compute} of {request.vm_size}", begin, ends)

    # --- the job

    async def _submit(self, name: str) -> AzureMLProgress:
        """Submits the job. Who is cancelled meanwhile leaves none behind."""
        self._say("submitting")
        sending = asyncio.create_task(asyncio.to_thread(self._create_job, name), name=f"submission of {name}")
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await sending
                await self._cancel(name)
            raise

    def _create_job(self, name: str) -> AzureMLProgress:
        from azure.ai.ml import Input, Output, command

        request, params = self._request, self._request.job.params
        arguments = ["--data ${{inputs.data}}", "--output ${{outputs.adapter}}"]
        inputs = {"data": Input(type="uri_file", path=params.data_path, mode="download")}
        if params.eval_path is not None:
            inputs["evaluation"] = Input(type="uri_file", path=params.eval_path, mode="download")
            arguments.append("--eval ${{inputs.evaluation}}")
        if (base := _base_input(params.model_name)) is not None:
            inputs["base"] = base
            arguments.append("--base ${{inputs.base}}")
        with azure_ml_errors(f"submitting job {name}"), snapshot() as code:
            job = command(
                name=name,
                display_name=f"LoRA adapter {request.job.adapter}",
                experiment_name=request.experiment,
                code=str(code),
                command=f"python -m aos.lora.azure_job {' '.join(arguments)}",
                inputs=inputs,
                outputs={"adapter": Output(type="uri_folder", mode="upload")},
                environment=self._environment(),
                environment_variables={**request.environment_variables, JOB: request.job.model_dump_json()},
                compute=request.compute,
                tags={"adapter": request.job.adapter, "base_model": params.model_name[:256]},
            )
            job.set_limits(timeout=int(max(1, request.timeout_seconds)))
            return self._state("waiting", self._ml.jobs.create_or_update(job))

    def _environment(self, *more: str) -> Environment:
        from azure.ai.ml.entities import Environment

        return Environment(image=self._request.image, conda_file=conda(*more))

    async def _wait(self, run: AzureMLRun, ends: float) -> str:
        """Looks at the job until it has ended well."""
        name, told, pause = run.job_name, "", 0.5
        try:
            while True:
                seen = await self._insist(f"job {name}", lambda: self._state("waiting", self._ml.jobs.get(name)), ends)
                if seen.status != told:
                    self._tell(seen)
                    told = seen.status or ""
                if seen.status in ENDED:
                    break
                if (left := ends - time.monotonic()) <= 0:
                    await self._cancel(name)
                    raise AzureMLTimedOut(
                        f"job {name} was {seen.status} after {self._request.timeout_seconds:g} s and was cancelled: "
                        f"give it more timeout_seconds, or look at {run.studio_url}.",
                        job_name=name,
                    )
                # What is wrong from the beginning shows soon; a training of hours is not looked at every second.
                pause = min(pause * 2, self._request.poll_seconds)
                await asyncio.sleep(min(pause, left))
        except (asyncio.CancelledError, AzureMLUnavailable):
            await self._cancel(name)
            raise
        if seen.status != "Completed":
            why = await asyncio.to_thread(self._failure, name)
            raise AzureMLJobFailed(
                f"job {name} ended as {seen.status}: {why} Its logs: {run.studio_url}.",
                job_name=name,
                studio_url=run.studio_url,
            )
        return seen.status

    async def _cancel(self, name: str) -> None:
        def cancel() -> None:
            with azure_ml_errors(f"cancelling job {name}"):
                self._ml.jobs.begin_cancel(name).wait(CANCELLING)

        try:
            await asyncio.shield(asyncio.to_thread(cancel))
        except AosError as error:
            log.warning("job %s could not be cancelled, cancel it in the studio: %s", name, error)

    def _failure(self, name: str) -> str:
        """Why a job failed, from its run history; the resource itself does not hold it."""
        try:
            with azure_ml_errors(f"its reason cannot be read: run {name}"):
                details = self._ml.jobs._runs_operations.get_run_details(name)  # no public call returns it
        except AosError as error:
            return error.detail
        said = details.error and details.error.error
        return f"{said.code}: {said.message}"[:2000] if said else "the service gave no reason."

    # --- what comes of it

    async def _register(self, run: AzureMLRun, ends: float) -> str:
        """Registers the output of the job as a model; the version that it got."""
        self._say("registering", run)

        def register() -> str:
            from azure.ai.ml.entities import Model

            model = Model(
                name=self._request.model_name,
                path=f"azureml://jobs/{run.job_name}/outputs/adapter",
                type="custom_model",
                description=f"LoRA adapter {run.adapter} in PEFT format",
                tags={
                    "adapter": run.adapter,
                    "base_model": self._request.job.params.model_name[:256],
                    "job": run.job_name,
                },
            )
            return str(self._ml.models.create_or_update(model).version)

        return await self._insist(f"registering {self._request.model_name}", register, ends)

    async def _deploy(self, version: str, ends: float) -> AzureMLDeployment:
        """Puts a registered version behind the endpoint of its adapter, which is made if there is none."""
        request, endpoint_name = self._request, self._endpoint_name
        deployment_name = f"version-{version}"
        self._say("deploying")

        def endpoint() -> LROPoller[Any]:
            from azure.ai.ml.entities import ManagedOnlineEndpoint

            wanted = ManagedOnlineEndpoint(name=endpoint_name, auth_mode="key", tags={"adapter": request.job.adapter})
            making: LROPoller[Any] = self._ml.online_endpoints.begin_create_or_update(wanted)
            return making

        def lead() -> LROPoller[Any]:
            # As it is, but for the traffic: what is written replaces everything.
            known = self._ml.online_endpoints.get(endpoint_name)
            known.traffic = {deployment_name: 100}
            leading: LROPoller[Any] = self._ml.online_endpoints.begin_create_or_update(known)
            return leading

        def deployment() -> LROPoller[Any]:
            from azure.ai.ml.entities import CodeConfiguration, ManagedOnlineDeployment, OnlineRequestSettings

            with snapshot(score=True) as code:
                wanted = ManagedOnlineDeployment(
                    name=deployment_name,
                    endpoint_name=endpoint_name,
                    model=f"azureml:{request.model_name}:{version}",
                    environment=self._environment("azureml-inference-server-http>=1.5,<2"),
                    code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
                    environment_variables={**request.environment_variables, BASE: request.job.params.model_name},
                    instance_type=request.instance_type,
                    instance_count=1,
                    request_settings=OnlineRequestSettings(request_timeout_ms=90_000),
                )
                making: LROPoller[Any] = self._ml.online_deployments.begin_create_or_update(wanted)
                return making

        if not await self._has_endpoint():
            await self._finish(f"making endpoint {endpoint_name}", endpoint, ends)
        await self._finish(f"deploying {deployment_name} to {endpoint_name}", deployment, ends)
        await self._finish(f"leading {endpoint_name} to it", lead, ends)
        with azure_ml_errors(f"endpoint {endpoint_name}"):
            made = await asyncio.to_thread(lambda: self._ml.online_endpoints.get(endpoint_name))
        return AzureMLDeployment(endpoint_name, deployment_name, str(made.scoring_uri))

    @property
    def _endpoint_name(self) -> str:
        request = self._request
        return request.endpoint_name or f"aos-{request.job.adapter.replace('_', '-')}"[:32].rstrip("-")

    async def _has_endpoint(self) -> bool:
        """Whether the endpoint is there.

        Raises:
            AzureMLRefused: It is another adapter's: names that are long, or differ in `-` and `_`, make one name.
        """
        name, adapter = self._endpoint_name, self._request.job.adapter
        try:
            with azure_ml_errors(f"endpoint {name}"):
                known = await asyncio.to_thread(lambda: self._ml.online_endpoints.get(name))
        except AzureMLMissing:
            return False
        if (other := (known.tags or {}).get("adapter", adapter)) != adapter:
            raise AzureMLRefused(f"endpoint {name} serves adapter {other!r}: give {adapter!r} another endpoint_name.")
        return True

    # --- the SDK

    @property
    def _ml(self) -> MLClient:
        assert self._client is not None, "enter the workspace first"  # noqa: S101
        return self._client

    def _connect(self) -> MLClient:
        need_azure_ml()
        from azure.ai.ml import MLClient
        from azure.core.pipeline.transport import RequestsTransport
        from azure.identity import DefaultAzureCredential

        request = self._request
        chosen = {"managed_identity_client_id": self._settings.client_id} if self._settings.client_id else {}
        credential = DefaultAzureCredential(**chosen)
        # One pool of connections for all of the SDK's clients, so that it can be closed.
        transport = RequestsTransport(**_BOUNDS)
        self._closing += [credential.close, transport.close]
        scope = (request.subscription_id, request.resource_group, request.workspace_name)
        client = MLClient(
            credential, *scope, enable_telemetry=False, show_progress=False, transport=transport, **_BOUNDS
        )
        try:
            with azure_ml_errors(f"workspace {request.workspace_name}"):
                client.workspaces.get(request.workspace_name)
        except AzureMLMissing as error:
            raise WorkspaceUnknown(
                f"There is no workspace {request.workspace_name!r} in resource group {request.resource_group!r} of "
                f"subscription {request.subscription_id}: {error.detail}"
            ) from error
        return client

    def _close(self) -> None:
        while self._closing:
            self._closing.pop()()

    async def _insist(self, what: str, work: Callable[[], T], ends: float) -> T:
        """Does something short, again while the service is away: hours of training should not be lost to that.

        Raises:
            AzureMLUnavailable: It was away until there was no time left.
        """
        pause = 0.5
        while True:
            try:
                with azure_ml_errors(what):
                    return await asyncio.to_thread(work)
            except AzureMLUnavailable as error:
                left = ends - time.monotonic()
                if left <= 0:
                    raise
                log.warning("trying again: %s", error.detail)
            pause = min(pause * 2, self._request.poll_seconds)
            await asyncio.sleep(min(pause, left))

    async def _finish(self, what: str, begin: Callable[[], LROPoller[Any]], ends: float) -> None:
        """Begins something long and waits for its end."""

        def look(poller: LROPoller[Any], seconds: float) -> bool:
            poller.wait(seconds)
            if not poller.done():
                return False
            poller.result()
            return True

        with azure_ml_errors(what):
            poller = await asyncio.to_thread(begin)
            while not await asyncio.to_thread(look, poller, min(self._request.poll_seconds, 5)):
                if time.monotonic() >= ends:
                    raise AzureMLTimedOut(f"{what} took more than {self._request.timeout_seconds:g} s.")

    def _state(self, phase: Phase, job: Job) -> AzureMLProgress:
        studio = (job.services or {}).get("Studio")
        # Some versions of the SDK give a member of an enumeration of strings.
        status = job.status.value if isinstance(job.status, Enum) else str(job.status)
        return AzureMLProgress(phase, str(job.name), status, studio.endpoint if studio else None)

    def _say(self, phase: Phase, run: AzureMLRun | None = None) -> None:
        known = (None, None) if run is None else (run.job_name, run.studio_url)
        self._tell(AzureMLProgress(phase, known[0], studio_url=known[1]))


def need_azure_ml() -> None:
    """Says what to install.

    Raises:
        ExtraMissing: azure-ai-ml is not there.
    """
    from importlib.util import find_spec

    if find_spec("azure.ai.ml") is None:
        raise ExtraMissing(
            "azure-ai-ml cannot be imported: pip install 'agent-operating-system[azureml]' installs what running the "
            "pipeline in Azure Machine Learning takes."
        )


def _base_input(model: str) -> Any:
    """The base model as an input of the job; None for a name of the Hugging Face hub, from where the job gets it."""
    from azure.ai.ml import Input

    if model.startswith("azureml:"):
        kind = "uri_folder" if "/datastores/" in model else "custom_model"
        return Input(type=kind, path=model, mode="download")
    if Path(model).is_dir():
        return Input(type="uri_folder", path=model, mode="download")
    return None
