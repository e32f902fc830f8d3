"""One entry to all models: by name or the best that is there, with circuit breakers and fallback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.lazy import lazy

if TYPE_CHECKING:
    from aos.ml.errors import ModelRefused, ModelUnavailable
    from aos.orchestration.model_orchestrator import ModelOrchestrator
    from aos.orchestration.model_types import ModelType

_HOMES = {
    "ModelOrchestrator": "aos.orchestration.model_orchestrator",
    "ModelRefused": "aos.ml.errors",
    "ModelType": "aos.orchestration.model_types",
    "ModelUnavailable": "aos.ml.errors",
}

__all__ = [
    "ModelOrchestrator",
    "ModelRefused",
    "ModelType",
    "ModelUnavailable",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
