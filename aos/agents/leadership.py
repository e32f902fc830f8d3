"""Agents that lead: their decisions have a mode and stakeholders."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from aos.agents.judgement import LeadershipJudgement, judge
from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.errors import AosError

Mode = Literal["autonomous", "consensus", "delegated"]


class StakeholdersInvalid(AosError):
    code = "stakeholders_invalid"
    title = "The mode of the decision does not fit its stakeholders."


class LeadershipDecision(BaseModel):
    """A decision of a leader, as a model made it.

    Attributes:
        agent_id: Who decided: the leader, or to whom it delegated.
        stakeholders: Ids of the agents that had a say.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    agent_id: str
    context: JsonValue
    mode: Mode
    stakeholders: tuple[str, ...]
    decision: str
    confidence: float
    rationale: str
    timestamp: datetime


class LeadershipAgent(PurposeDrivenAgent):
    """An agent that leads; see `PurposeDrivenAgent` for its arguments and its life."""

    async def consult_stakeholders(
        self, stakeholders: Sequence[PurposeDrivenAgent], topic: str, context: Mapping[str, JsonValue] | None = None
    ) -> dict[str, str]:
        """Asks other agents, which have to be running, side by side; returns their views by agent id."""
        data = f"\nWhat is known, as data: {dict(context)}" if context else ""
        question = f"The agent {self.agent_id!r} asks for your view, in a few sentences.\nTopic: {topic}{data}"
        aside = f"q_{uuid.uuid4().hex}"
        views = await asyncio.gather(*(other.ask(question, conversation_id=aside) for other in stakeholders))
        return {other.agent_id: view for other, view in zip(stakeholders, views, strict=True)}

    async def make_decision(
        self,
        context: Mapping[str, JsonValue],
        stakeholders: Sequence[PurposeDrivenAgent] = (),
        mode: Mode = "autonomous",
    ) -> LeadershipDecision:
        """Has the model decide: of this agent alone (`autonomous`), of this agent with the views of the stakeholders
        before it (`consensus`), or of the one stakeholder (`delegated`).

        Raises:
            StakeholdersInvalid: `consensus` without any, or `delegated` without exactly one.
            AnswerUnusable: The model did not answer with a decision.
        """
        if (mode == "consensus" and not stakeholders) or (mode == "delegated" and len(stakeholders) != 1):
            wanted = "at least one stakeholder" if mode == "consensus" else "exactly one stakeholder"
            raise StakeholdersInvalid(f"mode: {mode!r} needs {wanted}; {len(stakeholders)} were given.")
        data: dict[str, JsonValue] = {"context": dict(context)}
        decider: PurposeDrivenAgent = self
        if mode == "consensus":
            views = await self.consult_stakeholders(stakeholders, "A decision that is to be made.", context)
            data["views"] = dict(views)
        elif mode == "delegated":
            decider = stakeholders[0]
        task = "Decide what is to be done."
        if mode == "consensus":
            task += " Find what the stakeholders can agree to; their views are given."
        told = await judge(decider._aside(), task, data, LeadershipJudgement)
        self.purpose_metrics["decisions_made"] += 1
        return LeadershipDecision(
            id=f"decision_{uuid.uuid4().hex}",
            agent_id=decider.agent_id,
            context=dict(context),
            mode=mode,
            stakeholders=tuple(other.agent_id for other in stakeholders),
            timestamp=datetime.now(UTC),
            **told.model_dump(),
        )
