"""What the agent registry says about training an agent's adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aos.config import Settings
from aos.errors import UnknownAgent
from aos.lora.sources import open_account
from aos.registry.agents import parse_agents
from aos.registry.source import BlobSource

DOCUMENT = "agent_registry.json"


@dataclass(frozen=True, slots=True)
class RegisteredTraining:
    """`domain_knowledge` of an agent: its adapter, that adapter's shape, and the blob with its data ("": none)."""

    adapter: str
    data_path: str
    config: Mapping[str, Any]


async def registered_training(agent_id: str, settings: Settings) -> RegisteredTraining:
    """Reads an agent's entry.

    Raises:
        UnknownAgent: The registry has no good entry with this id; names those it has.
        RegistryMissing, RegistryUnreadable, RegistryInvalid, StorageUnavailable: There is nothing to read.
    """
    async with open_account(settings) as account:
        document = await BlobSource(account, settings.agent_container, DOCUMENT).read(None)
    entries = parse_agents(document.data).entries if document is not None else {}
    if agent_id not in entries:
        known = ", ".join(entries) or "none"
        raise UnknownAgent(f"The agent registry has no agent {agent_id!r} to take training data from; it has {known}.")
    knowledge = entries[agent_id].domain_knowledge
    return RegisteredTraining(
        knowledge.domain,
        knowledge.training_data_path,
        knowledge.adapter_config.model_dump(exclude_unset=True),
    )
