"""One entry to all models: by name or the best that is there, with circuit breakers and fallback."""

from __future__ import annotations

from aos.orchestration.model_orchestrator import ModelOrchestrator
from aos.orchestration.model_types import ModelRefused, ModelType, ModelUnavailable

__all__ = ["ModelOrchestrator", "ModelRefused", "ModelType", "ModelUnavailable"]
