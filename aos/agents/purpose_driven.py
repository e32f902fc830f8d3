"""What every agent has: a purpose, the instructions that follow from it, a life, and judgement by its purpose."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from aos.agents.definition import CUSTOM_RUNTIME, FOUNDRY_RUNTIME, AgentDefinition
from aos.agents.goals import Goal, UnknownGoal, advance
from aos.agents.judgement import AlignmentJudgement, DecisionJudgement, ProgressJudgement, judge
from aos.config import Settings, load_settings
from aos.errors import AosError, TransientError
from aos.kernel.types import AgentRef, Operation

if TYPE_CHECKING:
    from aos.agents.workplace import RunningSystem, Workplace


class AgentNotRunning(AosError):
    code = "agent_not_running"
    title = "The agent is not running."


class TurnFailed(AosError):
    """A turn ended without an answer; `code` and `detail` say why."""

    code = "turn_failed"
    title = "The turn ended without an answer."


class TurnUnfinished(TransientError):
    """A turn has not ended in time; it goes on."""

    code = "turn_unfinished"
    title = "The turn has not ended yet."


class Alignment(BaseModel):
    """How well an action serves the purpose, as the agent's model judges it."""

    model_config = ConfigDict(frozen=True)

    action: JsonValue
    aligned: bool
    alignment_score: float
    reasoning: str
    timestamp: datetime


class Decision(BaseModel):
    """A choice by purpose, as the agent's model made it."""

    model_config = ConfigDict(frozen=True)

    decision_id: str
    context: JsonValue
    selected_option: JsonValue
    reasoning: str
    alignment_score: float
    timestamp: datetime


class PurposeDrivenAgent(AgentDefinition):
    """An agent that acts from a purpose.

    As the app serves it, it is only its definition. By itself it has a life as well: `await initialize()`,
    `await start()`, then `ask` and the judgements, at last `await stop()`; or `async with agent:`. It runs on the
    runtime that the settings choose.

    Args:
        agent_id: Its id in the registry.
        purpose: What it is for, in one sentence.
        purpose_scope: What belongs to its purpose.
        success_criteria: By what it is judged.
        system_message: Further instructions, in the words of whoever configured it.
        adapter_name: The LoRA adapter that it thinks with; by default its id.
        name, role: How it is addressed, beside its id.
        settings: Of its own; by default those of the environment.
        system: A running system to work in, instead of connections of its own.
    """

    def __init__(
        self,
        agent_id: str,
        purpose: str,
        *,
        purpose_scope: str | None = None,
        success_criteria: Sequence[str] = (),
        system_message: str | None = None,
        adapter_name: str | None = None,
        name: str | None = None,
        role: str | None = None,
        settings: Settings | None = None,
        system: RunningSystem | None = None,
    ) -> None:
        super().__init__(
            agent_id,
            purpose,
            purpose_scope=purpose_scope,
            success_criteria=success_criteria,
            system_message=system_message,
            adapter_name=adapter_name,
            name=name,
            role=role,
        )
        self.is_running = False
        self.ref: AgentRef | None = None
        self.active_goals: dict[str, Goal] = {}
        self.completed_goals: dict[str, Goal] = {}
        self.purpose_metrics = {
            "purpose_aligned_actions": 0,
            "purpose_evaluations": 0,
            "decisions_made": 0,
            "goals_achieved": 0,
        }
        self._settings = settings
        self._system = system
        self._workplace: Workplace | None = None
        self._goals = 0

    # --- life

    async def initialize(self) -> bool:
        """Connects to its runtime and makes the agent ready there. True: it is (errors are raised).

        Raises:
            SettingError: A setting is missing; names it.
            TransientError: The runtime is unavailable.
            FoundryRefused: It cannot be made ready: model not found, not authorized, ...
        """
        from aos.agents.workplace import Workplace

        if self._workplace is not None:
            return True
        settings = self._system.settings if self._system is not None else self._own_settings()
        workplace = Workplace(self, settings, self._system)
        try:
            bound = await workplace.open()
        except BaseException:
            await workplace.close(0)
            raise
        self._workplace, self.ref = workplace, bound.ref
        self.runtime = FOUNDRY_RUNTIME if settings.use_foundry else CUSTOM_RUNTIME
        return True

    async def start(self) -> bool:
        """Begins to take messages; initializes first if that was not done."""
        await self.initialize()
        self.is_running = True
        return True

    async def stop(self, grace: float = 10.0) -> bool:
        """Takes no more messages, lets running turns go on for up to `grace` seconds, and disconnects."""
        self.is_running = False
        workplace, self._workplace = self._workplace, None
        if workplace is not None:
            await workplace.close(grace)
        return True

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def _own_settings(self) -> Settings:
        return self._settings or load_settings()

    # --- turns

    @cached_property
    def conversation_id(self) -> str:
        """The conversation of this object; made when first used, for most agents have none outside their app."""
        return f"c_{uuid.uuid4().hex}"

    async def ask(self, message: str, *, conversation_id: str | None = None, timeout: float = 120.0) -> str:
        """Says something to the agent and returns its answer.

        Args:
            conversation_id: By default one conversation per agent object.
            timeout: Seconds to wait.

        Raises:
            AgentNotRunning: `start` was not called.
            TurnFailed: There is no answer; the code says why.
            TurnUnfinished: Not yet.
        """
        operation = await self.turn(message, conversation_id=conversation_id, timeout=timeout)
        if not operation.final:
            raise TurnUnfinished(f"Operation {operation.operation_id} has not ended within {timeout:.0f} s.")
        if operation.error is not None:
            raise TurnFailed(f"{operation.error.title} {operation.error.detail}", code=operation.error.code)
        return operation.reply or ""

    async def turn(self, message: str, *, conversation_id: str | None = None, timeout: float = 120.0) -> Operation:
        """Like `ask`, with all there is to know: status, usage, model, tool calls; failures are in it."""
        if not self.is_running or self._workplace is None:
            raise AgentNotRunning(f"Agent {self.agent_id!r} was not started: await its start() first.")
        return await self._workplace.turn(conversation_id or self.conversation_id, message, timeout)

    # --- judgement by purpose

    async def evaluate_purpose_alignment(self, action: JsonValue) -> Alignment:
        """Has the model judge whether an action serves the purpose.

        Raises:
            AnswerUnusable: The model did not answer with a judgement.
        """
        task = "Judge whether this action serves your purpose."
        told = await judge(self._aside(), task, {"action": action}, AlignmentJudgement)
        self.purpose_metrics["purpose_evaluations"] += 1
        self.purpose_metrics["purpose_aligned_actions"] += told.aligned
        return Alignment(action=action, timestamp=datetime.now(UTC), **told.model_dump())

    async def make_purpose_driven_decision(self, context: Mapping[str, JsonValue]) -> Decision:
        """Has the model decide by its purpose; if the context has `options`, for one of them.

        Raises:
            AnswerUnusable: The model did not answer with a decision.
        """
        options = context.get("options")

        def check(told: DecisionJudgement) -> str | None:
            if isinstance(options, list) and options and told.selected_option not in options:
                return "selected_option: has to be one of `options`, as it stands there"
            return None

        task = "Decide what serves your purpose best."
        told = await judge(self._aside(), task, dict(context), DecisionJudgement, check)
        self.purpose_metrics["decisions_made"] += 1
        return Decision(
            decision_id=f"decision_{uuid.uuid4().hex}",
            context=dict(context),
            timestamp=datetime.now(UTC),
            **told.model_dump(),
        )

    # --- goals

    async def add_goal(
        self, description: str, success_criteria: Sequence[str] = (), deadline: datetime | None = None
    ) -> str:
        """A new goal; returns its id. Goals live as long as this object."""
        self._goals += 1
        goal = Goal(
            goal_id=f"goal_{self._goals}",
            description=description,
            success_criteria=tuple(success_criteria),
            deadline=deadline,
            created_at=datetime.now(UTC),
        )
        self.active_goals[goal.goal_id] = goal
        return goal.goal_id

    async def update_goal_progress(self, goal_id: str, progress: float, notes: str | None = None) -> bool:
        """Sets how far a goal is reached, from 0 to 1; at 1 it is completed. False: there is no such active goal.

        Raises:
            GoalInvalid: The progress is not within 0 and 1.
        """
        goal = self.active_goals.get(goal_id)
        if goal is None:
            return False
        if advance(goal, progress, notes, datetime.now(UTC)):
            self.completed_goals[goal_id] = self.active_goals.pop(goal_id)
            self.purpose_metrics["goals_achieved"] += 1
        return True

    async def assess_goal(self, goal_id: str, evidence: JsonValue) -> ProgressJudgement:
        """Has the model judge from evidence how far a goal is reached, and sets its progress to that.

        Raises:
            UnknownGoal: There is no such active goal.
            AnswerUnusable: The model did not answer with a judgement.
        """
        goal = self.active_goals.get(goal_id)
        if goal is None:
            known = ", ".join(self.active_goals) or "none"
            raise UnknownGoal(f"Agent {self.agent_id!r} has no active goal {goal_id!r}. Active: {known}.")
        data = {"goal": goal.model_dump(mode="json"), "evidence": evidence}
        told = await judge(self._aside(), "Judge how far this goal is reached.", data, ProgressJudgement)
        await self.update_goal_progress(goal_id, told.progress, told.reasoning)
        return told

    # --- status

    async def get_purpose_status(self) -> dict[str, Any]:
        """Purpose, goals, and what was counted since the agent was made."""
        return {
            "agent_id": self.agent_id,
            "purpose": self.purpose,
            "purpose_scope": self.purpose_scope,
            "success_criteria": list(self.success_criteria),
            "is_running": self.is_running,
            "metrics": dict(self.purpose_metrics),
            "active_goals": [goal.model_dump(mode="json") for goal in self.active_goals.values()],
            "completed_goals": [goal.model_dump(mode="json") for goal in self.completed_goals.values()],
        }

    def _aside(self) -> Callable[[str], Awaitable[str]]:
        """Asks in a conversation of its own: judgements are no part of what the agent talks about."""
        conversation_id = f"j_{uuid.uuid4().hex}"
        return lambda text: self.ask(text, conversation_id=conversation_id)


class GenericPurposeDrivenAgent(PurposeDrivenAgent):
    """A purpose-driven agent without a further role."""
