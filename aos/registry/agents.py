"""`agent_registry.json`: which agents exist, what for, with which adapter and tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from aos.registry.azure_functions import AzureFunction, functions_faults
from aos.registry.connected import check_connected
from aos.registry.document import decode
from aos.registry.entries import FilledText, Finding, Flag, Id, JsonObject, Name, RegistryModel, Text, parse_entries
from aos.registry.policies import configuration_cautions, configuration_faults, limits_faults
from aos.registry.problems import RegistryProblem
from aos.registry.routing import routing_faults
from aos.registry.schedules import schedule_cautions, schedule_faults

AgentType = Literal["purpose_driven", "perpetual", "leadership"]

Domain = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$")]
"""The name of a LoRA adapter, and the end of a deployment's name: what Foundry allows there."""

ModuleName = Annotated[str, Field(min_length=1, max_length=256)]


class AdapterConfig(RegistryModel):
    """How the LoRA adapter is trained, in the terms of PEFT's `LoraConfig`; further keys of it are passed on."""

    open_ended: ClassVar[bool] = True

    task_type: Name = "causal_lm"
    r: Annotated[int, Field(strict=True, ge=1, le=4096)] = 16
    lora_alpha: Annotated[float, Field(strict=True, gt=0, le=65536)] = 32
    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=256)] = ("q_proj", "v_proj")


class DomainKnowledge(RegistryModel):
    """What the agent's model was tuned on. `domain` names the adapter; it may differ from the agent's id."""

    domain: Domain
    training_data_path: Annotated[str, Field(max_length=2048)] = ""
    adapter_config: Annotated[AdapterConfig, BeforeValidator(lambda value: {} if value is None else value)] = (
        AdapterConfig()
    )


class ToolReference(RegistryModel):
    """A tool of an MCP server that the agent may use; `configuration` says how; see
    `aos.registry.policies.ToolConfiguration`."""

    server_name: Name
    tool_name: Name
    configuration: JsonObject = Field(default_factory=dict)


class AgentEntry(RegistryModel):
    """One agent as the registry defines it."""

    agent_id: Id
    purpose: FilledText
    domain_knowledge: DomainKnowledge
    agent_type: AgentType = "purpose_driven"
    purpose_scope: Text | None = None
    success_criteria: Annotated[tuple[Text, ...], Field(max_length=128)] = ()
    mcp_tools: Annotated[tuple[ToolReference, ...], Field(max_length=128)] = ()
    connected_agents: Annotated[tuple[Id, ...], Field(max_length=64)] = ()
    """Agents that this one may ask: each is a tool of its model, and a call is a turn of that agent."""
    delegation: Literal["aos", "service"] = "aos"
    """Who has the connected agents answer: AOS, durably, or the service within its run; see `aos.registry.service`."""
    azure_functions: Annotated[tuple[AzureFunction, ...], Field(max_length=128)] = ()
    system_message: Text | None = None
    enabled: Flag = True
    metadata: JsonObject = Field(default_factory=dict)
    """`limits` in it bounds the agent's turns, see `aos.registry.policies.TurnLimits`; `schedule` has it act by itself,
    see `aos.registry.schedules`; `routing` says which messages it takes that name no agent, see
    `aos.registry.routing`."""

    @property
    def distinct_tools(self) -> tuple[ToolReference, ...]:
        """`mcp_tools` without repetitions; of two references to one tool the first counts."""
        first: dict[tuple[str, str], ToolReference] = {}
        for tool in self.mcp_tools:
            first.setdefault((tool.server_name, tool.tool_name), tool)
        return tuple(first.values())

    def faults(self) -> Iterator[Finding]:
        yield from limits_faults(self.metadata)
        yield from schedule_faults(self.metadata)
        for index, other in enumerate(self.connected_agents):
            if other == self.agent_id:
                yield ("connected_agents", index), "An agent cannot be connected to itself."
        yield from functions_faults(self.azure_functions)
        yield from routing_faults(self.metadata)
        for index, tool in enumerate(self.mcp_tools):
            for at, detail in configuration_faults(tool.configuration):
                yield ("mcp_tools", index, *at), detail

    def cautions(self) -> Iterator[Finding]:
        yield from schedule_cautions(self.metadata)
        for index, other in enumerate(self.connected_agents):
            if other in self.connected_agents[:index]:
                yield ("connected_agents", index), f"The agent {other!r} is named before."
        seen: dict[tuple[str, str], int] = {}
        for index, tool in enumerate(self.mcp_tools):
            first = seen.setdefault((tool.server_name, tool.tool_name), index)
            if first != index:
                yield ("mcp_tools", index), f"The same tool as /mcp_tools/{first} of this agent; the first counts."
            for at, detail in configuration_cautions(tool.configuration):
                yield ("mcp_tools", index, *at), detail


@dataclass(frozen=True, slots=True)
class AgentRegistry:
    """A parsed agent registry.

    Attributes:
        entries: The good entries by agent id, also the disabled ones, in the order of the document.
        problems: What makes entries bad; those are not in `entries`.
        warnings: What is odd but does no harm.
        pointers: Where each good entry stands in the document, by agent id: `/agents/3`.
    """

    version: str
    entries: Mapping[str, AgentEntry]
    problems: tuple[RegistryProblem, ...] = ()
    warnings: tuple[RegistryProblem, ...] = ()
    pointers: Mapping[str, str] = field(default_factory=dict)

    @property
    def enabled(self) -> tuple[AgentEntry, ...]:
        return tuple(entry for entry in self.entries.values() if entry.enabled)


def parse_agents(document: bytes) -> AgentRegistry:
    """Parses `agent_registry.json`.

    Of several good entries with one id the first stays, the others are problems. Takes about 50 microseconds per
    entry.

    Raises:
        RegistryInvalid: The document as a whole cannot be read.
    """
    raw = decode(document, "agents")
    parsed = parse_entries(raw, AgentEntry, "agent_id")
    entries: dict[str, AgentEntry] = {}
    pointers: dict[str, str] = {}
    for where, entry in parsed.good:
        if (first := pointers.get(entry.agent_id)) is not None:
            parsed.problems.append(
                RegistryProblem(
                    f"{where}/agent_id", f"The id {entry.agent_id!r} is taken by {first}.", agent_id=entry.agent_id
                )
            )
            continue
        entries[entry.agent_id], pointers[entry.agent_id] = entry, where
    good, problems, warnings = check_connected(entries, pointers, parsed.problems)
    return AgentRegistry(
        raw.version,
        MappingProxyType(good),
        (*parsed.problems, *problems),
        (*parsed.warnings, *warnings),
        MappingProxyType(pointers),
    )
