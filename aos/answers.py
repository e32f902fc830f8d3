"""What the HTTP API answers, as models: for its OpenAPI document and for clients in Python.

`aos.views` makes the answers; further members may come with later versions.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from aos.health import Level
from aos.kernel.types import CallStatus, Status, WaitingOn
from aos.orchestration.workflow_run import StepStatus, WorkflowStatus


class CheckAnswer(BaseModel):
    """What one check of the health found."""

    status: Level
    since: str
    detail: str | None = None


class HealthAnswer(BaseModel):
    """Body of `GET health`: 200 unless it is `unhealthy`, then 503."""

    status: Level
    runtime: str
    active_agents: int
    agent_ids: list[str]
    roles: list[str]
    checks: dict[str, CheckAnswer]


class ToolName(BaseModel):
    server: str
    tool: str


class CountersAnswer(BaseModel):
    """Of an agent, since it was first seen."""

    turns: int
    failed_turns: int
    tool_calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int


class AgentAnswer(BaseModel):
    """An agent of the registry."""

    agent_id: str
    agent_type: str
    type: str
    runtime: str
    purpose: str
    purpose_scope: str | None
    success_criteria: list[str]
    lora_adapter: str
    deployment: str
    tools: list[ToolName]
    connected_agents: list[str] = []
    delegation: Literal["aos", "service"] = "aos"
    enabled: bool
    metadata: dict[str, JsonValue]
    counters: CountersAnswer | None = Field(default=None, description="In the answer about one agent.")


class RegistryProblemAnswer(BaseModel):
    """Why an entry of a registry is not used."""

    pointer: str
    detail: str
    agent_id: str | None = None


class AgentListAnswer(BaseModel):
    agents: list[AgentAnswer]
    problems: list[RegistryProblemAnswer]
    generation: str


class CircuitAnswer(BaseModel):
    """The circuit breaker of the agent's deployment."""

    state: str
    failures: int
    retry_after_seconds: int


class AgentStatusAnswer(BaseModel):
    """Whether an agent can take a message; `detail` says why not."""

    agent_id: str
    status: Literal["running", "starting", "stopped", "disabled", "failed"]
    is_running: bool
    generation: str
    type: str
    runtime: str
    lora_adapter: str
    deployment: str
    fallback: bool | None = None
    foundry_agent_id: str | None = None
    tools: list[str] | None = None
    last_event_at: str | None = Field(default=None, description="Of its conversation `main`.")
    next_tick: str | None = Field(default=None, description="When it acts by itself next.")
    circuit: CircuitAnswer
    counters: CountersAnswer
    detail: str | None = None


class CommandAnswer(AgentStatusAnswer):
    command: Literal["start", "stop", "restart"]


class UsageAnswer(BaseModel):
    """Tokens of the operation; `adopted`: steps that were taken over after a crash, whose tokens are unknown."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    adopted: int | None = None


class DecisionAnswer(BaseModel):
    """Whether a person agreed to a call."""

    state: str
    expires_at: str
    decided_at: str | None = None
    decided_by: str | None = None
    reason: str | None = None


class ToolCallAnswer(BaseModel):
    id: str
    server: str
    tool: str
    arguments: str
    status: CallStatus
    duration_ms: int | None
    agent: str | None = Field(default=None, description="The connected agent that was asked, in place of a server.")
    approval: DecisionAnswer | None = None


class ErrorAnswer(BaseModel):
    code: str
    title: str
    detail: str


class ParentAnswer(BaseModel):
    """The operation of another agent that asked; `depth`: how many agents stand before this one."""

    operation_id: str
    conversation_id: str
    agent_id: str
    depth: int


class ChildAnswer(BaseModel):
    """The operation that a call of a connected agent became; `status` is that of the call."""

    operation_id: str
    conversation_id: str
    agent_id: str
    status: CallStatus


class OperationAnswer(BaseModel):
    """What became of a message."""

    operation_id: str
    conversation_id: str
    agent_id: str
    status: Status
    waiting_on: WaitingOn | None = None
    reply: str | None
    tool_calls: list[ToolCallAnswer]
    usage: UsageAnswer
    model: str | None
    attempt: int
    agent_version: str | None = None
    generation: str | None = None
    parked: bool | None = None
    truncated: bool | None = Field(default=None, description="The reply was cut at the model's limit of tokens.")
    parent: ParentAnswer | None = None
    children: list[ChildAnswer] | None = None
    routed_to: str | None = Field(default=None, description="The agent that a message was given to which named none.")
    routed_by: Literal["rule", "model", "conversation", "only", "default"] | None = None
    reason: str | None = Field(default=None, description="Why it was given to that agent.")
    error: ErrorAnswer | None = None


class WorkflowStepAnswer(BaseModel):
    """How far a step is; `operation_id` once it was begun."""

    id: str
    agent_id: str
    status: StepStatus
    depends_on: list[str]
    operation_id: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    error: ErrorAnswer | None = None


class WorkflowAnswer(BaseModel):
    """A workflow; `outputs` holds what its completed steps answered, by their ids."""

    workflow_id: str
    workflow_name: str
    status: WorkflowStatus
    created_at: str
    updated_at: str
    deadline: str
    execution_time_ms: int
    steps: list[WorkflowStepAnswer]
    outputs: dict[str, str]
    error: ErrorAnswer | None = None


class ApprovalAnswer(DecisionAnswer):
    """A call that waits for a person, or was decided."""

    approval_id: str
    operation_id: str
    agent_id: str
    conversation_id: str
    server: str
    tool: str
    arguments: str
    requested_at: str


class ApprovalPageAnswer(BaseModel):
    items: list[ApprovalAnswer]
    next: str | None = Field(description="Where the next page begins: `?after=`.")


class _Server(BaseModel):
    server_id: str
    server_name: str
    server_type: str
    enabled: bool
    status: str
    since: float | None = None
    last_error: str | None = None
    restarts: int | None = None
    heartbeat_at: float | None = None
    owner: str | None = None


class ServerAnswer(_Server):
    """An MCP server; times are seconds since the epoch."""

    tools: int | None = None
    drift: list[dict[str, JsonValue]] | None = None


class ToolAnswer(BaseModel):
    """A tool that a server lists. `changed`: it is not what was approved, and is not used."""

    name: str
    description: str
    read_only: bool
    idempotent: bool
    hash: str
    changed: bool


class ServerStatusAnswer(_Server):
    """One MCP server: its tools, and where it is not what was declared or approved."""

    pin_tools: bool
    stopped_by_command: bool
    listed_at: str | None
    tools: list[ToolAnswer]
    drift: list[dict[str, JsonValue]]
    breaker: dict[str, JsonValue] | None = None


class ServerListAnswer(BaseModel):
    servers: list[ServerAnswer]
    problems: list[RegistryProblemAnswer]


class ReloadAnswer(BaseModel):
    """What changed in the registries: ids of agents by kind of change.

    `leaving`: agents that the registry had before and that are still to be deleted in Foundry. `problems`: what is
    wrong with them; with pointer `""` a whole document, in place of which the last good copy stays in use.
    """

    generation: str
    added: list[str]
    changed: list[str]
    disabled: list[str]
    removed: list[str]
    leaving: list[str]
    problems: list[RegistryProblemAnswer]
