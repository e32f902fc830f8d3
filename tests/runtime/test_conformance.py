"""One list of exchanges, answered alike by ASGI and by the worker code of Azure Functions."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from runtime import AsgiRuntime, RuntimeConfig
from tests.functions_worker import FunctionsWorker, WorkerError
from tests.runtime.conformance_app.routes import (
    ADMIN_KEY,
    FUNCTION_KEY,
    KEYS,
    LIMITED_KEY,
    LONG_TEXT,
    Recorder,
    build_registry,
)

APP_DIR = Path(__file__).parent / "conformance_app"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
PROBLEM = "application/problem+json"

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"

Answered = tuple[int, Mapping[str, str], bytes]
Send = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Answered]]


@dataclass(frozen=True)
class Exchange:
    """A request and what must come back; `json` and `headers` are compared in part, `body` as a whole."""

    request: str
    status: int = 200
    sends: bytes = b""
    with_headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str | None = JSON
    body: bytes | None = None
    json: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)


PARSING = "Input should be a valid {}, unable to parse string as an integer"
LIMITED = ["key", "limited", False]

EXCHANGES = [
    Exchange(
        "POST /api/echo/a/b%20c?x=1&y=&x=2",
        sends="grüße".encode(),
        with_headers={"X-Test-Header": "yes", "x-request-id": "caller.id:1"},
        json={
            "method": "POST",
            "path": "/api/echo/a/b%20c",
            "route_params": {"first": "a", "second": "b c"},
            "query": {"x": "1,2", "y": ""},
            "test_header": "yes",
            "body": "grüße",
            "caller": ["anonymous", "anonymous", False],
            "has_app": True,
            "request_id": "caller.id:1",
        },
        headers={"x-request-id": "caller.id:1"},
    ),
    Exchange("DELETE /API/Echo/a/b", json={"method": "DELETE"}),
    Exchange("GET /api/echo/a%2fb/c/", json={"route_params": {"first": "a%2Fb", "second": "c"}}),
    Exchange("GET /api/echo/a%0Ab/c", json={"route_params": {"first": "a\nb", "second": "c"}}),
    Exchange("GET /api/echo/any/LITERAL", media_type=TEXT, body=b"sync nobody"),
    Exchange(
        "PUT /api/echo/any/literal", json={"method": "PUT", "route_params": {"first": "any", "second": "literal"}}
    ),
    Exchange("GET /api/sync?name=Ada", media_type=TEXT, body=b"sync Ada"),
    Exchange("HEAD /api/sync", media_type=TEXT, body=b""),
    Exchange("GET /api/none", 204, media_type=None, body=b""),
    Exchange("POST /api/raw", sends=bytes(100), media_type="application/octet-stream", body=bytes(100)),
    Exchange("POST /api/raw", 413, sends=bytes(101), media_type=PROBLEM, json={"code": "body_too_large"}),
    Exchange("GET /api/listing", body=b'[1,null,null,"2026-01-02T03:04:05"]'),
    Exchange(
        "POST /api/orders",
        sends=b'{"item": "tea", "amount": 1}',
        body=b'{"item":"tea","at":"2026-01-02T00:00:00"}',
    ),
    Exchange(
        "POST /api/orders",
        422,
        sends=b'{"item": 5}',
        media_type=PROBLEM,
        json={
            "status": 422,
            "code": "invalid_body",
            "errors": [
                {"pointer": "/item", "detail": "Input should be a valid string"},
                {"pointer": "/amount", "detail": "Field required"},
            ],
        },
    ),
    Exchange("POST /api/orders", 400, sends=b'{"item":', media_type=PROBLEM, json={"code": "invalid_json"}),
    Exchange("PUT /api/things/7", 201, body=b'{"id":"7"}', headers={"location": "/api/things/7", "etag": '"1"'}),
    Exchange("DELETE /api/things/7", 204, media_type=None),
    Exchange("GET /api/native", 202, body=b'{"ok": true}', headers={"x-native": "1"}),
    Exchange(
        "GET /api/refuses",
        409,
        media_type=PROBLEM,
        json={"title": "The agent is stopped", "code": "agent_stopped", "detail": "Start it first."},
        headers={"retry-after": "7"},
    ),
    Exchange(
        "GET /api/crashes",
        500,
        with_headers={"x-request-id": "r-500", "traceparent": TRACEPARENT},
        media_type=PROBLEM,
        body=json.dumps(
            {
                "type": "about:blank",
                "title": "Internal error",
                "status": 500,
                "code": "internal_error",
                "request_id": "r-500",
                "trace_id": TRACE_ID,
                "detail": "The log holds the cause under this request id.",
            },
            separators=(",", ":"),
        ).encode(),
    ),
    Exchange("GET /api/pair", 500, media_type=PROBLEM, json={"code": "internal_error"}),
    Exchange("GET /api/bad-header", 500, media_type=PROBLEM, json={"code": "internal_error"}),
    Exchange("GET /api/streamed", media_type="text/event-stream", body=b"data: 0\n\ndata: 1\n\ndata: 2\n\n"),
    Exchange(
        "GET /api/keyed", with_headers={"x-functions-key": FUNCTION_KEY}, json={"caller": ["key", "function", False]}
    ),
    Exchange(f"GET /api/keyed?code={ADMIN_KEY}", json={"caller": ["key", "admin", True]}),
    Exchange(
        "GET /api/owned",
        403,
        with_headers={"x-functions-key": FUNCTION_KEY},
        media_type=PROBLEM,
        json={"code": "admin_required"},
    ),
    Exchange(
        "GET /api/owned",
        with_headers={"x-functions-key": FUNCTION_KEY, "x-admin-key": ADMIN_KEY},
        json={"caller": ["key", "admin", True]},
    ),
    Exchange("GET /api/owned", with_headers={"x-functions-key": ADMIN_KEY}, json={"caller": ["key", "admin", True]}),
    Exchange(
        "POST /api/orders",
        415,
        sends=b"item=tea",
        with_headers={"content-type": "application/x-www-form-urlencoded"},
        media_type=PROBLEM,
        json={"code": "unsupported_media_type"},
        headers={"accept": JSON},
    ),
    Exchange(
        "POST /api/orders",
        415,
        sends=b"\x1f\x8b",
        with_headers={"content-type": JSON, "content-encoding": "gzip"},
        media_type=PROBLEM,
        json={"code": "unsupported_media_type"},
        headers={"accept-encoding": "identity"},
    ),
    Exchange(
        "GET /api/pages/x?size=0&order=up",
        400,
        with_headers={"x-shop": "s"},
        media_type=PROBLEM,
        json={
            "code": "invalid_parameters",
            "errors": [
                {"pointer": "/path/number", "detail": PARSING.format("integer")},
                {"pointer": "/query/size", "detail": "Input should be greater than or equal to 1"},
                {"pointer": "/query/order", "detail": "Input should be 'asc' or 'desc'"},
            ],
        },
    ),
    Exchange(
        "GET /api/pages/7",
        400,
        media_type=PROBLEM,
        json={"errors": [{"pointer": "/header/x-shop", "detail": "Parameter required"}]},
    ),
    Exchange("GET /api/pages/7?size=2", with_headers={"x-shop": "s"}, json={"query": {"size": "2"}}),
    Exchange(
        "GET /api/long", with_headers={"accept-encoding": "br"}, media_type=TEXT, headers={"vary": "Accept-Encoding"}
    ),
    Exchange(
        "GET /api/long",
        with_headers={"accept-encoding": "gzip;q=0.5"},
        body=LONG_TEXT.encode(),
        headers={"vary": "Accept-Encoding", "content-encoding": "gzip"},
        media_type=TEXT,
    ),
    Exchange(
        "GET /api/secret",
        with_headers={"accept-encoding": "gzip"},
        body=LONG_TEXT.encode(),
        headers={"cache-control": "no-store", "content-encoding": None},
        media_type=TEXT,
    ),
    Exchange(
        "GET /api/private-secret",  # what its handler says of caches does not make it less of a secret
        with_headers={"accept-encoding": "gzip"},
        body=LONG_TEXT.encode(),
        headers={"cache-control": "no-store", "content-encoding": None},
        media_type=TEXT,
    ),
    Exchange("GET /api/items/7", with_headers={"x-functions-key": LIMITED_KEY}, json={"caller": LIMITED}),
    Exchange(
        "GET /api/items/8",
        403,
        with_headers={"x-functions-key": LIMITED_KEY},
        media_type=PROBLEM,
        json={"code": "scope_required", "detail": "This needs one of the scopes: items/8:read."},
    ),
    Exchange("GET /api/items/8", with_headers={"x-functions-key": FUNCTION_KEY}, json={"method": "GET"}),
    Exchange("GET /api/openapi.json", json={"openapi": "3.1.0"}),
    Exchange(
        "PATCH /api/things/7",
        405,
        media_type=PROBLEM,
        json={"code": "method_not_allowed"},
        headers={"allow": "DELETE, PUT"},
    ),
    Exchange("DELETE /api/sync", 405, media_type=PROBLEM, headers={"allow": "GET, HEAD"}),
    Exchange("OPTIONS /api/keyed", 405, media_type=PROBLEM, headers={"allow": "GET, HEAD"}),
    Exchange("HEAD /api/orders", 405, body=b"", media_type=None, headers={"allow": "POST"}),
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def functions_worker() -> AsyncIterator[FunctionsWorker]:
    async with FunctionsWorker(APP_DIR) as worker:
        yield worker


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asgi_client() -> AsyncIterator[httpx2.AsyncClient]:
    config = RuntimeConfig(app_name="conformance")
    runtime = AsgiRuntime(config, build_registry(), Recorder().initialize, keys=KEYS, settings={"BUS": "none here"})
    app = runtime.app
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        yield client


@pytest.fixture
def by_asgi(asgi_client: httpx2.AsyncClient) -> Send:
    async def send(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answered:
        answer = await asgi_client.request(method, path, headers=headers, content=body)
        return answer.status_code, answer.headers, answer.content

    return send


@pytest.fixture
def by_functions(functions_worker: FunctionsWorker) -> Send:
    async def send(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answered:
        target = functions_worker.match(method, path.partition("?")[0])
        assert target is not None
        name, params = target
        status, got, data = await functions_worker.invoke_http(
            name, method, "http://127.0.0.1" + path, headers, body, params
        )
        return status, got, gzip.decompress(data) if got.get("content-encoding") == "gzip" else data

    return send


@pytest.fixture(params=["asgi", "functions"])
def send(request: pytest.FixtureRequest, by_asgi: Send, by_functions: Send) -> Send:
    return by_asgi if request.param == "asgi" else by_functions


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[f"{n}-{e.request}-{e.status}" for n, e in enumerate(EXCHANGES)])
async def test_exchange(send: Send, exchange: Exchange) -> None:
    method, _, path = exchange.request.partition(" ")
    status, headers, body = await send(method, path, exchange.with_headers, exchange.sends)
    assert status == exchange.status, body
    if exchange.media_type is not None:
        assert headers["content-type"] == exchange.media_type
    assert headers["traceresponse"].split("-")[1] != "0" * 32
    if exchange.body is not None:
        assert body == exchange.body
    if exchange.json:
        document = json.loads(body)
        assert {name: document.get(name) for name in exchange.json} == exchange.json
    assert {name: headers.get(name) for name in exchange.headers} == exchange.headers
    assert 0 < len(headers["x-request-id"]) <= 64
    if exchange.media_type == PROBLEM:
        assert json.loads(body)["request_id"] == headers["x-request-id"]


# What the server adds, and the number of the span, which is new for every request.
OF_THE_SERVER = {"content-length", "traceresponse"}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[f"{n}-{e.request}-{e.status}" for n, e in enumerate(EXCHANGES)])
async def test_both_bindings_answer_alike(by_asgi: Send, by_functions: Send, exchange: Exchange) -> None:
    method, _, path = exchange.request.partition(" ")
    headers = {"x-request-id": "same", "traceparent": TRACEPARENT, "accept-encoding": "identity"}
    answers = [
        await send(method, path, {**headers, **exchange.with_headers}, exchange.sends)
        for send in (by_asgi, by_functions)
    ]
    # azure.functions gives every answer a type, even one without a body.
    added = OF_THE_SERVER | ({"content-type"} if exchange.status == 204 else set())
    first, second = ((status, {n: v for n, v in got.items() if n not in added}, body) for status, got, body in answers)
    assert first == second
    assert all(got["traceresponse"].split("-")[1] == TRACE_ID for _, got, _ in answers)


async def test_an_unsafe_request_id_is_replaced(send: Send) -> None:
    for unsafe in ("x" * 65, "a b", "a;b"):
        _, headers, _ = await send("GET", "/api/sync", {"x-request-id": unsafe}, b"")
        assert headers["x-request-id"] != unsafe


def test_functions_are_indexed_with_the_declared_bindings(functions_worker: FunctionsWorker) -> None:
    triggers = {name: function.trigger for name, function in functions_worker.functions.items()}
    assert len(triggers) == len(build_registry()) + 2  # warmup, openapi
    assert triggers["warmup"]["type"] == "warmupTrigger"
    assert triggers["get_owned"]["authLevel"] == "FUNCTION"
    assert triggers["get_sync"]["authLevel"] == "ANONYMOUS"
    # What nothing answers comes through to be answered 405; where templates meet, it is left to the other one.
    assert triggers["get_sync"]["methods"] == ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "POST", "PUT"]
    assert triggers["a_literal"]["methods"] == ["GET", "HEAD"]
    queue, topic, timer = triggers["from_queue"], triggers["from_topic"], triggers["sweep"]
    assert (queue["type"], queue["connection"], queue["queueName"]) == ("serviceBusTrigger", "BUS", "aos-requests")
    assert (topic["topicName"], topic["subscriptionName"]) == ("agent-events", "realm-agents")
    assert topic["isSessionsEnabled"] is True
    assert (timer["type"], timer["schedule"]) == ("timerTrigger", "0 */5 * * * *")


async def events(worker: FunctionsWorker) -> list[dict[str, object]]:
    _, _, body = await worker.invoke_http("get_events")
    recorded: list[dict[str, object]] = json.loads(body)
    return recorded


async def test_a_bus_trigger_hands_over_the_whole_message(functions_worker: FunctionsWorker) -> None:
    metadata = {
        "MessageId": "m-7",
        "CorrelationId": "c-7",
        "ReplyTo": "answers",
        "ReplyToSessionId": "s-1",
        "SessionId": "s-2",
        "Subject": "greeting",
        "ContentType": JSON,
        "ApplicationProperties": {"traceparent": "00-1-2-03", "n": 5},
        "DeliveryCount": 3,
        "EnqueuedTimeUtc": "2026-01-02T03:04:05Z",
        "SequenceNumber": 12,
    }
    await functions_worker.invoke_service_bus("from_topic", b'{"a": 1}', metadata)
    assert (await events(functions_worker))[-1] == {
        "entity": "agent-events/realm-agents",
        "body": '{"a": 1}',
        "message_id": "m-7",
        "correlation_id": "c-7",
        "reply_to": "answers",
        "reply_to_session_id": "s-1",
        "session_id": "s-2",
        "subject": "greeting",
        "content_type": JSON,
        "properties": {"traceparent": "00-1-2-03", "n": 5},
        "delivery_count": 3,
        "has_enqueued_time": True,
        "has_sequence_number": True,
    }


async def test_a_bus_handler_that_raises_fails_the_invocation(functions_worker: FunctionsWorker) -> None:
    with pytest.raises(WorkerError, match="cannot handle this"):
        await functions_worker.invoke_service_bus("from_queue", b"fail")


async def test_timer_and_warmup(functions_worker: FunctionsWorker) -> None:
    await functions_worker.invoke_warmup()
    await functions_worker.invoke_timer(
        "sweep", past_due=True, schedule_status={"Next": "2026-01-02T03:05:00+00:00", "Last": "0001-01-01T00:00:00"}
    )
    assert (await events(functions_worker))[-1] == {
        "timer": "sweep",
        "at": "2026-01-02T03:05:00+00:00",
        "past_due": True,
    }


async def test_an_app_that_does_not_import_is_reported_as_the_worker_does(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text("import no_such_module_here\n")
    with pytest.raises(WorkerError, match="no_such_module_here"):
        async with FunctionsWorker(tmp_path):
            pass
