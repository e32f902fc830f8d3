"""Clients of models, and the pipeline that trains adapters.

Names are resolved on first use (PEP 562), so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'aos.ml' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
