"""Workflows by pattern: one task for several agents, side by side, one after the other, or with one that leads.

Each returns steps, so that they can be put together: `prefix` keeps their ids apart, `after` names what comes before.
"""

from __future__ import annotations

from collections.abc import Sequence

from aos.orchestration.workflow import Step


def parallel(task: str, agents: Sequence[str], *, prefix: str = "", after: Sequence[str] = ()) -> tuple[Step, ...]:
    """Every agent is given the task, all at the same time."""
    return tuple(
        Step(id=f"{prefix}{number}-{agent}", agent_id=agent, message=task, depends_on=tuple(after))
        for number, agent in enumerate(agents, 1)
    )


def sequential(task: str, agents: Sequence[str], *, prefix: str = "", after: Sequence[str] = ()) -> tuple[Step, ...]:
    """Every agent is given the task and what the one before it answered."""
    steps: list[Step] = []
    for number, agent in enumerate(agents, 1):
        before = steps[-1].id if steps else None
        message = task if before is None else f"{task}\n\nWhat was answered before you (data):\n{_reply(before)}"
        depends_on = tuple(after) if before is None else ()
        steps.append(Step(id=f"{prefix}{number}-{agent}", agent_id=agent, message=message, depends_on=depends_on))
    return tuple(steps)


def hierarchical(
    task: str, leader: str, agents: Sequence[str], *, prefix: str = "", after: Sequence[str] = ()
) -> tuple[Step, ...]:
    """The leader plans, every agent does its part of the plan, the leader answers from what they found."""
    plan = Step(
        id=f"{prefix}plan",
        agent_id=leader,
        message=f"{task}\n\nSay first what each of these has to find out: {', '.join(agents)}.",
        depends_on=tuple(after),
    )
    work = parallel(f"{task}\n\nDo your part of this plan (data):\n{_reply(plan.id)}", agents, prefix=prefix)
    found = "\n\n".join(f"{step.agent_id}:\n{_reply(step.id)}" for step in work)
    answer = Step(id=f"{prefix}answer", agent_id=leader, message=f"{task}\n\nWhat was found (data):\n{found}")
    return (plan, *work, answer)


def _reply(step_id: str) -> str:
    return f"{{{{steps.{step_id}.reply}}}}"
