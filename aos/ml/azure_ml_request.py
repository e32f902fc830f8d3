"""What is run in Azure Machine Learning, and what is known of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aos.lora.job import TrainingJob
from aos.ml.azure_ml_errors import AzureMLRequestInvalid

GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-cuda12.6-ubuntu24.04"
DAY = 86_400.0
REMOTE = ("azureml", "https", "http", "abfss", "wasbs")
"""Schemes of data that the job reads itself; everything else is uploaded."""


class AzureMLRequest(BaseModel):
    """One run of the pipeline: find or make compute, train, register, and deploy if asked.

    Attributes:
        compute: Name of a cluster; made with `vm_size` and up to `max_nodes` nodes, zero when idle, if there is none.
        image: Container image of the job; the packages that training takes are installed into it.
        environment_variables: Of the job, such as HF_TOKEN; whoever may read the workspace's jobs may read them.
        wait: Whether to wait until the adapter is registered; otherwise only the job is submitted.
        timeout_seconds: Of the job in the service, and of everything else together.
        poll_seconds: Between two looks at the job at most; the first ones follow sooner.
        deploy: Whether to put the adapter behind an online endpoint.
        endpoint_name: Its name; unique in a region of Azure.
        instance_type: VM size of the endpoint's instance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    subscription_id: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
    resource_group: Annotated[str, Field(pattern=r"^[\w().-]{1,90}$")]
    workspace_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{2,32}$")]
    job: TrainingJob
    compute: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{1,31}$")] = "aos-gpu"
    vm_size: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{2,63}$")] = "Standard_NC24ads_A100_v4"
    max_nodes: Annotated[int, Field(ge=1, le=100)] = 1
    image: Annotated[str, Field(min_length=1, max_length=512)] = GPU_IMAGE
    environment_variables: Annotated[dict[str, str], Field(max_length=50, repr=False)] = {}
    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")] = "aos-adapters"
    wait: bool = True
    timeout_seconds: Annotated[float, Field(gt=0, le=30 * DAY)] = DAY
    poll_seconds: Annotated[float, Field(ge=0.05, le=600)] = 15
    deploy: bool = False
    endpoint_name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,30}[a-z0-9]$")] | None = None
    instance_type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{2,63}$")] = "Standard_NC24ads_A100_v4"

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        base = self.job.params.model_name
        if self.deploy and (base.startswith("azureml:") or Path(base).is_dir()):
            raise ValueError(
                f"deploy: the endpoint fetches its base model from the Hugging Face hub, which has no {base!r}"
            )
        return self

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """A request from what a caller gave.

        Raises:
            AzureMLRequestInvalid: Names each wrong argument.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            found = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors(include_input=False)]
            problems = [f"{where}: {what}" if where else what.removeprefix("Value error, ") for where, what in found]
            raise AzureMLRequestInvalid(f"{'; '.join(problems)}.") from None

    @property
    def model_name(self) -> str:
        """Under which the adapter is registered."""
        return f"lora-{self.job.adapter}"


def is_remote(path: str) -> bool:
    """Whether training data lies where a job reads it, as opposed to a file of this machine."""
    return urlsplit(path).scheme in REMOTE


Phase = Literal["compute", "submitting", "waiting", "registering", "deploying"]


@dataclass(frozen=True, slots=True)
class AzureMLProgress:
    """How far a run is. `status` is the job's, in the service's words."""

    phase: Phase
    job_name: str | None = None
    status: str | None = None
    studio_url: str | None = None


@dataclass(frozen=True, slots=True)
class AzureMLDeployment:
    """An adapter behind an online endpoint: `AML_<AGENT>_SCORING_URI` is to be its `scoring_uri`."""

    endpoint: str
    deployment: str
    scoring_uri: str


@dataclass(frozen=True, slots=True)
class AzureMLRun:
    """What was submitted, and what became of it.

    Attributes:
        status: Of the job, in the service's words: `Queued`, `Running`, `Completed`, ...
        compute_made: Whether the cluster was made for this run.
        model_name, model_version: The registered adapter; None unless it was waited for.
    """

    adapter: str
    job_name: str
    studio_url: str | None
    status: str
    compute: str
    compute_made: bool
    model_name: str | None = None
    model_version: str | None = None
    deployment: AzureMLDeployment | None = None
