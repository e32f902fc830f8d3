"""Workflows and messages that name no agent, against the whole of AOS; with a host that is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from aos.kernel.points import FAULT_POINT
from tests.e2e.faults import CLERK, LOCKS, QUICK
from tests.e2e.harness import PATIENCE, ROOT, World, world

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


@pytest_asyncio.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A running AOS that may be killed."""
    state: Path = tmp_path_factory.mktemp("workflows")
    async with world(state, QUICK, agents=[CLERK], bus_locks=LOCKS) as running:
        yield running


def example() -> dict[str, Any]:
    """The workflow that the documentation shows."""
    text = (ROOT / "docs/workflows.md").read_text()
    body: dict[str, Any] = json.loads(text.split("```json")[1].split("```")[0])
    return body


async def begun(own: World, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    response = await own.app.http.post("workflows", json=body, headers={"Idempotency-Key": key or uuid.uuid4().hex})
    assert response.status_code in (200, 202), response.text
    view: dict[str, Any] = response.json()
    if response.status_code == 202:
        assert response.headers["location"] == f"/api/workflows/{view['workflow_id']}"
    return view


async def begun_at_last(own: World, body: dict[str, Any]) -> dict[str, Any]:
    """As somebody begins one whose connection breaks: under the same key until it is answered."""
    key = uuid.uuid4().hex
    while True:
        with suppress(httpx2.TransportError):
            response = await own.app.http.post("workflows", json=body, headers={"Idempotency-Key": key})
            if response.status_code != 503:
                assert response.status_code in (200, 202), response.text
                view: dict[str, Any] = response.json()
                return view
        await asyncio.sleep(0.1)


async def ended(own: World, view: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
    return await own.app.until(
        f"workflows/{view['workflow_id']}", lambda body: body.get("status") != "running", seconds
    )


async def test_the_example_of_the_documentation_runs(own: World) -> None:
    key = uuid.uuid4().hex
    view = await ended(own, await begun(own, example(), key))
    assert view["status"] == "completed", view
    assert all(view["outputs"][step["id"]] for step in view["steps"])
    again = await begun(own, example(), key)
    assert (again["workflow_id"], again["status"]) == (view["workflow_id"], "completed")
    operation = (await own.app.http.get(f"operations/{view['steps'][0]['operation_id']}")).json()
    assert operation["reply"] == view["outputs"][view["steps"][0]["id"]]


async def test_faults_are_told_and_nothing_is_begun(own: World) -> None:
    step = {"id": "a", "agent_id": "ceo", "message": "@say one"}
    response = await own.app.http.post("workflows", json={"steps": [{**step, "depends_on": ["a"]}]})
    assert response.status_code == 422
    assert "step 'a': waits for itself" in response.text
    response = await own.app.http.post("workflows", json={"steps": [{**step, "agent_id": "nobody"}]})
    assert (response.status_code, response.json()["code"]) == (404, "unknown_agent")
    assert (await own.app.http.get("workflows/w-none")).status_code == 404
    assert (await own.app.http.delete("workflows/w-none")).status_code == 404


async def test_one_that_is_cancelled_ends_with_its_step(own: World) -> None:
    entry = {"account": "6400", "amount": 250, "description": uuid.uuid4().hex, "date": "2025-11-03"}
    record = f"@tool company-ledger_record_transaction {json.dumps(entry)}"
    steps = [
        {"id": "a", "agent_id": "clerk", "message": record},
        {"id": "b", "agent_id": "ceo", "message": "@say x", "depends_on": ["a"]},
    ]
    view = await begun(own, {"steps": steps})
    operation = f"operations/{view['steps'][0]['operation_id']}"
    await own.app.until(operation, lambda body: body.get("waiting_on") == "approval")
    response = await own.app.http.delete(f"workflows/{view['workflow_id']}")
    assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    assert [step["status"] for step in response.json()["steps"]][1] == "skipped"
    await own.app.until(operation, lambda body: body["status"] == "cancelled")
    finished = {"steps": [{"id": "a", "agent_id": "ceo", "message": "@say one"}]}
    view = await ended(own, await begun(own, finished))
    assert (await own.app.http.delete(f"workflows/{view['workflow_id']}")).status_code == 409


async def test_over_the_bus(own: World) -> None:
    header = {
        "message_id": uuid.uuid4().hex,
        "timestamp": datetime.now(UTC).isoformat(),
        "source": "businessinfinity",
        "message_type": "aos.workflow.execute",
    }
    steps = [
        {"id": "a", "agent_id": "ceo", "message": "@say one"},
        {"id": "b", "agent_id": "cfo", "message": "@say after {{steps.a.reply}}"},
    ]
    await own.client.send("aos-requests", {"header": header, "payload": {"workflow_name": "two", "steps": steps}})
    answer = json.loads(str(await own.client.receive()))
    assert (answer["header"]["message_type"], answer["payload"]["status"]) == ("aos.workflow.result", "completed")
    assert answer["payload"]["outputs"] == {"a": "one", "b": "after one"}


async def test_a_host_that_is_killed_in_the_middle_of_workflows_loses_none(own: World) -> None:
    def chain(length: int) -> list[dict[str, Any]]:
        before = [""] + [f" {{{{steps.s{n}.reply}}}}" for n in range(length)]
        return [{"id": f"s{n}", "agent_id": "ceo", "message": f"@say {n}{before[n]}"} for n in range(length)]

    dies = {FAULT_POINT: "after-model-step"}
    await own.app.kill()
    await own.app.restart(dies)
    async with asyncio.TaskGroup() as callers:
        beginning = [callers.create_task(begun_at_last(own, {"steps": chain(6)})) for _ in range(3)]
        for more in (dies, None):
            assert await asyncio.wait_for(own.app.child.wait(), PATIENCE) == 128 + 9
            await own.app.restart(more)
    views = [task.result() for task in beginning]
    for view in views:
        final = await ended(own, view, 90)
        assert final["status"] == "completed", final
        assert final["outputs"]["s5"] == "5 4 3 2 1 0"
        names = {step["operation_id"] for step in final["steps"]}
        assert len(names) == 6


async def test_a_message_that_names_no_agent_finds_one(own: World) -> None:
    message = '@say {"agent_id": "cfo", "reason": "It is about money."}'
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    response = await own.app.http.post("query", json={"message": message}, headers=headers)
    body = response.json()
    assert (response.status_code, body["routed_to"], body["reason"]) == (200, "cfo", "It is about money."), body
    again = (await own.app.http.post("query", json={"message": message}, headers=headers)).json()
    assert (again["operation_id"], again["routed_to"]) == (body["operation_id"], "cfo")
    more = {"message": "@say still here", "conversation_id": body["conversation_id"]}
    answer = (await own.app.http.post("query", json=more)).json()
    assert (answer["routed_to"], answer["routed_by"], answer["reply"]) == ("cfo", "conversation", "still here")
    response = await own.app.http.post("query", json={"message": "@say I do not know"})
    assert (response.status_code, response.json()["code"]) == (404, "no_agent_fits")
