"""As long as AOS cannot start, every route says so alike on Azure Functions and on ASGI, and tries again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from runtime import AsgiRuntime, Route, RuntimeConfig
from tests.conformance.triggers_app.recorder import ADMIN_KEY, KEYS, build_registry
from tests.functions_worker import FunctionsWorker, WorkerError

APP = Path(__file__).parent / "triggers_app"
REGISTRY = build_registry()
HEADERS = {
    "x-functions-key": ADMIN_KEY,
    "x-request-id": "same",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


async def cannot_start() -> None:
    raise RuntimeError("SHOP_DATABASE is not set")


@pytest_asyncio.fixture(scope="module")
async def worker() -> AsyncIterator[FunctionsWorker]:
    async with FunctionsWorker(APP, environ={"CANNOT_START": "1"}) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    settings = {"AZURE_SERVICE_BUS_CONNECTION_STRING": "here", "AZURE_STORAGE_CONNECTION_STRING": "here"}
    runtime = AsgiRuntime(RuntimeConfig(), build_registry(), cannot_start, keys=KEYS, settings=settings)
    transport = httpx2.ASGITransport(runtime.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened


def path_of(route: Route) -> str:
    return "/api/" + "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))


@pytest.mark.parametrize("route", REGISTRY.http_routes, ids=lambda route: route.name)
async def test_503_with_the_reason(client: httpx2.AsyncClient, worker: FunctionsWorker, route: Route) -> None:
    method = str(route.methods[0])
    answer = await client.request(method, path_of(route), headers=HEADERS)
    target = worker.match(method, path_of(route))
    assert target is not None
    name, parameters = target
    status, headers, body = await worker.invoke_http(
        name, method, f"http://127.0.0.1{path_of(route)}", HEADERS, route_params=parameters
    )
    assert (name, answer.status_code, status) == (route.name, 503, 503)
    ours, theirs = json.loads(answer.content), json.loads(body)
    assert ours == theirs
    assert ours["detail"].endswith("SHOP_DATABASE is not set")
    assert {"retry-after", "x-request-id", "traceresponse", "content-type"} <= set(headers)
    assert compared(answer.headers) == compared(headers)


def compared(headers: Mapping[str, str]) -> dict[str, str]:
    """Without what the server adds, the span, and when the next attempt begins."""
    left_out = ("content-length", "traceresponse", "retry-after")
    return {name: value for name, value in headers.items() if name not in left_out}


@pytest.mark.parametrize("route", REGISTRY.timer_routes, ids=lambda route: route.name)
async def test_a_tick_fails_with_the_reason(worker: FunctionsWorker, route: Route) -> None:
    with pytest.raises(WorkerError, match="SHOP_DATABASE is not set"):
        await worker.invoke_timer(route.name)
