"""Workflows: agents' tasks that depend on each other, as a caller defines them.

A step's message may hold `{{steps.<id>.reply}}` (what another step answered; that makes it a dependency) and
`{{inputs.<name>}}`. What is put in is not looked through for placeholders again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from aos.errors import AosError

MOST_STEPS = 100
LONGEST_MESSAGE = 32_768
"""Characters of a step's message before anything is put in."""
LONGEST_TEXT = 1_000_000
"""Characters of a message with all that was put in."""
LARGEST_INPUTS = 262_144
"""Characters of all inputs as JSON."""
LONGEST_DEADLINE = 6 * 86_400.0
"""Seconds: operations are kept for seven days, and a workflow reads the answers of its own."""

StepId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
InputName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
PLACEHOLDER = re.compile(
    r"\{\{\s*(?:steps\.(?P<step>[A-Za-z0-9][A-Za-z0-9_-]{0,63})\.reply|inputs\.(?P<input>[A-Za-z_][A-Za-z0-9_]{0,63}))"
    r"\s*\}\}"
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(_Model):
    """One task of one agent.

    Attributes:
        message: What the agent is told.
        depends_on: Steps that have to end before, beside those whose replies the message holds.
        on_error: `fail`: the workflow ends as failed with this step; `continue`: it goes on, and where the reply should
            stand, the message of another step says that there is none.
    """

    id: StepId
    agent_id: str = Field(min_length=1, max_length=256)
    message: str = Field(min_length=1, max_length=LONGEST_MESSAGE, pattern=r"\S")
    depends_on: Annotated[tuple[StepId, ...], Field(max_length=MOST_STEPS)] = ()
    on_error: Literal["fail", "continue"] = "fail"

    @property
    def dependencies(self) -> frozenset[str]:
        """The steps that have to end before it."""
        named = (found["step"] for found in PLACEHOLDER.finditer(self.message))
        return frozenset(self.depends_on).union(name for name in named if name)


class WorkflowOptions(_Model):
    """Bounds of one workflow.

    Attributes:
        deadline_seconds: After which it ends as failed, whatever is still in work.
        parallel: Steps in work at the same time.
    """

    deadline_seconds: float = Field(default=86_400.0, ge=1.0, le=LONGEST_DEADLINE)
    parallel: int = Field(default=16, ge=1, le=MOST_STEPS)


class Workflow(_Model):
    """Up to 100 steps without a circle. Faults name the step.

    Attributes:
        workflow_name: For people; nothing is looked up by it.
        inputs: Values for the messages; text as it is, anything else as JSON.
    """

    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MOST_STEPS)]
    workflow_name: str = Field(default="", max_length=256)
    inputs: dict[InputName, JsonValue] = Field(default_factory=dict, max_length=MOST_STEPS)
    options: WorkflowOptions = WorkflowOptions()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if faults := list(_faults(self)):
            raise ValueError("; ".join(faults[:10]))
        return self

    def step(self, step_id: str) -> Step:
        """The step of this id."""
        return next(step for step in self.steps if step.id == step_id)


def rendered(step: Step, inputs: Mapping[str, JsonValue], replies: Mapping[str, str]) -> str:
    """What the agent is told, with all that is put in.

    Args:
        replies: Of all steps that the message names.

    Raises:
        AosError: It is longer than `LONGEST_TEXT` (code `too_large`).
    """
    texts: dict[str, str] = {}

    def value(found: re.Match[str]) -> str:
        if found["step"]:
            return replies[found["step"]]
        name = found["input"]
        if name not in texts:
            given = inputs[name]
            texts[name] = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return texts[name]

    # Counted before it is put together: one long value that is named often would fill the memory.
    length = len(step.message)
    for found in PLACEHOLDER.finditer(step.message):
        length += len(value(found)) - len(found[0])
    if length > LONGEST_TEXT:
        raise AosError(f"The message has {length} characters; at most {LONGEST_TEXT} are told.", code="too_large")
    return PLACEHOLDER.sub(value, step.message)


def _faults(workflow: Workflow) -> Iterator[str]:
    known: set[str] = set()
    for step in workflow.steps:
        if step.id in known:
            yield f"step {step.id!r}: there are two of this id"
        known.add(step.id)
    for step in workflow.steps:
        for name in sorted(step.dependencies - known):
            yield f"step {step.id!r}: depends on {name!r}, which is no step"
        for found in PLACEHOLDER.finditer(step.message):
            if found["input"] and found["input"] not in workflow.inputs:
                yield f"step {step.id!r}: {found[0]} has no value in `inputs`"
        left = PLACEHOLDER.sub("", step.message)
        if (at := left.find("{{")) >= 0:
            yield (
                f"step {step.id!r}: {left[at : at + 40]!r} is no placeholder; there are "
                "{{steps.<id>.reply}} and {{inputs.<name>}}, and other text with two braces comes in by an input"
            )
    if len(json.dumps(workflow.inputs, ensure_ascii=False)) > LARGEST_INPUTS:
        yield f"inputs: more than {LARGEST_INPUTS} characters as JSON"
    try:
        TopologicalSorter({step.id: step.dependencies for step in workflow.steps}).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        yield f"step {error.args[1][0]!r}: waits for itself: {circle}"
