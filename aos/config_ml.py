"""The settings of `aos.ml` and `aos.orchestration`: which models there are, and how to reach them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aos.errors import SettingError

Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+\S*$")]
Secret = Annotated[str | None, Field(repr=False)]

# Names per field; the first one that is set and not empty counts.
SETTING_NAMES: dict[str, tuple[str, ...]] = {
    "enable_foundry_agent_service": ("AOS_ENABLE_FOUNDRY_AGENT_SERVICE",),
    "foundry_agent_service_endpoint": ("FOUNDRY_AGENT_SERVICE_ENDPOINT", "AZURE_AI_PROJECT_ENDPOINT"),
    "foundry_agent_service_api_key": ("FOUNDRY_AGENT_SERVICE_API_KEY", "AZURE_AI_API_KEY"),
    "foundry_agent_id": ("FOUNDRY_AGENT_ID",),
    "foundry_model": ("FOUNDRY_MODEL", "AZURE_AI_MODEL_DEPLOYMENT"),
    "foundry_enable_stateful_threads": ("FOUNDRY_ENABLE_STATEFUL_THREADS",),
    "foundry_enable_entra_agent_id": ("FOUNDRY_ENABLE_ENTRA_AGENT_ID",),
    "foundry_enable_foundry_tools": ("FOUNDRY_ENABLE_FOUNDRY_TOOLS",),
    "foundry_timeout": ("FOUNDRY_TIMEOUT",),
    "foundry_temperature": ("FOUNDRY_TEMPERATURE",),
    "foundry_max_tokens": ("FOUNDRY_MAX_TOKENS",),
    "foundry_top_p": ("FOUNDRY_TOP_P",),
    "foundry_max_retries": ("FOUNDRY_MAX_RETRIES",),
    "foundry_retry_delay": ("FOUNDRY_RETRY_DELAY",),
    "vllm_server_url": ("VLLM_SERVER_URL",),
    "vllm_model": ("VLLM_MODEL",),
    "vllm_api_key": ("VLLM_API_KEY",),
    "openai_base_url": ("OPENAI_BASE_URL",),
    "openai_model": ("OPENAI_MODEL",),
    "openai_api_key": ("OPENAI_API_KEY",),
    "local_model_url": ("LOCAL_MODEL_URL",),
    "local_model_name": ("LOCAL_MODEL_NAME",),
    "agent_framework_endpoint": ("AGENT_FRAMEWORK_ENDPOINT",),
    "agent_framework_model": ("AGENT_FRAMEWORK_MODEL",),
    "agent_framework_api_key": ("AGENT_FRAMEWORK_API_KEY",),
    "azure_ml_adapter": ("AOS_AML_ADAPTER",),
    "azure_ml_training_data": ("AOS_AML_TRAINING_DATA",),
    "azure_ml_compute": ("AOS_AML_COMPUTE",),
    "azure_ml_vm_size": ("AOS_AML_VM_SIZE",),
    "model_timeout": ("AOS_MODEL_TIMEOUT",),
    "model_retries": ("AOS_MODEL_RETRIES",),
    "model_fallback": ("AOS_MODEL_FALLBACK",),
    "max_concurrent_requests": ("AOS_MODEL_CONCURRENCY",),
}
_SCORING_URI = re.compile(r"^AML_(.+)_SCORING_URI$")


class AzureMLEndpoint(BaseModel):
    """An online endpoint of Azure Machine Learning: where it scores, and its key or token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scoring_uri: Url
    key: Secret = None


class MLConfig(BaseModel):
    """Models and how to reach them; `from_env` reads it from the environment.

    Raises:
        pydantic.ValidationError: A `ValueError` that names the field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enable_foundry_agent_service: bool = True
    foundry_agent_service_endpoint: Url | None = None
    """`https://<resource>.services.ai.azure.com`, with or without `/api/projects/<project>`."""
    foundry_agent_service_api_key: Secret = None
    foundry_agent_id: str | None = None
    """An agent that exists, as `name` or `name:version`; without it agents are made as needed."""
    foundry_model: Annotated[str, Field(min_length=1)] = "llama-3.3-70b"
    """Base name: a domain's deployment is `{foundry_model}-{domain}`, where there is one."""
    foundry_enable_stateful_threads: bool = True
    foundry_enable_entra_agent_id: bool = True
    foundry_enable_foundry_tools: bool = True
    foundry_timeout: Annotated[float, Field(gt=0, le=3600)] = 60
    """Seconds for one message, with all its retries."""
    foundry_temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    foundry_max_tokens: Annotated[int, Field(ge=1)] = 4096
    foundry_top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    foundry_max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    foundry_retry_delay: Annotated[float, Field(ge=0, le=60)] = 1.0
    """Seconds before the first retry; each further one waits twice as long."""

    azure_ml_endpoints: Annotated[dict[str, AzureMLEndpoint], Field(max_length=1000)] = {}
    """By domain, in lower case (`AML_<DOMAIN>_SCORING_URI`); `""` serves all that have none (`MLENDPOINTURL`)."""
    azure_ml_adapter: str | None = None
    """Adapter that the Azure ML pipeline trains when it is not told which."""
    azure_ml_training_data: str | None = None
    """Its data: a file, a blob `container/name` of the storage account, or an `azureml:` or https address."""
    azure_ml_compute: str | None = None
    """Cluster that trainings run on; made when there is none."""
    azure_ml_vm_size: str | None = None
    """VM size of a cluster that is made."""
    vllm_server_url: Url | None = None
    """Ends in `/v1`. A domain's adapter is asked for as `{vllm_model}-{domain}`, where the server lists it."""
    vllm_model: Annotated[str, Field(min_length=1)] = "llama-3.3-70b"
    vllm_api_key: Secret = None
    openai_base_url: Url = "https://api.openai.com/v1"
    openai_model: str | None = None
    openai_api_key: Secret = None
    local_model_url: Url | None = None
    """An OpenAI-compatible server of this machine, such as Ollama's `http://127.0.0.1:11434/v1`."""
    local_model_name: str | None = None
    agent_framework_endpoint: Url | None = None
    """An OpenAI-compatible server that Microsoft Agent Framework talks to."""
    agent_framework_model: str | None = None
    agent_framework_api_key: Secret = None

    model_timeout: Annotated[float, Field(gt=0, le=3600)] = 60
    """Seconds for a request to a model other than Foundry's."""
    model_retries: Annotated[int, Field(ge=0, le=20)] = 2
    """Tries after the first, for models other than Foundry's."""
    model_fallback: bool = True
    """Whether another configured model answers when the one that was asked for cannot."""
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100)] = 5

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Reads the settings.

        Raises:
            SettingError: Naming each wrong setting and why, without its value.
        """
        given = os.environ if environment is None else environment
        values: dict[str, object] = {}
        source: dict[str, str] = {}
        for field, names in SETTING_NAMES.items():
            for name in names:
                if given.get(name):
                    values[field], source[field] = given[name], name
                    break
        values["azure_ml_endpoints"] = _azure_ml(given)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = []
            for problem in error.errors(include_input=False):
                first, *rest = map(str, problem["loc"])
                problems.append(f"{'.'.join((source.get(first, first), *rest))}: {problem['msg']}")
            raise SettingError(f"Wrong settings: {'; '.join(problems)}.") from None


def _azure_ml(given: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    if given.get("MLENDPOINTURL"):
        found[""] = {"scoring_uri": given["MLENDPOINTURL"], "key": given.get("MLENDPOINTKEY") or None}
    for name, uri in given.items():
        if (match := _SCORING_URI.match(name)) and uri:
            key = given.get(f"AML_{match[1]}_KEY") or None
            found[match[1].lower()] = {"scoring_uri": uri, "key": key}
    return found
