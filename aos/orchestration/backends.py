"""Every backend, from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.config import MLConfig
from aos.kernel.clock import Clock
from aos.orchestration.azure_ml_backend import AzureMLBackend
from aos.orchestration.foundry_backend import FoundryBackend
from aos.orchestration.framework_backend import FrameworkBackend
from aos.orchestration.model_types import ModelBackend, ModelType
from aos.orchestration.openai_backend import OpenAIBackend, Server

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential


def build_backends(
    config: MLConfig, credential: AsyncTokenCredential | None, clock: Clock, app_name: str
) -> dict[ModelType, ModelBackend]:
    """In the order of preference; nothing is connected before it is used."""
    vllm = Server(
        ModelType.VLLM, config.vllm_server_url, config.vllm_model, config.vllm_api_key, "VLLM_SERVER_URL", adapters=True
    )
    openai = Server(
        ModelType.OPENAI,
        config.openai_base_url,
        config.openai_model,
        config.openai_api_key,
        "OPENAI_API_KEY and OPENAI_MODEL",
    )
    framework = Server(
        ModelType.AGENT_FRAMEWORK,
        config.agent_framework_endpoint,
        config.agent_framework_model,
        config.agent_framework_api_key,
        "AGENT_FRAMEWORK_ENDPOINT and AGENT_FRAMEWORK_MODEL",
    )
    local = Server(
        ModelType.LOCAL_MODEL,
        config.local_model_url,
        config.local_model_name,
        None,
        "LOCAL_MODEL_URL and LOCAL_MODEL_NAME",
    )
    seconds = config.model_timeout
    backends: list[ModelBackend] = [
        FoundryBackend(config, credential, app_name),
        OpenAIBackend(vllm, seconds, clock),
        AzureMLBackend(config.azure_ml_endpoints, seconds),
        OpenAIBackend(openai, seconds, clock),
        FrameworkBackend(framework, seconds),
        OpenAIBackend(local, seconds, clock),
    ]
    return {backend.model_type: backend for backend in backends}
