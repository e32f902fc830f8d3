"""Agents: what they are, which there are now, and their life outside an app.

Names are resolved on first use (PEP 562), so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aos.agents.foundry_agent import PurposeDrivenAgentFoundry
    from aos.agents.leadership import LeadershipAgent
    from aos.agents.perpetual import PerpetualAgent
    from aos.agents.purpose_driven import GenericPurposeDrivenAgent, PurposeDrivenAgent

_HOMES = {
    "GenericPurposeDrivenAgent": "purpose_driven",
    "LeadershipAgent": "leadership",
    "PerpetualAgent": "perpetual",
    "PurposeDrivenAgent": "purpose_driven",
    "PurposeDrivenAgentFoundry": "foundry_agent",
}

__all__ = [
    "GenericPurposeDrivenAgent",
    "LeadershipAgent",
    "PerpetualAgent",
    "PurposeDrivenAgent",
    "PurposeDrivenAgentFoundry",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'aos.agents' has no attribute {name!r}")
    value: object = getattr(import_module(f"aos.agents.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
