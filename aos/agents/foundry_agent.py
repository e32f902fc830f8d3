"""Purpose-driven agents on the Foundry Agent Service, each bound to the deployment of its own LoRA adapter."""

from __future__ import annotations

from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.kernel.ports import AgentSpec, FunctionDefinition
from aos.registry.agents import AgentEntry


class PurposeDrivenAgentFoundry(PurposeDrivenAgent):
    """An agent that Foundry runs; its model is the deployment `{base}-{adapter_name}`."""

    runtime = "Foundry Agent Service (Llama 3.3 70B + LoRA)"

    @classmethod
    def from_entry(cls, entry: AgentEntry) -> PurposeDrivenAgentFoundry:
        """The agent that a registry entry describes; its domain names the adapter."""
        return cls(
            entry.agent_id,
            entry.purpose,
            purpose_scope=entry.purpose_scope,
            success_criteria=entry.success_criteria,
            system_message=entry.system_message,
            adapter_name=entry.domain_knowledge.domain,
        )

    def deployment(self, base: str) -> str:
        """The name of its model deployment."""
        return f"{base}-{self.adapter_name}"

    def spec(self, base: str, functions: tuple[FunctionDefinition, ...]) -> AgentSpec:
        """What it is in Foundry.

        Args:
            base: Setting `AZURE_AI_MODEL_DEPLOYMENT`.
            functions: Its tools, as the model sees them.
        """
        return AgentSpec(self.agent_id, self.deployment(base), self.instructions, functions)
