from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue, ValidationError

from aos.errors import AosError
from aos.kernel.types import Failure
from aos.orchestration.coordination import hierarchical, parallel, sequential
from aos.orchestration.workflow import LARGEST_INPUTS, MOST_STEPS, Step, Workflow, rendered
from aos.orchestration.workflow_run import Ending, WorkflowRun, advanced, begun, stopped

OK = Ending(status="completed")
BAD = Ending(status="failed", error=Failure("limit_exceeded", "Too much.", "16 model steps."))


def step(step_id: str, message: str = "do it", **more: Any) -> dict[str, Any]:
    return {"id": step_id, "agent_id": "cfo", "message": message, **more}


def workflow(*steps: dict[str, Any], **more: Any) -> Workflow:
    return Workflow.model_validate({"steps": list(steps), **more})


def go(run: WorkflowRun, at: float = 1.0, **endings: Ending) -> WorkflowRun:
    return advanced(run, endings, {name: f"op_{name}" for name in run.steps}, at)


def start(flow: Workflow) -> WorkflowRun:
    return go(begun("w", flow, 0.0, None))


def statuses(run: WorkflowRun) -> dict[str, str]:
    return {name: each.status for name, each in run.steps.items()}


# --- definitions


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([step("a"), step("a")], "step 'a': there are two"),
        ([step("a", depends_on=["b"])], "step 'a': depends on 'b', which is no step"),
        ([step("a", "about {{steps.b.reply}}")], "step 'a': depends on 'b', which is no step"),
        ([step("a", "about {{inputs.topic}}")], "step 'a': {{inputs.topic}} has no value"),
        ([step("a", "about {{steps.b.result}}")], "step 'a': '{{steps.b.result}}' is no placeholder"),
        ([step("a", "about {{ topic")], "step 'a': '{{ topic' is no placeholder"),
        ([step("a", depends_on=["a"])], "step 'a': waits for itself"),
        ([step("a", depends_on=["b"]), step("b", "{{steps.a.reply}}")], "waits for itself: "),
        ([step("a b")], "steps.0.id"),
        ([step("a", " ")], "steps.0.message"),
        ([step("a", on_error="retry")], "steps.0.on_error"),
        ([step("a", tool="x")], "steps.0.tool"),
        ([], "steps"),
        ([step(f"s{n}") for n in range(MOST_STEPS + 1)], "steps"),
    ],
)
def test_a_fault_names_its_step(steps: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        workflow(*steps)
    assert said in str(caught.value)


def test_inputs_are_bounded() -> None:
    with pytest.raises(ValidationError, match="inputs: more than"):
        workflow(step("a"), inputs={"x": "y" * LARGEST_INPUTS})


def test_what_is_put_in_is_not_looked_through_again() -> None:
    flow = workflow(
        step("b"), step("a", "{{inputs.x}} {{ inputs.n }} {{steps.b.reply}}"), inputs={"x": "{{no}}", "n": [1]}
    )
    assert rendered(flow.step("a"), flow.inputs, {"b": "{{inputs.x}}"}) == "{{no}} [1] {{inputs.x}}"


@pytest.mark.parametrize("value", ["x" * 100_000, ["x" * 100_000]])
def test_a_value_that_is_named_often_does_not_fill_the_memory(value: JsonValue) -> None:
    flow = workflow(step("a", "{{inputs.x}}" * 2500), inputs={"x": value})
    tracemalloc.start()
    try:
        with pytest.raises(AosError, match="at most 1000000 are told") as caught:
            rendered(flow.step("a"), flow.inputs, {})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "too_large"
    assert most < 2_000_000


def test_a_message_is_put_together_up_to_its_bound() -> None:
    flow = workflow(step("a", "{{inputs.x}}{{inputs.x}}{{steps.b.reply}}"), step("b"), inputs={"x": "y" * 250_000})
    assert rendered(flow.step("a"), flow.inputs, {"b": "z" * 500_000}) == "y" * 500_000 + "z" * 500_000
    with pytest.raises(AosError, match="1000001 characters; at most 1000000"):
        rendered(flow.step("a"), flow.inputs, {"b": "z" * 500_001})


def test_patterns_are_workflows_and_can_be_put_together() -> None:
    first = sequential("Count.", ["cfo", "cto"], prefix="s-")
    second = hierarchical("Decide.", "ceo", ["cfo", "cto"], prefix="h-", after=[first[-1].id])
    last = parallel("Tell.", ["cmo", "chro"], prefix="p-", after=["h-answer"])
    flow = Workflow(steps=(*first, *second, *last))
    run, order = start(flow), []
    while not run.final:
        order.append(sorted(run.running))
        run = advanced(run, dict.fromkeys(run.running, OK), {name: name for name in run.steps}, 1.0)
    assert order == [
        ["s-1-cfo"],
        ["s-2-cto"],
        ["h-plan"],
        ["h-1-cfo", "h-2-cto"],
        ["h-answer"],
        ["p-1-cmo", "p-2-chro"],
    ]
    assert run.status == "completed"


def test_the_patterns_of_the_documentation() -> None:
    code = (Path(__file__).parents[2] / "docs/workflows.md").read_text().split("```python")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - it is ours
    assert [step.id for step in names["workflow"].steps][-2:] == ["tell-1-chro", "tell-2-cto"]


# --- on the way


def test_a_step_begins_when_all_before_it_ended() -> None:
    run = start(workflow(step("a"), step("b"), step("c", "{{steps.a.reply}}", depends_on=["b"])))
    assert statuses(run) == {"a": "running", "b": "running", "c": "pending"}
    run = go(run, a=OK)
    assert run.steps["c"].status == "pending"
    run = go(run, b=OK)
    assert (run.steps["c"].status, run.steps["c"].operation_id) == ("running", "op_c")
    assert go(run, c=OK).status == "completed"


def test_nothing_new_changes_nothing() -> None:
    run = start(workflow(step("a"), step("b", depends_on=["a"])))
    assert go(run, at=99.0) is run
    ended = go(go(run, a=OK), b=OK)
    assert go(ended, at=99.0, a=BAD) is ended


def test_no_more_steps_at_the_same_time_than_wanted() -> None:
    run = start(workflow(*(step(name) for name in "abc"), options={"parallel": 2}))
    assert sorted(run.running) == ["a", "b"]
    assert sorted(go(run, b=OK).running) == ["a", "c"]


def test_a_step_that_fails_ends_the_workflow_and_is_named() -> None:
    run = go(start(workflow(step("a"), step("b"), step("c", depends_on=["a"]))), a=BAD)
    assert run.status == "failed"
    assert run.error is not None
    assert (run.error.code, "step 'a' of agent cfo: 16 model steps." in run.error.detail) == ("limit_exceeded", True)
    assert statuses(run) == {"a": "failed", "b": "running", "c": "skipped"}
    assert not run.settled, "b is to be cancelled first"
    assert go(run, b=Ending(status="cancelled")).settled


def test_a_step_that_may_fail_does_not() -> None:
    run = go(start(workflow(step("a", on_error="continue"), step("b", "{{steps.a.reply}}"))), a=BAD)
    assert statuses(run) == {"a": "failed", "b": "running"}
    assert go(run, b=OK).status == "completed"


def test_a_deadline_ends_it() -> None:
    run = start(workflow(step("a"), step("b", depends_on=["a"]), options={"deadline_seconds": 60}))
    assert go(run, at=59.0).status == "running"
    late = go(run, at=60.0)
    assert late.error is not None
    assert (late.status, late.error.code, statuses(late)["b"]) == ("failed", "deadline_exceeded", "skipped")
    assert "a, b" in late.error.detail


def test_what_was_stopped_begins_nothing() -> None:
    run = start(workflow(step("a"), step("b", depends_on=["a"])))
    run = go(stopped(run, "cancelled", Failure("cancelled", "Cancelled.", "By me."), 2.0), at=3.0, a=OK)
    assert (run.status, statuses(run)) == ("cancelled", {"a": "completed", "b": "skipped"})


def test_it_is_kept_as_json() -> None:
    run = go(start(workflow(step("a", "{{inputs.x}}"), inputs={"x": {"y": None}})), a=BAD)
    assert WorkflowRun.model_validate_json(run.model_dump_json()) == run
    assert Step(id="a", agent_id="b", message="c") == Step.model_validate({"id": "a", "agent_id": "b", "message": "c"})
