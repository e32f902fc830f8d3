from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import httpx2
import openai
import pytest
import pytest_asyncio
from azure.ai.projects.aio import AIProjectClient
from azure.core.exceptions import HttpResponseError
from openai import AsyncOpenAI

from emulators.foundry import FoundryEmulator
from emulators.foundry.edge import MAX_BODY_BYTES

Connect = Callable[[str], AbstractAsyncContextManager[tuple[AIProjectClient, AsyncOpenAI]]]
MODEL = "llama-3.3-70b"


@pytest_asyncio.fixture
async def admin(emulator: FoundryEmulator) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=emulator.url) as client:
        yield client
        await client.delete("/_emulator/faults")


@pytest.mark.parametrize(
    "path", ["/agents?api-version=v1", "/openai/v1/conversations/c", "/deployments?api-version=v1"]
)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer"}, {"authorization": "Basic eDp5"}, {"api-key": ""}])
async def test_a_credential_is_asked_for(emulator: FoundryEmulator, path: str, headers: dict[str, str]) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(emulator.endpoint + path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "Unauthorized")


async def test_a_bearer_token_is_a_credential(emulator: FoundryEmulator) -> None:
    async with httpx2.AsyncClient(headers={"authorization": "Bearer token"}) as client:
        assert (await client.get(f"{emulator.endpoint}/agents?api-version=v1")).status_code == 200


@pytest.mark.parametrize(
    ("query", "code"),
    [("", "MissingApiVersionParameter"), ("?api-version=2024-01-01", "InvalidApiVersionParameter")],
)
async def test_management_wants_its_version_and_the_runtime_none(
    http: httpx2.AsyncClient, query: str, code: str
) -> None:
    answer = await http.get(f"/agents{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert (await http.post("/openai/v1/conversations")).status_code == 200


async def test_a_body_has_a_limit_and_must_be_json(http: httpx2.AsyncClient) -> None:
    large = await http.post("/openai/v1/conversations", content=b'"' + b"x" * MAX_BODY_BYTES)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
    bad = await http.post("/openai/v1/conversations", content=b"{no json")
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_json")
    shape = await http.post("/openai/v1/conversations", content=b"[]")
    assert (shape.status_code, shape.json()["error"]["code"]) == (400, "invalid_payload")


async def test_the_largest_body_is_read(http: httpx2.AsyncClient) -> None:
    text = "x" * (MAX_BODY_BYTES - 100)
    answer = await http.post("/openai/v1/conversations", json={"items": [{"role": "user", "content": text}]})
    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/agents/a", 405)])
async def test_what_is_not_served_is_refused_in_the_same_shape(
    http: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]


async def test_another_project_is_not_there(emulator: FoundryEmulator) -> None:
    async with httpx2.AsyncClient(headers={"api-key": "k"}) as client:
        answer = await client.get(f"{emulator.url}/api/projects/other/agents?api-version=v1")
    assert answer.status_code == 404


async def test_a_fault_hits_as_often_as_asked(admin: httpx2.AsyncClient, runtime: AsyncOpenAI) -> None:
    conversation = await runtime.conversations.create()
    fault = {"status": 429, "times": 2, "retry_after": 0.01, "path_contains": "/responses"}
    assert (await admin.post("/_emulator/faults", json=fault)).status_code == 201
    with pytest.raises(openai.RateLimitError) as caught:
        await runtime.responses.create(model=MODEL, input="hi", conversation=conversation.id)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.response.headers["retry-after-ms"] == "10"
    await runtime.conversations.retrieve(conversation.id)
    retrying = runtime.with_options(max_retries=1)
    made = await retrying.responses.create(model=MODEL, input="@say through", conversation=conversation.id)
    assert made.output_text == "through"
    items = [item async for item in runtime.conversations.items.list(conversation.id)]
    assert len(items) == 2
    assert (await admin.get("/_emulator/faults")).json() == {"faults": []}


async def test_faults_can_be_narrowed_named_and_cleared(
    admin: httpx2.AsyncClient, project: AIProjectClient, runtime: AsyncOpenAI
) -> None:
    for fault in (
        {"status": 503, "times": 5, "method": "DELETE"},
        {"status": 500, "code": "my_code", "message": "broken", "path_contains": "/deployments"},
    ):
        await admin.post("/_emulator/faults", json=fault)
    with pytest.raises(HttpResponseError, match="broken") as caught:
        [d async for d in project.deployments.list()]
    assert caught.value.status_code == 500
    made = await runtime.conversations.create()
    with pytest.raises(openai.InternalServerError) as unavailable:
        await runtime.conversations.delete(made.id)
    assert unavailable.value.status_code == 503
    await admin.delete("/_emulator/faults")
    assert (await runtime.conversations.delete(made.id)).deleted


async def test_a_model_fault_lets_an_accepted_response_fail(admin: httpx2.AsyncClient, runtime: AsyncOpenAI) -> None:
    added = await admin.post("/_emulator/model_faults", json={"code": "rate_limit_exceeded", "message": "slow down"})
    assert added.status_code == 201
    failed = await runtime.responses.create(model=MODEL, input="@say one")
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("rate_limit_exceeded", "slow down")
    assert (await runtime.responses.create(model=MODEL, input="@say two")).output_text == "two"


async def test_a_rate_limit_by_directive_is_http_429(runtime: AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await runtime.responses.create(model=MODEL, input="@fail rate_limit_exceeded")
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "1")


@pytest.mark.parametrize("fault", [{}, {"status": 200}, {"status": 500, "times": 0}, {"status": 500, "typo": 1}])
async def test_a_bad_fault_is_refused(admin: httpx2.AsyncClient, fault: dict[str, int]) -> None:
    answer = await admin.post("/_emulator/faults", json=fault)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_payload")


async def test_calls_are_counted_by_route_and_the_last_ones_shown(
    admin: httpx2.AsyncClient, runtime: AsyncOpenAI
) -> None:
    await admin.delete("/_emulator/calls")
    made = await runtime.conversations.create()
    for _ in range(2):
        await runtime.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await runtime.conversations.retrieve("conv_none")
    seen = (await admin.get("/_emulator/calls")).json()
    assert seen["counts"] == {"POST /openai/v1/conversations": 1, "GET /openai/v1/conversations/{id}": 3}
    assert [(call["method"], call["status"], call["code"]) for call in seen["recent"]] == [
        ("POST", 200, None),
        ("GET", 200, None),
        ("GET", 200, None),
        ("GET", 404, "not_found"),
    ]
    assert seen["recent"][0]["path"].endswith("/openai/v1/conversations")
