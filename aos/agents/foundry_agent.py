"""Purpose-driven agents on the Foundry Agent Service, each bound to the deployment of its own LoRA adapter."""

from __future__ import annotations

from aos.agents.definition import FOUNDRY_RUNTIME
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.config import Settings


class PurposeDrivenAgentFoundry(PurposeDrivenAgent):
    """An agent that Foundry runs, whatever `USE_FOUNDRY_RUNTIME` says; its model is the deployment
    `{base}-{adapter_name}`."""

    runtime = FOUNDRY_RUNTIME

    def _own_settings(self) -> Settings:
        return super()._own_settings().model_copy(update={"use_foundry": True})
