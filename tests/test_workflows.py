"""Workflows with real agents and tables; the bus is written down and played by the test."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from azure.data.tables import UpdateMode

from aos.config import Settings
from aos.errors import (
    AgentDisabled,
    BusUnavailable,
    FoundryUnavailable,
    OperationConflict,
    OperationFinal,
    StorageUnavailable,
    UnknownAgent,
)
from aos.kernel.records import replace
from aos.kernel.types import ReplyAddress
from aos.messaging.bus import Outbound
from aos.orchestration.workflow import Workflow
from aos.orchestration.workflow_run import WorkflowRun
from aos.storage.account import StorageAccount
from aos.storage.rows import table_key
from aos.storage.workflows import ROW, TABLE, WorkflowRecord, WorkflowRecords
from aos.workflows import LOOK, MOST_ASKING, UNFINISHED, UnknownWorkflow, WorkflowRunner, operation_id
from emulators.foundry import FoundryEmulator
from tests.agents.office import Office, agent_entry
from tests.foundry.project import Project, running
from tests.test_intake import House

ASKER = ReplyAddress("partner-responses", "c-1", requester="partner")


@pytest.fixture(scope="module")
async def project() -> AsyncIterator[Project]:
    async with running(FoundryEmulator()) as project:
        yield project


@pytest.fixture(scope="module")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


class Died(BaseException):
    """The process is no more."""


class Mortal(WorkflowRecords):
    """Dies before or after a write, or before or after a message was sent, when its time has come."""

    def __init__(self, account: StorageAccount, office: Office, dies_at: int) -> None:
        super().__init__(account, office.payloads)
        self.office, self.dies_at, self.points = office, dies_at, 0

    def point(self) -> None:
        self.points += 1
        if self.points == self.dies_at:
            raise Died

    async def open(self, record: WorkflowRecord, look_at: float) -> WorkflowRecord:
        opened = await super().open(record, look_at)
        self.point()
        return opened

    async def save(self, record: WorkflowRecord) -> None:
        self.point()
        await super().save(record)
        self.point()

    async def send(self, messages: Sequence[Outbound]) -> None:
        self.point()
        await self.office.send(messages)
        self.point()


class Works:
    """A runner, and everything around it."""

    def __init__(self, house: House, account: StorageAccount) -> None:
        self.house, self.office, self.account = house, house.office, account
        self.runner = self.process(WorkflowRecords(account, self.office.payloads))

    def process(self, records: WorkflowRecords) -> WorkflowRunner:
        """Another process."""
        send = records.send if isinstance(records, Mortal) else self.office.send
        house = self.house
        runner = WorkflowRunner(
            house.kernel, self.office.directory, records, house.claim_check, send, self.office.clock
        )
        self.house.intake.workflows = runner
        return runner

    async def pump(self) -> int:
        """Delivers what AOS sent to itself, until nothing comes any more."""
        delivered = 0
        while commands := self.house.take("agent-commands"):
            for command in commands:
                await self.house.deliver(command)
                delivered += 1
        return delivered

    async def done(self, workflow: Workflow, workflow_id: str | None = None, **more: Any) -> WorkflowRun:
        workflow_id = workflow_id or uuid.uuid4().hex
        await self.runner.begin(workflow, workflow_id, **more)
        await self.pump()
        return await self.runner.status(workflow_id)

    async def told(self, step_id: str, run: WorkflowRun) -> str:
        """What the agent of a step was told."""
        name = run.steps[step_id].operation_id
        (said,) = await self.house.said(f"c_{name[3:]}")
        return said


@pytest.fixture
async def works(tmp_path: Path, project: Project, account: StorageAccount) -> AsyncIterator[Works]:
    office = Office(tmp_path, project, account)
    office.write(agent_entry("cfo"), agent_entry("cto", enabled=False))
    house = House(office)
    yield Works(house, account)
    await house.kernel.close(1)


def flow(*steps: dict[str, Any], **more: Any) -> Workflow:
    return Workflow.model_validate({"steps": [{"agent_id": "cfo", **step} for step in steps], **more})


DIAMOND = (
    {"id": "a", "message": "@say one"},
    {"id": "b", "message": "@say two after {{steps.a.reply}}"},
    {"id": "c", "message": "@say three after {{steps.a.reply}}"},
    {"id": "d", "message": "@say {{steps.b.reply}} and {{steps.c.reply}} for {{inputs.who}}"},
)


async def test_a_workflow_is_driven_by_the_ends_of_its_steps(works: Works) -> None:
    run = await works.done(flow(*DIAMOND, inputs={"who": "us"}, workflow_name="Diamond"))
    assert run.status == "completed"
    view = await works.runner.view(run)
    assert view["outputs"]["d"] == "two after one and three after one for us"
    assert [step["status"] for step in view["steps"]] == ["completed"] * 4
    assert (view["workflow_name"], view["steps"][3]["depends_on"]) == ("Diamond", ["b", "c"])
    assert run.settled


async def test_the_same_workflow_again_is_one(works: Works) -> None:
    steps = flow({"id": "a", "message": "@say once"})
    run = await works.done(steps, "w-same")
    assert await works.runner.begin(steps, "w-same") == run
    assert await works.pump() == 0
    with pytest.raises(OperationConflict, match="w-same"):
        await works.runner.begin(flow({"id": "a", "message": "@say twice"}), "w-same")


async def test_what_is_stored_is_begun_though_nobody_can_take_it_up_now(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = works.house
    project = works.office.project
    await works.done(flow({"id": "a", "message": "@say warm"}))
    breaker = house.kernel.breakers.of((await works.office.directory.bind("cfo")).ref.deployment)
    await project.fail(503, "", times=1000)
    now = works.office.clock.now()
    with monkeypatch.context() as patch:
        patch.setattr(works.office.clock, "now", lambda: now)  # or the breaker's pause might be over too soon
        for _ in range(5):
            with suppress(FoundryUnavailable), breaker.guard():
                raise FoundryUnavailable("down", sent=False)
        run = await works.runner.begin(flow({"id": "a", "message": "@say later"}), "w-later")
    assert (run.status, house.take("agent-commands")) == ("running", [])
    await project.heal()
    works.office.clock.shift += 2 * LOOK
    await works.runner.sweep()
    await works.pump()
    assert (await works.runner.status("w-later")).status == "completed"


async def test_who_cannot_do_a_step_is_named_and_nothing_is_begun(works: Works) -> None:
    good = {"id": "a", "message": "@say one"}
    with pytest.raises(UnknownAgent, match=r"step 'b'.*nobody"):
        await works.runner.begin(flow(good, {"id": "b", "message": "x", "agent_id": "nobody"}), "w-unknown")
    with pytest.raises(AgentDisabled, match="step 'b'"):
        await works.runner.begin(flow(good, {"id": "b", "message": "x", "agent_id": "cto"}), "w-unknown")
    with pytest.raises(UnknownWorkflow):
        await works.runner.status("w-unknown")


async def test_a_failing_step_ends_it_or_not_as_it_says(works: Works) -> None:
    failing = {"id": "a", "message": "@fail content_filter"}
    after = {"id": "b", "message": "@say so\nabout {{steps.a.reply}}"}
    run = await works.done(flow(failing, after))
    assert run.error is not None
    assert (run.status, run.steps["b"].status) == ("failed", "skipped")
    assert run.error.detail.startswith("step 'a' of agent cfo: ")
    run = await works.done(flow({**failing, "on_error": "continue"}, after))
    assert (run.status, run.steps["a"].status, run.steps["b"].status) == ("completed", "failed", "completed")
    assert "[step a gave no reply: " in await works.told("b", run)


async def test_an_agent_that_is_disabled_meanwhile_fails_its_step(works: Works) -> None:
    await works.runner.begin(
        flow({"id": "a", "message": "@say one"}, {"id": "b", "message": "{{steps.a.reply}}"}), "w-off"
    )
    works.office.write(agent_entry("cfo", enabled=False))
    await works.office.directory.reload()
    await works.pump()
    run = await works.runner.status("w-off")
    assert run.error is not None
    assert (run.status, run.error.code) == ("failed", "agent_disabled")


async def test_who_asked_over_the_bus_is_told_once_it_ended(works: Works) -> None:
    steps = flow({"id": "a", "message": "@say one"})
    await works.runner.begin(steps, "w-told", ASKER)
    assert works.house.take(ASKER.entity) == []
    await works.pump()
    (result,) = works.house.take(ASKER.entity)
    body = json.loads(result.body)
    assert (body["header"]["message_type"], body["header"]["correlation_id"]) == ("aos.workflow.result", "c-1")
    assert (body["payload"]["status"], body["payload"]["outputs"]) == ("completed", {"a": "one"})
    await works.runner.begin(steps, "w-told", ASKER)
    (again,) = works.house.take(ASKER.entity)
    assert again.message_id == result.message_id


async def test_everybody_who_asked_for_it_meanwhile_is_told(works: Works) -> None:
    steps = flow({"id": "a", "message": "@say one"})
    again = ReplyAddress(ASKER.entity, "c-2", requester=ASKER.requester)
    await works.runner.begin(steps, "w-shared")  # over HTTP
    for address in (ASKER, again, ASKER, again):
        await works.runner.begin(steps, "w-shared", address)
    assert works.house.take(ASKER.entity) == []
    await works.pump()
    told = works.house.take(ASKER.entity)
    assert [result.correlation_id for result in told] == ["c-1", "c-2"]
    assert len({result.message_id for result in told}) == 2, "or duplicate detection would drop one"
    assert (await works.runner.status("w-shared")).settled


async def test_who_asks_while_others_are_told_is_told_too(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = flow({"id": "a", "message": "@say one"})
    late = ReplyAddress(ASKER.entity, "c-2", requester=ASKER.requester)
    await works.runner.begin(steps, "w-late-asker", ASKER)
    tell = works.runner._tell

    async def slow(run: WorkflowRun, address: ReplyAddress, view: dict[str, Any]) -> None:
        await tell(run, address, view)
        if late not in run.addresses:
            await works.runner.begin(steps, "w-late-asker", late)

    monkeypatch.setattr(works.runner, "_tell", slow)
    await works.pump()
    assert "c-2" in {result.correlation_id for result in works.house.take(ASKER.entity)}
    assert (await works.runner.status("w-late-asker")).settled


async def test_no_more_are_told_than_there_is_room_for(works: Works) -> None:
    steps = flow({"id": "a", "message": "@say one"})
    for number in range(MOST_ASKING):
        await works.runner.begin(steps, "w-many", replace(ASKER, correlation_id=str(number)))
    one_more = replace(ASKER, correlation_id="one more")
    with pytest.raises(StorageUnavailable, match="16 wait"):
        await works.runner.begin(steps, "w-many", one_more)
    await works.pump()
    told = works.house.take(ASKER.entity)
    assert len(told) == MOST_ASKING
    for _ in range(2):  # the message comes twice
        await works.runner.begin(steps, "w-many", one_more)
    late, again = works.house.take(ASKER.entity)
    assert late.correlation_id == again.correlation_id == "one more"
    assert late.message_id == again.message_id
    assert late.message_id not in {result.message_id for result in told}, "or duplicate detection would drop it"


async def test_an_asker_whose_queue_is_full_holds_no_other_one_up(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = flow({"id": "a", "message": "@say one"})
    for entity in ("full-responses", ASKER.entity):
        await works.runner.begin(steps, "w-full", replace(ASKER, entity=entity))
    send = works.runner._send

    async def full(messages: Sequence[Outbound]) -> None:
        if any(message.entity == "full-responses" for message in messages):
            raise BusUnavailable("The quota of the queue has been exceeded.")
        await send(messages)

    with monkeypatch.context() as patch:
        patch.setattr(works.runner, "_send", full)
        for _ in range(3):  # what is put off comes again and again
            for command in works.house.take("agent-commands"):
                await works.house.deliver(command)
        works.house.take("agent-commands")
        (result,) = works.house.take(ASKER.entity)
        works.office.clock.shift += LOOK + 1
        await works.runner.sweep()
    assert works.house.take(ASKER.entity) == [], "who was told is not told again and again"
    assert not (await works.runner.status("w-full")).settled
    works.office.clock.shift += LOOK + 1
    await works.runner.sweep()
    (late,) = works.house.take("full-responses")
    assert late.message_id != result.message_id
    assert (await works.runner.status("w-full")).settled


async def test_what_is_cancelled_ends_with_its_steps(works: Works) -> None:
    first = await works.runner.begin(flow(*DIAMOND, inputs={"who": "us"}), "w-cancel")
    run = await works.runner.cancel("w-cancel", "somebody")
    assert run.status == "cancelled"
    await works.pump()
    run = await works.runner.status("w-cancel")
    assert [step.status for step in run.steps.values()] == ["cancelled", "skipped", "skipped", "skipped"]
    assert (await works.house.kernel.operation(first.steps["a"].operation_id)).status == "cancelled"
    assert (await works.runner.cancel("w-cancel", "somebody")).status == "cancelled"
    await works.done(flow({"id": "a", "message": "@say one"}), "w-over")
    with pytest.raises(OperationFinal):
        await works.runner.cancel("w-over", "somebody")


async def test_a_deadline_is_applied_by_the_sweep(works: Works) -> None:
    steps = flow({"id": "a", "message": "@say one"}, options={"deadline_seconds": 20})
    await works.runner.begin(steps, "w-late")
    works.house.take("agent-commands")  # nobody drives it
    works.office.clock.shift += LOOK + 1
    await works.runner.sweep()
    await works.pump()
    run = await works.runner.status("w-late")
    assert run.error is not None
    assert (run.status, run.error.code, run.steps["a"].status) == ("failed", "deadline_exceeded", "cancelled")


async def test_those_that_wait_do_not_keep_the_sweep_from_the_others(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aos.workflows.SWEEP", 2)
    for number in range(5):
        seconds = 20 if number == 4 else 3600
        steps = flow({"id": "a", "message": "@say one"}, options={"deadline_seconds": seconds})
        await works.runner.begin(steps, f"w-waits-{number}")
        works.office.clock.shift += 0.1
    works.house.take("agent-commands")  # nobody drives them
    works.office.clock.shift += LOOK + 1
    await works.runner.sweep()
    assert (await works.runner.status("w-waits-4")).status == "failed"
    for number in range(4):
        await works.runner.cancel(f"w-waits-{number}", "me")
    await works.pump()


async def test_rows_whose_workflow_never_came_hold_up_no_other(
    works: Works, account: StorageAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aos.workflows.SWEEP", 2)
    records = WorkflowRecords(account, works.office.payloads)
    for number in range(5):
        await records.put_due(f"w-never-{number}", works.office.clock.now() + LOOK - 1)
    await works.runner.begin(flow({"id": "a", "message": "@say one"}, options={"deadline_seconds": 20}), "w-behind")
    works.house.take("agent-commands")  # nobody drives it
    works.office.clock.shift += LOOK + 1
    await works.runner.sweep()
    assert (await works.runner.status("w-behind")).status == "failed"
    await works.pump()
    works.office.clock.shift += UNFINISHED
    await works.runner.sweep()
    assert not [found for _, found, _ in await records.due(works.office.clock.now(), 1000) if "w-never" in found]


async def test_a_workflow_that_cannot_be_read_holds_up_no_other(
    works: Works, account: StorageAccount, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("w-unreadable", "w-readable"):
        await works.runner.begin(flow({"id": "a", "message": "@say one"}, options={"deadline_seconds": 20}), name)
        works.office.clock.shift += 0.1
    works.house.take("agent-commands")  # nobody drives them
    table = await account.table(TABLE)
    row = {"PartitionKey": table_key("w-unreadable"), "RowKey": ROW, "fingerprint": "f"}
    await table.upsert_entity({**row, "data": '{"status": "of a newer version"}'}, mode=UpdateMode.REPLACE)
    works.office.clock.shift += LOOK + 1
    await works.runner.sweep()
    await works.pump()
    assert (await works.runner.status("w-readable")).status == "failed"
    assert "w-unreadable" in caplog.text
    await table.delete_entity(row["PartitionKey"], ROW)


async def test_a_process_may_die_anywhere_in_a_workflow(works: Works) -> None:
    steps, dies_at = flow(*DIAMOND, inputs={"who": "us"}), 0
    while True:
        dies_at += 1
        records = Mortal(works.account, works.office, dies_at)
        works.process(records)
        name, died = f"w-dies-{uuid.uuid4().hex}", False
        try:
            await works.house.intake.workflows.begin(steps, name, ASKER)  # type: ignore[union-attr]
            await works.pump()
        except Died:
            died = True
        works.runner = works.process(WorkflowRecords(works.account, works.office.payloads))
        for _ in range(8):
            works.office.clock.shift += LOOK + 1
            await works.runner.sweep()
            await works.house.kernel.sweep()
            await works.pump()
            run = await works.runner.status(name)
            if run.settled:
                break
        assert (run.status, run.settled) == ("completed", True), f"died at {dies_at}"
        assert (await works.runner.view(run))["outputs"]["d"] == "two after one and three after one for us"
        assert [run.steps[step.id].operation_id for step in steps.steps] == [operation_id(name, s) for s in steps.steps]
        results = works.house.take(ASKER.entity)
        assert len({message.message_id for message in results}) == 1
        if not died:
            break
    assert dies_at > 8, "it never died"


async def test_processes_that_sweep_at_the_same_time_leave_one_look_at_a_workflow(works: Works) -> None:
    name = f"w-{uuid.uuid4().hex}"
    await works.runner.begin(flow({"id": "a", "message": "@say one"}), name)
    works.house.take("agent-commands")  # nobody drives it
    records = WorkflowRecords(works.account, works.office.payloads)
    others = [works.process(WorkflowRecords(works.account, works.office.payloads)) for _ in range(2)]
    for _ in range(4):
        works.office.clock.shift += 2 * LOOK
        await asyncio.gather(*(runner.sweep() for runner in [works.runner, *others]))
    looks = await records.due(works.office.clock.now() + 1e6, 10_000)
    await works.runner.cancel(name, "me")
    await works.pump()
    # Two where the processes were on both sides of the moment from which on the next but one counts.
    assert len([row for row, workflow_id, _ in looks if workflow_id == name]) <= 2
