"""A workflow on its way, and what follows from the ends of its steps: pure, without I/O and clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from aos.kernel.types import Failure, ReplyAddress
from aos.orchestration.workflow import Workflow

StepStatus = Literal["pending", "running", "completed", "failed", "cancelled", "skipped"]
WorkflowStatus = Literal["running", "completed", "failed", "cancelled"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class StepRun(_Record):
    """How far a step is. `running`: its operation is accepted, or about to be."""

    status: StepStatus = "pending"
    operation_id: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    error: Failure | None = None


class Ending(_Record):
    """How the operation of a step ended."""

    status: Literal["completed", "failed", "cancelled"]
    error: Failure | None = None


class WorkflowRun(_Record):
    """A workflow that was accepted.

    Attributes:
        deadline: When it is given up.
        steps: By id.
        reply_to: Who is told over the bus how it ended.
        also: Who asked for the same workflow while it was on its way, and is told as well.
        reached: Places in `addresses` of those who were told.
        told: All were.
    """

    workflow_id: str
    workflow: Workflow
    created_at: float
    updated_at: float
    deadline: float
    status: WorkflowStatus = "running"
    steps: dict[str, StepRun]
    error: Failure | None = None
    reply_to: ReplyAddress | None = None
    also: tuple[ReplyAddress, ...] = ()
    reached: tuple[int, ...] = ()
    told: bool = False

    @property
    def addresses(self) -> tuple[ReplyAddress, ...]:
        """Of all who are told; each keeps its place."""
        return self.also if self.reply_to is None else (self.reply_to, *self.also)

    @property
    def final(self) -> bool:
        return self.status != "running"

    @property
    def running(self) -> dict[str, StepRun]:
        """The steps whose operations have not ended, as far as is known."""
        return {name: step for name, step in self.steps.items() if step.status == "running"}

    @property
    def settled(self) -> bool:
        """Whether nothing happens any more: it ended, all its operations did, and who asked was told."""
        return self.final and not self.running and (self.told or self.reply_to is None)


def begun(workflow_id: str, workflow: Workflow, at: float, reply_to: ReplyAddress | None) -> WorkflowRun:
    """A workflow of which nothing was done."""
    return WorkflowRun(
        workflow_id=workflow_id,
        workflow=workflow,
        created_at=at,
        updated_at=at,
        deadline=at + workflow.options.deadline_seconds,
        steps={step.id: StepRun() for step in workflow.steps},
        reply_to=reply_to,
    )


def asked_by(run: WorkflowRun, address: ReplyAddress) -> WorkflowRun:
    """The workflow, of which somebody (else) wants to be told."""
    if address in run.addresses:
        return run
    more = {"reply_to": address} if run.reply_to is None else {"also": (*run.also, address)}
    return run.model_copy(update=more)


def has_told(run: WorkflowRun, places: Sequence[int]) -> WorkflowRun:
    """The workflow once those at these places were told; others may have come meanwhile."""
    reached = tuple(sorted({*run.reached, *places}))
    return run.model_copy(update={"reached": reached, "told": len(reached) == len(run.addresses)})


def advanced(run: WorkflowRun, endings: Mapping[str, Ending], operations: Mapping[str, str], at: float) -> WorkflowRun:
    """The workflow after some of its steps ended, with those marked as running whose turn it is now.

    Args:
        endings: Of steps that run, by id.
        operations: The operation ids that the steps have, by id.
        at: The time.
    """
    steps = dict(run.steps)
    for name, ending in endings.items():
        if steps[name].status == "running":
            told = {"status": ending.status, "ended_at": at, "error": ending.error}
            steps[name] = steps[name].model_copy(update=told)
    after = run.model_copy(update={"steps": steps})
    if not after.final:
        after = _ended(after, at) or _started(after, operations, at)
    return run if after == run else after.model_copy(update={"updated_at": at})


def stopped(run: WorkflowRun, status: Literal["failed", "cancelled"], error: Failure, at: float) -> WorkflowRun:
    """The workflow ended before its last step: what has not begun never will."""
    steps = {
        name: step.model_copy(update={"status": "skipped"}) if step.status == "pending" else step
        for name, step in run.steps.items()
    }
    return run.model_copy(update={"status": status, "error": error, "steps": steps, "updated_at": at})


def _ended(run: WorkflowRun, at: float) -> WorkflowRun | None:
    for step in run.workflow.steps:
        state = run.steps[step.id]
        if state.status in ("failed", "cancelled") and step.on_error == "fail":
            why = state.error or Failure("step_failed", "A step failed.", f"It was {state.status}.")
            detail = f"step {step.id!r} of agent {step.agent_id}: {why.detail}"
            return stopped(run, "failed", Failure(why.code, why.title, detail), at)
    if all(state.status not in ("pending", "running") for state in run.steps.values()):
        return run.model_copy(update={"status": "completed"})
    if at >= run.deadline:
        late = ", ".join(name for name, state in run.steps.items() if state.status in ("pending", "running"))
        detail = f"After {run.workflow.options.deadline_seconds:g} s these had not ended: {late}."
        return stopped(run, "failed", Failure("deadline_exceeded", "The workflow took too long.", detail), at)
    return None


def _started(run: WorkflowRun, operations: Mapping[str, str], at: float) -> WorkflowRun:
    room = run.workflow.options.parallel - len(run.running)
    steps = dict(run.steps)
    for step in run.workflow.steps:
        waits = any(run.steps[name].status in ("pending", "running") for name in step.dependencies)
        if room > 0 and steps[step.id].status == "pending" and not waits:
            started = {"status": "running", "operation_id": operations[step.id], "started_at": at}
            steps[step.id] = steps[step.id].model_copy(update=started)
            room -= 1
    return run.model_copy(update={"steps": steps})
