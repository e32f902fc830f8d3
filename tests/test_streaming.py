"""`Accept: text/event-stream` over a real socket: the route, the kernel, and a model that takes its time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from aos.app import routes
from aos.config import Settings, load_settings
from aos.storage.account import StorageAccount
from emulators.foundry import FoundryEmulator
from runtime import AsgiRuntime, Keys, RouteRegistry, RuntimeConfig
from tests.agents.office import Office, agent_entry
from tests.foundry.pacing import PacedModel
from tests.foundry.project import Project, running
from tests.test_intake import House

EVENTS = {"Accept": "text/event-stream"}
Event = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def model() -> PacedModel:
    return PacedModel()


@pytest.fixture(scope="module")
async def project(model: PacedModel) -> AsyncIterator[Project]:
    async with running(FoundryEmulator(model=model)) as project:
        yield project


@pytest.fixture(scope="module")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


@pytest.fixture
async def house(tmp_path: Path, project: Project, account: StorageAccount) -> AsyncIterator[House]:
    office = Office(tmp_path, project, account)
    office.write(agent_entry("cfo"))
    house = House(office)
    yield house
    await house.kernel.close(1)


@pytest.fixture
async def client(house: House, model: PacedModel) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the HTTP routes; consumers and timers do not run."""
    model.go.clear()
    declared = routes(load_settings({}))
    registry = RouteRegistry()
    for route in declared.http_routes:
        registry.register(route.path, route.handler, route.methods, name=route.name)

    async def initialize() -> House:
        return house

    runtime = AsgiRuntime(RuntimeConfig(app_name="test"), registry, initialize, keys=Keys(), settings={})
    serving = asyncio.create_task(runtime.serve(port=0))
    try:
        while runtime.port is None:
            assert not serving.done()
            await asyncio.sleep(0.005)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{runtime.port}/api/", timeout=30) as client:
            yield client
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def asked(
    client: httpx2.AsyncClient, message: str, headers: dict[str, str] | None = None, **more: object
) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a message, as they come."""
    body = {"message": message, **more}
    async with client.stream("POST", "agents/cfo", json=body, headers={**EVENTS, **(headers or {})}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        yield read(response)


async def read(response: httpx2.Response) -> AsyncIterator[Event]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def rest(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def ended(client: httpx2.AsyncClient, path: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            body: dict[str, Any] = (await client.get(path)).json()
            if body["status"] == "completed":
                return body


async def test_the_first_words_come_before_the_last(client: httpx2.AsyncClient, model: PacedModel) -> None:
    async with asked(client, "@say first WAIT last") as events:
        name, operation = await anext(events)
        assert (name, operation["status"]) == ("operation", "queued")
        assert await anext(events) == ("delta", {"text": "first "})
        model.go.set()
        told = await rest(events)
    assert "".join(data["text"] for name, data in told[:-1]) == "WAIT last"
    assert (told[-1][0], told[-1][1]["reply"]) == ("completed", "first WAIT last")
    assert told[-1][1]["operation_id"] == operation["operation_id"]


async def test_the_location_leads_to_the_operation(client: httpx2.AsyncClient) -> None:
    async with client.stream("POST", "agents/cfo", json={"message": "@say yes"}, headers=EVENTS) as response:
        told = await rest(read(response))
    found = await client.get(response.headers["location"].removeprefix("/api/"))
    assert found.json() == told[-1][1]


async def test_one_who_comes_later_hears_the_same(client: httpx2.AsyncClient, model: PacedModel) -> None:
    key = {"Idempotency-Key": "two"}
    async with asked(client, "@say first WAIT last", key) as events:
        _, operation = await anext(events)
        assert await anext(events) == ("delta", {"text": "first "})
        async with asked(client, "@say first WAIT last", key) as others:
            name, same = await anext(others)
            assert (name, same["operation_id"]) == ("operation", operation["operation_id"])
            assert await anext(others) == ("delta", {"text": "first "})
            model.go.set()
            first, second = await asyncio.gather(rest(events), rest(others))
    assert first[-1] == second[-1]
    assert first[-1][1]["reply"] == "first WAIT last"


async def test_a_repeat_of_what_ended_is_told_at_once(client: httpx2.AsyncClient, house: House) -> None:
    key = {"Idempotency-Key": "ended"}
    async with asked(client, "@say done", key) as events:
        told = await rest(events)
    calls = await house.office.project.calls("POST /openai/v1/responses")
    async with asked(client, "@say done", key) as events:
        assert await rest(events) == [("operation", told[-1][1]), ("completed", told[-1][1])]
    assert await house.office.project.calls("POST /openai/v1/responses") == calls


async def test_a_client_that_leaves_does_not_stop_the_turn(
    client: httpx2.AsyncClient, model: PacedModel, house: House
) -> None:
    async with asked(client, "@say first WAIT last") as events:
        _, operation = await anext(events)
        assert await anext(events) == ("delta", {"text": "first "})
    async with asyncio.timeout(30):
        while any(channel._listeners for channel in house.kernel.progress._channels.values()):
            await client.get("agents/cfo/nothing")
    model.go.set()
    assert (await ended(client, f"operations/{operation['operation_id']}"))["reply"] == "first WAIT last"
    await house.kernel.close(1)
    assert not house.kernel.progress._channels


async def test_the_body_may_say_how_long_to_wait(client: httpx2.AsyncClient, model: PacedModel) -> None:
    key = {"Idempotency-Key": "patient"}
    async with asked(client, "@say first WAIT last", key) as events:
        await anext(events)
        assert await anext(events) == ("delta", {"text": "first "})
        async with asked(client, "@say first WAIT last", key, timeout_seconds=0.3) as others:
            told = await rest(others)
    assert [name for name, _ in told if name != "delta"] == ["operation", "waiting"]
    assert told[-1][1]["status"] == "running"
    model.go.set()
    path = told[-1][1]["location"].removeprefix("/api/")
    assert (await ended(client, path))["reply"] == "first WAIT last"


async def test_a_stream_that_broke_in_foundry_is_told_once(
    client: httpx2.AsyncClient, model: PacedModel, house: House
) -> None:
    async with asked(client, "@say first WAIT last") as events:
        await anext(events)
        assert await anext(events) == ("delta", {"text": "first "})
        # The connection to the service breaks, the service goes on: what it said is adopted.
        await house.office.project.adapter.close()
        model.go.set()
        told = await rest(events)
    assert [name for name, _ in told] == ["completed"]
    assert told[-1][1]["reply"] == "first WAIT last"
    assert told[-1][1]["usage"]["adopted"] == 1


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("agents/nobody", {"message": "hello"}, {}, 404, "unknown_agent"),
        ("agents/cfo", {"message": ""}, {}, 422, "invalid_body"),
        ("agents/cfo", {"message": "hello"}, {"Idempotency-Key": "a b"}, 400, "invalid_idempotency_key"),
    ],
)
async def test_a_refusal_is_a_problem_document(
    client: httpx2.AsyncClient, path: str, body: dict[str, str], headers: dict[str, str], status: int, code: str
) -> None:
    refused = await client.post(path, json=body, headers={**EVENTS, **headers})
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.headers["content-type"] == "application/problem+json"


async def test_respond_async_is_not_streamed(client: httpx2.AsyncClient) -> None:
    headers = {**EVENTS, "Prefer": "respond-async"}
    answer = await client.post("agents/cfo", json={"message": "@say later"}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")


async def test_who_does_not_ask_for_events_gets_none(client: httpx2.AsyncClient) -> None:
    answer = await client.post("agents/cfo", json={"message": "@say plain"}, headers={"Accept": "*/*"})
    assert (answer.status_code, answer.json()["reply"]) == (200, "plain")
