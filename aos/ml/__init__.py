"""Clients of models: the Foundry Agent Service with threads, tools and metrics."""

from __future__ import annotations

from aos.config import MLConfig
from aos.ml.errors import InvalidModelRequest, ModelSettingError
from aos.ml.foundry_agent_service import FoundryAgentServiceClient
from aos.ml.foundry_config import FoundryAgentServiceConfig
from aos.ml.foundry_types import FoundryResponse, ThreadInfo

__all__ = [
    "FoundryAgentServiceClient",
    "FoundryAgentServiceConfig",
    "FoundryResponse",
    "InvalidModelRequest",
    "MLConfig",
    "ModelSettingError",
    "ThreadInfo",
]
