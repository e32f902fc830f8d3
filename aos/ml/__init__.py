"""Clients of models: the Foundry Agent Service with threads, tools and metrics."""

from __future__ import annotations

from aos.config import MLConfig
from aos.ml.errors import InvalidModelRequest, ModelRefused, ModelSettingError, ModelUnavailable
from aos.ml.foundry_agent_service import FoundryAgentServiceClient
from aos.ml.foundry_config import FoundryAgentServiceConfig
from aos.ml.foundry_types import FoundryResponse, ThreadInfo
from aos.ml.pipeline_manager import MLPipelineManager

__all__ = [
    "FoundryAgentServiceClient",
    "FoundryAgentServiceConfig",
    "FoundryResponse",
    "InvalidModelRequest",
    "MLConfig",
    "MLPipelineManager",
    "ModelRefused",
    "ModelSettingError",
    "ModelUnavailable",
    "ThreadInfo",
]
