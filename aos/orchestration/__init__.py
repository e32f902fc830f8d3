"""One entry to all models: by name or the best that is there, with circuit breakers and fallback.

Names are resolved on first use (PEP 562), so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'aos.orchestration' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
