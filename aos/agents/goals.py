"""Goals of an agent: what it works towards, and how far it is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from aos.errors import AosError


class UnknownGoal(AosError):
    code = "unknown_goal"
    title = "The agent has no such goal."


class GoalInvalid(AosError):
    code = "goal_invalid"
    title = "The goal, or its progress, is not valid."


class Goal(BaseModel):
    """A goal.

    Attributes:
        progress: From 0 to 1; at 1 it is achieved.
        notes: What was said when its progress changed, oldest first.
    """

    model_config = ConfigDict(validate_assignment=True)

    goal_id: str
    description: Annotated[str, Field(min_length=1, max_length=10_000)]
    success_criteria: tuple[str, ...] = ()
    deadline: datetime | None = None
    progress: Annotated[float, Field(ge=0, le=1)] = 0.0
    notes: list[str] = []
    created_at: datetime
    achieved_at: datetime | None = None


NOTES = 100
"""Notes kept per goal, the newest ones."""
PROGRESS = TypeAdapter(Annotated[float, Field(ge=0, le=1)])


def advance(goal: Goal, progress: float, note: str | None, now: datetime) -> bool:
    """Sets the progress.

    Returns:
        Whether the goal is achieved.

    Raises:
        GoalInvalid: The progress is no number from 0 to 1.
    """
    try:
        goal.progress = PROGRESS.validate_python(progress)
    except ValidationError:
        raise GoalInvalid(f"progress: {progress!r} is not a number from 0 to 1.") from None
    if note:
        goal.notes = [*goal.notes, note][-NOTES:]
    if goal.progress == 1:
        goal.achieved_at = goal.achieved_at or now
    else:
        goal.achieved_at = None
    return goal.achieved_at is not None
