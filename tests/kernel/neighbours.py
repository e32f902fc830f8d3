"""The kernel's other neighbours: agents, the bus with the tools behind it, and the board of circuits."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from aos.errors import AgentDisabled, AgentNotReady, AgentStopped, BusUnavailable, UnknownAgent
from aos.kernel.breaker import Trip
from aos.kernel.events import PlannedCall
from aos.kernel.types import (
    AgentRef,
    ApprovalRecord,
    ConversationKey,
    FunctionCall,
    Limits,
    Operation,
    Outgoing,
    Park,
    SendTool,
    ToolResult,
)

if TYPE_CHECKING:
    from tests.kernel.world import World


@dataclass(frozen=True, slots=True)
class Binding:
    ref: AgentRef
    time_limit: float
    limits: Limits | None = None
    mixed: bool = False
    running_since: float = 0.0

    def plan(self, call: FunctionCall) -> PlannedCall:
        if call.name == "unknown":
            return PlannedCall(call, refusal="There is no tool named unknown.")
        if asks := re.match(r"[\d,]+: ask (\w+)/(.*)", json.loads(call.arguments)["for"]):
            question = replace(call, arguments=json.dumps({"message": asks[2]}))
            return PlannedCall(question, tool=asks[1], agent=asks[1])
        asked = "approve" in call.arguments and not (self.mixed and call.call_id.endswith(".0"))
        return PlannedCall(call, "files", "read", self.time_limit, approval=asked)


AgentState = Literal["ready", "starting", "stopped", "disabled", "unknown", "broken"]


class Agents:
    def __init__(self) -> None:
        self.state: AgentState = "ready"
        self.states: dict[str, AgentState] = {}
        """Of agents that are in another one."""
        self.running_since = 0.0
        self.version = 1
        self.time_limit = 90.0
        self.limits: Limits | None = None
        self.mixed = False
        self.forgotten: list[str] = []

    async def bind(self, agent_id: str) -> Binding:
        match self.states.get(agent_id, self.state):
            case "starting":
                raise AgentNotReady(f"Agent {agent_id} is starting.")
            case "stopped":
                raise AgentStopped(f"Agent {agent_id} is stopped.")
            case "disabled":
                raise AgentDisabled(f"Agent {agent_id} is disabled.")
            case "unknown":
                raise UnknownAgent(f"No agent {agent_id}.")
            case "broken":
                raise RuntimeError("a bug in the directory")
        return self._binding(agent_id)

    def _binding(self, agent_id: str) -> Binding:
        return Binding(
            AgentRef(f"aos-{agent_id}", str(self.version), f"hash {self.version}", "llama"),
            self.time_limit,
            self.limits,
            self.mixed,
            self.running_since,
        )

    async def bound_to(self, agent_id: str, ref: AgentRef) -> Binding:
        if self.state == "unknown":
            raise UnknownAgent(f"No agent {agent_id}.")
        return replace(self._binding(agent_id), ref=ref)


class Bus:
    """What the kernel sent, and the tools behind it: a ledger sees to it that a request runs once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.down = False
        self.tools_answer = True
        self.wakes_come = True
        self.latency = 1.0
        self.last_first = False
        """Whether of calls that are made together the last one answers first."""
        self.ledger: dict[str, tuple[SendTool, ToolResult]] = {}
        self.keys: dict[str, ConversationKey] = {}
        self.asked: list[str] = []
        self.replies: defaultdict[str, list[Operation]] = defaultdict(list)
        self.wakes: list[tuple[float, float]] = []
        self.parked: list[Park] = []
        self.approvals: list[ApprovalRecord] = []
        self.refused: dict[str, Exception] = {}

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        if self.down:
            raise BusUnavailable("The bus is down.")
        for effect in effects:
            if effect.kind in self.refused:
                raise self.refused[effect.kind]
            if effect.kind == "tool":
                self._run(key, effect)
            elif effect.kind == "park":
                self.parked.append(effect)
            elif effect.kind == "approval":
                self.approvals.append(effect.record)
            else:
                assert effect.kind == "reply", "what the kernel sees to itself"
                operation = effect.operation
                saved = await self.world.store.operation(operation.operation_id)
                assert operation.final
                assert saved is not None
                again = saved.attempt > operation.attempt
                assert again or saved == operation, "a reply before its operation was saved"
                self.replies[operation.operation_id].append(operation)

    def _run(self, key: ConversationKey, effect: SendTool) -> None:
        self.asked.append(effect.request_id)
        if effect.request_id not in self.ledger:
            self.ledger[effect.request_id] = effect, ToolResult(effect.request_id, f"<{effect.request_id}>")
            self.keys[effect.request_id] = key
        assert self.ledger[effect.request_id][0] == effect, "one request id for two requests"
        if self.tools_answer:
            latency = self.latency / (1 + len(self.asked)) if self.last_first else self.latency
            self.world.later(latency, lambda: self.world.result(effect.request_id))

    async def wake(self, key: ConversationKey, delay: float) -> None:
        if self.down:
            raise BusUnavailable("The bus is down.")
        if "wake" in self.refused:
            raise self.refused["wake"]
        self.wakes.append((self.world.now, delay))
        if self.wakes_come:
            self.world.later(delay, lambda: self.world.resume(key))


class Board:
    """What the processes tell each other of their circuits."""

    def __init__(self) -> None:
        self.trips: dict[str, Trip] = {}

    async def put(self, trip: Trip) -> None:
        known = self.trips.get(trip.name)
        if known is None or known.at < trip.at:
            self.trips[trip.name] = trip

    async def all(self) -> Sequence[Trip]:
        return list(self.trips.values())
