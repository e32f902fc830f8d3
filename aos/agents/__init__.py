"""Agents: what they are, which there are now, and their life outside an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.lazy import lazy

if TYPE_CHECKING:
    from aos.agents.foundry_agent import PurposeDrivenAgentFoundry
    from aos.agents.leadership import LeadershipAgent
    from aos.agents.perpetual import PerpetualAgent
    from aos.agents.purpose_driven import GenericPurposeDrivenAgent, PurposeDrivenAgent

_HOMES = {
    "GenericPurposeDrivenAgent": "aos.agents.purpose_driven",
    "LeadershipAgent": "aos.agents.leadership",
    "PerpetualAgent": "aos.agents.perpetual",
    "PurposeDrivenAgent": "aos.agents.purpose_driven",
    "PurposeDrivenAgentFoundry": "aos.agents.foundry_agent",
}

__all__ = [
    "GenericPurposeDrivenAgent",
    "LeadershipAgent",
    "PerpetualAgent",
    "PurposeDrivenAgent",
    "PurposeDrivenAgentFoundry",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
