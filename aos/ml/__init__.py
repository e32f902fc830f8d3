"""Clients of models, and the pipeline that trains adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.lazy import lazy

if TYPE_CHECKING:
    from aos.config_ml import MLConfig
    from aos.ml.errors import InvalidModelRequest, ModelRefused, ModelSettingError, ModelUnavailable
    from aos.ml.foundry_agent_service import FoundryAgentServiceClient
    from aos.ml.foundry_config import FoundryAgentServiceConfig
    from aos.ml.foundry_types import FoundryResponse, ThreadInfo
    from aos.ml.pipeline_manager import MLPipelineManager

_HOMES = {
    "FoundryAgentServiceClient": "aos.ml.foundry_agent_service",
    "FoundryAgentServiceConfig": "aos.ml.foundry_config",
    "FoundryResponse": "aos.ml.foundry_types",
    "InvalidModelRequest": "aos.ml.errors",
    "MLConfig": "aos.config_ml",
    "MLPipelineManager": "aos.ml.pipeline_manager",
    "ModelRefused": "aos.ml.errors",
    "ModelSettingError": "aos.ml.errors",
    "ModelUnavailable": "aos.ml.errors",
    "ThreadInfo": "aos.ml.foundry_types",
}

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

__getattr__, __dir__ = lazy(__name__, _HOMES)
