"""Workflows on the durable kernel: every step is an operation, and what the workflow knows is one row.

Nothing waits. Beginning a workflow stores it and starts the steps that depend on nothing; the end of each operation
sends a message (`advance` on `agent-commands`, through the outbox of the operation's conversation), and whichever
process receives it looks at the steps and starts those whose turn it is. The sweep only repairs what a dead process
left: ids of operations are derived from workflow and step, so that starting a step twice is one operation.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field

from aos.errors import (
    AosError,
    Conflict,
    OperationConflict,
    OperationFinal,
    StorageUnavailable,
    TransientError,
    UnknownEntity,
    UnknownOperation,
)
from aos.intake import derive_operation_id, fingerprint_of
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.kernel import Kernel
from aos.kernel.ports import AgentBinding
from aos.kernel.sweep import next_look
from aos.kernel.types import ConversationKey, Failure, Message, Operation, ReplyAddress
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import AGENT_COMMANDS, CONVERSATION_ID
from aos.messaging.replies import undeliverable
from aos.messaging.requests import WORKFLOW_RESULT, answer
from aos.orchestration.workflow import Step, Workflow, rendered
from aos.orchestration.workflow_run import Ending, WorkflowRun, advanced, asked_by, begun, has_told, stopped
from aos.storage.rows import table_key
from aos.storage.workflows import WorkflowRecord, WorkflowRecords
from aos.views import time_view

log = logging.getLogger("aos.workflows")

T = TypeVar("T")
R = TypeVar("R")

LOOK = 30.0
"""Seconds between two looks of the sweep at a workflow that has not ended."""
SWEEP = 50
"""Workflows whose rows a sweep reads at once."""
PATIENCE = 5.0
"""Seconds for which one sweep goes on with further ones: most of them wait for a step, and take next to no time."""
UNFINISHED = 600.0
"""Seconds for which a due row without a workflow is kept: the workflow may still be on its way."""
TRIES = 20
"""Writes over a row that others write, too, before the message is put off."""
AT_ONCE = 8
MOST_ASKING = 16
"""Who is told how a workflow ended; further ones come again when it has."""


class UnknownWorkflow(AosError):
    code = "unknown_workflow"
    title = "No workflow has this id."


class WorkflowRequest(Workflow):
    """Body of `POST workflows`, and payload of `aos.workflow.execute`.

    Attributes:
        workflow_id: The caller's name for it; the same id is the same workflow for ever. Without it one is made from
            the idempotency key or the `message_id`.
    """

    workflow_id: Annotated[str, Field(pattern=CONVERSATION_ID)] | None = None

    @property
    def workflow(self) -> Workflow:
        return Workflow.model_construct(**{name: getattr(self, name) for name in Workflow.model_fields})


class Directory(Protocol):
    """`aos.agents.directory.AgentDirectory`."""

    async def enabled_entry(self, agent_id: str, *, since: float | None = None) -> object: ...

    def bound(self, agent_id: str) -> AgentBinding | None: ...


class WorkflowRunner:
    """Begins workflows, and takes them further when something happened.

    Args:
        send: Puts messages on the bus.
    """

    def __init__(
        self,
        kernel: Kernel,
        directory: Directory,
        records: WorkflowRecords,
        claim_check: ClaimCheck,
        send: Callable[[Sequence[Outbound]], Awaitable[None]],
        clock: Clock | None = None,
    ) -> None:
        self._kernel = kernel
        self._directory = directory
        self._records = records
        self._claim_check = claim_check
        self._send = send
        self._clock = clock or SystemClock()
        self._swept = ""

    async def begin(self, workflow: Workflow, workflow_id: str, reply_to: ReplyAddress | None = None) -> WorkflowRun:
        """Stores a workflow and starts its first steps; the same id again returns what is there.

        Raises:
            UnknownAgent, AgentDisabled: The detail names the step; nothing was stored.
            OperationConflict: The id was used before with another workflow.
            TransientError: It may have been stored, if storage is down: begin it again with the same id.
        """
        fingerprint = fingerprint_of(workflow_id, json.loads(workflow.model_dump_json()))
        known = await self._records.look(workflow_id)
        if known is None:
            now = self._clock.now()
            # Who waits for the answer is told at once; a message can wait for a registry that is as new as itself.
            await self._check_agents(workflow, None if reply_to is None else now)
            run = begun(workflow_id, workflow, now, reply_to)
            record = WorkflowRecord(workflow_id, fingerprint, run.model_dump_json().encode())
            known = await self._records.open(record, now + LOOK)
        if known.fingerprint != fingerprint:
            raise OperationConflict(
                f"Workflow {workflow_id!r} was begun before with other steps or inputs; use a new id."
            )
        before = _run(known)
        if reply_to is not None:
            before = await self._asked(before, reply_to)
            if before.settled:
                await self._tell(before, reply_to, await self.view(before))
                return before
        try:
            return await self.advance(workflow_id)
        except TransientError as error:
            # It is stored: the sweep goes on with it.
            log.warning("workflow %s waits: %s", workflow_id, error.detail)
            return before

    async def advance(self, workflow_id: str) -> WorkflowRun:
        """Looks how the operations of the steps are, starts those whose turn it is, and tells who asked how it ended.

        Any process may call it at any time.

        Raises:
            UnknownWorkflow: There is none.
            TransientError: Something is down; the sweep, or the message delivered again, goes on.
        """
        refused: dict[str, Ending] = {}
        while True:
            run = await self._step(workflow_id, refused)
            refused = await self._carry_out(run)
            if not refused:
                break
        while run.final and not run.running and not run.settled:
            run = await self._tell_all(run)
        return run

    async def known(self, workflow_id: str) -> bool:
        """Whether it was begun."""
        return await self._records.look(workflow_id) is not None

    async def status(self, workflow_id: str) -> WorkflowRun:
        """The workflow as stored.

        Raises:
            UnknownWorkflow: There is none.
        """
        return _run(await self._record(workflow_id))

    async def cancel(self, workflow_id: str, by: str) -> WorkflowRun:
        """Ends a workflow as cancelled: what has not begun never will, what runs is cancelled.

        Raises:
            UnknownWorkflow: There is none.
            OperationFinal: It ended before.
        """

        def cancelled(run: WorkflowRun) -> WorkflowRun:
            if run.final:
                return run
            why = Failure("cancelled", "The workflow was cancelled.", f"By {by}.")
            return stopped(run, "cancelled", why, self._clock.now())

        run = await self._change(workflow_id, cancelled)
        if run.status != "cancelled":
            raise OperationFinal(f"Workflow {workflow_id!r} ended as {run.status}; there is nothing to cancel.")
        return await self.advance(workflow_id)

    async def sweep(self) -> None:
        """Takes up workflows that a dead process left behind, and applies deadlines.

        Raises:
            TransientError: Storage is down; the next sweep goes on from there.
        """
        ends = self._clock.now() + PATIENCE
        while True:
            due = await self._records.due(self._clock.now(), SWEEP, self._swept)
            await _gathered(self._look_at, due)
            # What stays where it is, because its workflow may be on its way, must not keep the sweep from the others.
            self._swept = due[-1][0] if len(due) == SWEEP else ""
            if not self._swept or self._clock.now() >= ends:
                return

    async def _look_at(self, entry: tuple[str, str, float]) -> None:
        """Takes a workflow up that is due; its row, its id, and since when."""
        row, workflow_id, since = entry
        now = self._clock.now()
        usual = next_look(workflow_id, now, LOOK)
        again: float | None = usual
        try:
            run = await self.advance(workflow_id)
            if run.settled:
                again = None
            elif not run.final:
                again = max(now + 1.0, min(usual, run.deadline))
        except UnknownWorkflow:
            if now - since < UNFINISHED:
                return
            again = None
        except TransientError as error:
            log.warning("workflow %s waits: %s", workflow_id, error.detail)
        except AosError as error:
            log.error("workflow %s: %s", workflow_id, error.detail)
        except Exception:
            # Its row cannot be read, or nobody foresaw this: it must not keep the sweep from the others.
            log.exception("workflow %s", workflow_id)
        if again is not None:
            await self._records.put_due(workflow_id, again)
        await self._records.forget_due(row)

    async def view(self, run: WorkflowRun) -> dict[str, Any]:
        """The body of `GET workflows/{workflow_id}`, and of `aos.workflow.result`."""
        replies = await self._replies(run, [name for name, step in run.steps.items() if step.status == "completed"])
        ended = run.updated_at if run.final else self._clock.now()
        view: dict[str, Any] = {
            "workflow_id": run.workflow_id,
            "workflow_name": run.workflow.workflow_name,
            "status": run.status,
            "created_at": time_view(run.created_at),
            "updated_at": time_view(run.updated_at),
            "deadline": time_view(run.deadline),
            "execution_time_ms": round((ended - run.created_at) * 1000),
            "steps": [_step_view(run, step) for step in run.workflow.steps],
            "outputs": replies,
        }
        return view if run.error is None else view | {"error": _error_view(run.error)}

    async def _asked(self, run: WorkflowRun, address: ReplyAddress) -> WorkflowRun:
        """Has somebody told how a workflow ends that may have been begun for somebody else."""
        if run.settled or address in run.addresses:
            return run
        if len(run.addresses) >= MOST_ASKING:
            raise StorageUnavailable(
                f"{len(run.addresses)} wait for workflow {run.workflow_id!r} already.",
                code="many_ask",
                retry_after=60.0,
            )
        return await self._change(run.workflow_id, lambda now: now if now.settled else asked_by(now, address))

    async def _check_agents(self, workflow: Workflow, since: float | None) -> None:
        for step in workflow.steps:
            try:
                await self._directory.enabled_entry(step.agent_id, since=since)
            except TransientError:
                raise
            except AosError as error:
                raise type(error)(f"step {step.id!r}: {error.detail}") from None

    # --- one step

    async def _step(self, workflow_id: str, refused: Mapping[str, Ending]) -> WorkflowRun:
        """The workflow with what is known of its operations, saved."""
        for _ in range(TRIES):
            record = await self._record(workflow_id)
            run = _run(record)
            endings = {**await self._endings(run), **refused}
            operations = {step.id: operation_id(workflow_id, step) for step in run.workflow.steps}
            after = advanced(run, endings, operations, self._clock.now())
            if after is run or await self._saved(record, after):
                return after
        raise StorageUnavailable(f"Workflow {workflow_id!r} is changed all the time; try again.", retry_after=1.0)

    async def _change(self, workflow_id: str, change: Callable[[WorkflowRun], WorkflowRun]) -> WorkflowRun:
        for _ in range(TRIES):
            record = await self._record(workflow_id)
            run = _run(record)
            after = change(run)
            if after == run or await self._saved(record, after):
                return after
        raise StorageUnavailable(f"Workflow {workflow_id!r} is changed all the time; try again.", retry_after=1.0)

    async def _saved(self, record: WorkflowRecord, run: WorkflowRun) -> bool:
        try:
            await self._records.save(replace(record, data=run.model_dump_json().encode()))
        except Conflict:
            # Steps that end together meet here.
            await self._clock.sleep(random.uniform(0.0, 0.1))  # noqa: S311 - no secret
            return False
        return True

    async def _record(self, workflow_id: str) -> WorkflowRecord:
        record = await self._records.look(workflow_id)
        if record is None:
            raise UnknownWorkflow(f"No workflow {workflow_id!r}: it never existed, or ended more than 7 days ago.")
        return record

    async def _endings(self, run: WorkflowRun) -> dict[str, Ending]:
        names = list(run.running)
        operations = await _gathered(self._operation, [run.steps[name].operation_id for name in names])
        endings: dict[str, Ending] = {}
        for name, operation in zip(names, operations, strict=True):
            if operation is None:
                if run.final:
                    endings[name] = Ending(status="cancelled")
            elif operation.status in ("completed", "failed", "cancelled"):
                endings[name] = Ending(status=operation.status, error=operation.error)
        return endings

    async def _operation(self, operation_id: str) -> Operation | None:
        try:
            return await self._kernel.operation(operation_id)
        except UnknownOperation:
            return None

    # --- what follows

    async def _carry_out(self, run: WorkflowRun) -> dict[str, Ending]:
        """Starts the operations of running steps, or has them ended; those that can never start."""
        if run.final:
            await _gathered(self._cancel, [step.operation_id for step in run.running.values()])
            return {}
        steps = [run.workflow.step(name) for name in run.running]

        async def start(step: Step) -> Ending | None:
            try:
                await self._start(run, step)
            except TransientError:
                raise
            except AosError as error:
                return Ending(status="failed", error=Failure(error.code, error.title, error.detail))
            return None

        ended = await _gathered(start, steps)
        return {step.id: ending for step, ending in zip(steps, ended, strict=True) if ending is not None}

    async def _start(self, run: WorkflowRun, step: Step) -> None:
        """Accepts the message of a step, unless it was accepted before."""
        name = run.steps[step.id].operation_id
        if await self._operation(name) is not None:
            return
        now = self._clock.now()
        named = [each.id for each in run.workflow.steps if each.id in step.dependencies]
        text = rendered(step, run.workflow.inputs, await self._texts(run, named))
        await self._directory.enabled_entry(step.agent_id, since=now)
        bound = self._directory.bound(step.agent_id)
        message = Message(
            name,
            text,
            now,
            now + self._kernel.options.turn,
            event_type="workflow",
            reply_to=ReplyAddress(AGENT_COMMANDS, workflow=run.workflow_id),
        )
        key = ConversationKey(step.agent_id, f"c_{name[3:]}")
        fingerprint = fingerprint_of(run.workflow_id, step.id, step.agent_id, text)
        deployment = None if bound is None else bound.ref.deployment
        operation, _ = await self._kernel.accept(key, message, fingerprint, fresh=True, deployment=deployment)
        if (await self.status(run.workflow_id)).final:
            # It was cancelled, or failed, while this was accepted.
            await self._cancel(name)
            return
        try:
            await self._kernel.wake(operation)
        except TransientError as error:
            log.warning("the sweep has to wake step %s of workflow %s: %s", step.id, run.workflow_id, error.detail)

    async def _cancel(self, operation_id: str) -> None:
        try:
            await self._kernel.cancel(operation_id, "workflow")
        except (OperationFinal, UnknownOperation):
            return

    async def _tell_all(self, run: WorkflowRun) -> WorkflowRun:
        """Sends the result to who asked over the bus, and records to whom: a queue that is full holds up its own alone.

        Raises:
            TransientError: Some could not be told; the others were.
        """
        view = await self.view(run)
        told: list[int] = []
        waits: list[TransientError] = []
        for place, address in enumerate(run.addresses):
            if place not in run.reached:
                try:
                    await self._tell(run, address, view)
                    told.append(place)
                except TransientError as error:
                    waits.append(error)
        if told or not waits:
            run = await self._change(run.workflow_id, lambda now: has_told(now, told))
        if waits:
            raise waits[0]
        return run

    async def _tell(self, run: WorkflowRun, address: ReplyAddress, view: dict[str, Any]) -> None:
        """Sends the result to somebody. Sent twice, it carries the same id, which is nobody else's."""
        name = f"{run.workflow_id}.result"
        if address != run.reply_to:
            name += f".{table_key(address.entity, address.correlation_id or '', address.session_id or '')}"
        message = answer(address, name, WORKFLOW_RESULT, view, run.updated_at)
        message = replace(message, body=await self._claim_check.pack(message.body, "messages"))
        try:
            await self._send([message])
        except UnknownEntity as error:
            log.warning("result of workflow %s parked: %s", run.workflow_id, error.detail)
            await self._send([undeliverable(message, error.detail)])

    # --- what was answered

    async def _texts(self, run: WorkflowRun, names: Sequence[str]) -> dict[str, str]:
        """What stands for the replies of steps in the message of another one."""
        replies = await self._replies(run, names)
        texts: dict[str, str] = {}
        for name in names:
            error = run.steps[name].error
            missing = f"[step {name} gave no reply: {error.code if error else run.steps[name].status}]"
            texts[name] = replies.get(name) or missing
        return texts

    async def _replies(self, run: WorkflowRun, names: Sequence[str]) -> dict[str, str]:
        done = [name for name in names if run.steps[name].status == "completed"]
        operations = await _gathered(self._operation, [run.steps[name].operation_id for name in done])
        return {
            name: operation.reply
            for name, operation in zip(done, operations, strict=True)
            if operation is not None and operation.reply is not None
        }


def operation_id(workflow_id: str, step: Step) -> str:
    """The id of a step's operation: always the same."""
    return derive_operation_id("workflow", workflow_id, step.agent_id, step.id)


def derive_workflow_id(caller: str, key: str | None) -> str:
    """`wf_` and 26 characters: derived from the caller's key, or random without one."""
    return "wf_" + derive_operation_id("workflow", caller, "", key)[3:]


async def _gathered(work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """Does the same with all items, some of them at the same time; lets all end, and raises the first error."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with gate:
            return await work(item)

    results = await asyncio.gather(*map(one, items), return_exceptions=True)
    found: list[R] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


def _run(record: WorkflowRecord) -> WorkflowRun:
    return WorkflowRun.model_validate_json(record.data)


def _step_view(run: WorkflowRun, step: Step) -> dict[str, Any]:
    state = run.steps[step.id]
    view: dict[str, Any] = {
        "id": step.id,
        "agent_id": step.agent_id,
        "status": state.status,
        "depends_on": sorted(step.dependencies),
    }
    if state.operation_id:
        view["operation_id"] = state.operation_id
    if state.started_at is not None:
        view["started_at"] = time_view(state.started_at)
    if state.ended_at is not None:
        view["ended_at"] = time_view(state.ended_at)
    return view if state.error is None else view | {"error": _error_view(state.error)}


def _error_view(error: Failure) -> dict[str, str]:
    return {"code": error.code, "title": error.title, "detail": error.detail}
