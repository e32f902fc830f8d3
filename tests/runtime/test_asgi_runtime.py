"""What is particular to ASGI: serving over real sockets, streaming, bodies, and requests that reach no route."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.types import Message

from runtime import (
    AsgiRuntime,
    AuthLevel,
    Keys,
    Request,
    Response,
    RouteError,
    RouteRegistry,
    RuntimeConfig,
    RuntimeConfigError,
    ServeError,
    TimerTick,
    asgi_http,
    lifecycle,
)
from runtime.lifecycle import Initializer, Shutdown
from tests.runtime.standing_clock import StandingClock

KEYS = Keys(function="f-key")


SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/api/length",
    "raw_path": b"/api/length",
    "root_path": "",
    "query_string": b"",
    "client": ("203.0.113.9", 1),
    "server": ("h", 80),
}


async def caller(request: Request) -> dict[str, object]:
    return {"kind": request.caller.kind, "admin": request.caller.is_admin, "app": request.app}


async def length(request: Request) -> str:
    return str(len(request.body))


def make(
    registry: RouteRegistry,
    initializer: Initializer | None = None,
    shutdown: Shutdown | None = None,
    keys: Keys = KEYS,
    prefix: str = "/api",
) -> AsgiRuntime:
    return AsgiRuntime(RuntimeConfig(), registry, initializer, shutdown, keys=keys, settings={}, prefix=prefix)


@asynccontextmanager
async def serving(runtime: AsgiRuntime) -> AsyncIterator[httpx2.AsyncClient]:
    """The runtime on a free port, with a client for it."""
    task = asyncio.create_task(runtime.serve(port=0))
    try:
        while runtime.port is None:
            assert not task.done()
            await asyncio.sleep(0.005)  # what is awaited is state of the code under test
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{runtime.port}", timeout=30) as client:
            yield client
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


@asynccontextmanager
async def connected(runtime: AsgiRuntime) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that calls the application without a socket, within its lifespan."""
    async with (
        runtime.app.router.lifespan_context(runtime.app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(runtime.app), base_url="http://127.0.0.1") as client,
    ):
        yield client


async def test_serve_answers_on_a_free_port_and_closes_the_application_when_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[object] = []
    registry = RouteRegistry()
    registry.register("caller", caller, auth_level=AuthLevel.ADMIN)
    runtime = make(registry, lambda: "the app", closed.append, keys=Keys())
    with caplog.at_level(logging.WARNING, "runtime"):
        async with serving(runtime) as client:
            answer = await client.get("/api/caller")
            assert answer.json() == {"kind": "local", "admin": True, "app": "the app"}
            assert "server" not in answer.headers
            assert (await client.get("/api/caller", headers={"origin": "https://evil.example"})).status_code == 401
    assert closed == ["the app"]
    assert runtime.port is None
    assert [record.message for record in caplog.records if record.name.startswith("runtime")] == [
        "no keys are configured: every route is open to this machine"
    ]


PROGRAM = """
import asyncio
from runtime import AsgiRuntime, Keys, RouteRegistry, RuntimeConfig

async def wait(request):
    print("inside", flush=True)
    await asyncio.sleep(0.3)
    return "waited"

registry = RouteRegistry()
registry.register("wait", wait)

async def main():
    runtime = AsgiRuntime(RuntimeConfig(), registry, dict, lambda app: print("closed"), keys=Keys(), settings={})
    serving = asyncio.create_task(runtime.serve(port=0))
    while runtime.port is None:
        await asyncio.sleep(0.005)
    print(runtime.port, flush=True)
    await serving
    print("cleaned up")

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_requests_end_and_gives_control_back(number: signal.Signals) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    port = int(await child.stdout.readline())
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        pending = asyncio.create_task(client.get("/api/wait"))
        assert await child.stdout.readline() == b"inside\n"
        child.send_signal(number)
        assert (await pending).text == "waited"
    rest, _ = await child.communicate()
    assert rest == b"closed\ncleaned up\n"
    assert child.returncode == 0


HANGS = """
import asyncio
from runtime import AsgiRuntime, Keys, RouteRegistry, RuntimeConfig

async def initialize():
    print("starting", flush=True)
    await asyncio.Event().wait()

runtime = AsgiRuntime(RuntimeConfig(), RouteRegistry(), initialize, keys=Keys(), settings={})
asyncio.run(runtime.serve(port=0))
print("cleaned up")
"""


async def test_a_signal_ends_an_application_that_does_not_come_to_its_end_of_starting() -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGS, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"starting\n"
    child.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(30):
            rest, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert (rest, child.returncode) == (b"cleaned up\n", 0)


async def test_serve_refuses_other_hosts_without_keys_and_names_the_setting_of_a_taken_port() -> None:
    open_runtime = make(RouteRegistry(), keys=Keys())
    with pytest.raises(ServeError, match=r"refusing to serve on 0\.0\.0\.0"):
        await open_runtime.serve("0.0.0.0", 0)  # noqa: S104  # refused
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"Port {port} on 127.0.0.1 is in use; set PORT to another one"):
            await make(RouteRegistry()).serve("127.0.0.1", port)
    with pytest.raises(ServeError, match=r"Cannot listen on 203\.0\.113\.1:0"):
        await make(RouteRegistry()).serve("203.0.113.1", 0)


async def test_a_stream_arrives_piece_by_piece_and_is_closed_when_the_client_leaves() -> None:
    go_on, closed = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"data: 1\n\n"
            await go_on.wait()
            yield b"data: 2\n\n"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def events(request: Request) -> Response:
        del request
        return Response(media_type="text/event-stream", stream=pieces())

    registry = RouteRegistry()
    registry.register("events", events, auth_level=AuthLevel.ANONYMOUS)
    async with serving(make(registry)) as client:
        async with client.stream("GET", "/api/events") as answer:
            received = answer.aiter_bytes()
            assert await anext(received) == b"data: 1\n\n"
            go_on.set()
            assert await anext(received) == b"data: 2\n\n"
        async with asyncio.timeout(30):
            await closed.wait()


async def test_head_of_a_stream_announces_no_length() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"never asked for"

    registry = RouteRegistry()
    registry.register("events", lambda request: Response(stream=pieces()), auth_level=AuthLevel.ANONYMOUS)
    async with serving(make(registry)) as client:
        head = await client.head("/api/events")
        assert (head.status_code, head.content) == (200, b"")
        assert "content-length" not in head.headers
        assert (await client.get("/api/events")).content == b"never asked for"


async def test_a_stream_whose_client_stops_reading_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asgi_http, "STALLED_SECONDS", 0.2)
    closed = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(65_536)
        finally:
            closed.set()

    async def endless(request: Request) -> Response:
        del request
        return Response(stream=pieces())

    registry = RouteRegistry()
    registry.register("endless", endless, auth_level=AuthLevel.ANONYMOUS)
    async with serving(make(registry)) as client:
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=1)
        writer.write(b"GET /api/endless HTTP/1.1\r\nhost: h\r\n\r\n")
        async with asyncio.timeout(30):
            await closed.wait()
        writer.transport.abort()
    assert any("does not read it" in record.getMessage() for record in caplog.records)


async def test_a_stream_that_breaks_off_is_not_mistaken_for_a_whole_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("the model went away")

    async def events(request: Request) -> Response:
        del request
        return Response(stream=pieces())

    registry = RouteRegistry()
    registry.register("events", events, auth_level=AuthLevel.ANONYMOUS)
    async with serving(make(registry)) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/api/events", headers={"x-request-id": "r-77"})
    assert any("r-77" in record.getMessage() for record in caplog.records)


async def exchange(runtime: AsgiRuntime, chunks: Sequence[bytes], content_length: int | None) -> tuple[int, int]:
    """POST a body chunk by chunk; the status, and how many chunks were taken."""
    taken = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": chunks[taken - 1], "more_body": taken < len(chunks)}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"h")] + ([(b"content-length", str(content_length).encode())] if content_length else [])
    await runtime.app({**SCOPE, "headers": headers}, receive, send)
    return sent[0]["status"], taken


async def test_a_body_beyond_the_limit_is_never_held() -> None:
    registry = RouteRegistry()
    registry.register("length", length, ["POST"], AuthLevel.ANONYMOUS)
    runtime = make(registry)
    chunks = [bytes(65_536)] * 32  # 2 MiB against a limit of 1 MiB
    assert await exchange(runtime, chunks, None) == (413, 17)
    assert await exchange(runtime, chunks, 2_097_152) == (413, 0)
    assert await exchange(runtime, chunks, int("9" * 30)) == (413, 0)
    assert await exchange(runtime, chunks[:16], 1_048_576) == (200, 16)


async def post_slowly(runtime: AsgiRuntime, receive: Callable[[], Awaitable[Message]]) -> tuple[int, dict[str, object]]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await runtime.app({**SCOPE, "headers": [(b"host", b"h")]}, receive, send)
    document: dict[str, object] = json.loads(sent[1]["body"])
    return sent[0]["status"], document


async def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_http, "BODY_TIMEOUT_SECONDS", 0.05)
    registry = RouteRegistry()
    registry.register("length", length, ["POST"], AuthLevel.ANONYMOUS)

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    status, document = await post_slowly(make(registry), never)
    assert (status, document["code"]) == (408, "body_timeout")
    status, document = await post_slowly(make(registry), gone)
    assert (status, document["code"]) == (400, "client_disconnected")


async def test_requests_that_reach_no_route_get_problem_documents() -> None:
    registry = RouteRegistry()
    registry.register("things/{id}", caller, ["GET", "POST"], AuthLevel.ANONYMOUS)
    async with connected(make(registry)) as client:
        for path in ("/api/nothing", "/api", "/", "/apis/things/1", "/api/things/"):
            answer = await client.get(path, headers={"x-request-id": "r-1"})
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
            assert answer.json()["code"] == "route_not_found"
            assert answer.json()["request_id"] == answer.headers["x-request-id"] == "r-1"
        refused = await client.delete("/api/things/1")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")
        assert (await client.options("/api/things/1")).status_code == 405
        flood = await client.get("/api/things/1?" + "&".join("a=1" for _ in range(1001)))
        assert (flood.status_code, flood.json()["code"]) == (400, "invalid_query")
        head = await client.head("/api/things/1")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize(("prefix", "path"), [("", "/caller"), ("/v2/", "/V2/caller"), ("a/b", "/a/b/caller")])
async def test_the_prefix_can_be_chosen(prefix: str, path: str) -> None:
    registry = RouteRegistry()
    registry.register("api/caller", caller, auth_level=AuthLevel.ANONYMOUS)
    async with connected(make(registry, prefix=prefix)) as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.get("/api/caller")).status_code == 404


async def test_an_application_that_cannot_start_is_503_with_its_reason_for_known_callers_until_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = StandingClock()
    monkeypatch.setattr(lifecycle, "time", clock)
    attempts = 0

    async def initialize() -> str:
        nonlocal attempts
        attempts += 1
        if attempts <= 1:
            raise LookupError("SHOP_DATABASE is not set\nsecond line")
        return "started"

    registry = RouteRegistry()
    registry.register("open", caller, auth_level=AuthLevel.ANONYMOUS)
    registry.register("keyed", caller)
    async with connected(make(registry, initialize)) as client:
        stranger = await client.get("/api/open")
        assert (stranger.status_code, stranger.headers["retry-after"]) == (503, "1")
        assert (stranger.json()["code"], stranger.json()["detail"]) == ("not_ready", "The log holds the reason.")
        known = await client.get("/api/keyed", headers={"x-functions-key": "f-key"})
        assert (known.status_code, known.json()["detail"]) == (503, "LookupError: SHOP_DATABASE is not set")
        assert attempts == 1  # a storm of requests is not a storm of attempts
        clock.now += 0.51  # the pause of the code under test
        assert (await client.get("/api/open")).json()["app"] == "started"
    assert attempts == 2


async def test_sync_handlers_do_not_block_the_loop() -> None:
    both_inside = threading.Barrier(2)

    def meet(request: Request) -> str:
        both_inside.wait(30)
        return request.method

    registry = RouteRegistry()
    registry.register("meet", meet, auth_level=AuthLevel.ANONYMOUS)
    async with connected(make(registry)) as client:
        answers = await asyncio.gather(client.get("/api/meet"), client.get("/api/meet"))
    assert [answer.text for answer in answers] == ["GET", "GET"]


async def test_timers_tick_within_the_lifespan_with_the_application() -> None:
    ticks: asyncio.Queue[TimerTick] = asyncio.Queue()
    registry = RouteRegistry()
    registry.register_timer("start", "0 0 0 1 1 *", ticks.put, run_on_startup=True)
    runtime = make(registry, lambda: "the app")
    async with runtime.app.router.lifespan_context(runtime.app), asyncio.timeout(30):
        tick = await ticks.get()
    assert (tick.name, tick.app) == ("start", "the app")


async def test_a_bad_schedule_is_an_error_before_anything_starts() -> None:
    registry = RouteRegistry()
    registry.register_timer("sweep", "%SWEEP%", lambda tick: tick)
    with pytest.raises(RouteError, match="timer route 'sweep': the setting SWEEP is not set"):
        _ = make(registry).app
    nonsense = AsgiRuntime(RuntimeConfig(), registry, keys=KEYS, settings={"SWEEP": "61 * * * * *"})
    with pytest.raises(RuntimeConfigError, match="schedule of timer 'sweep'"):
        _ = nonsense.app


async def test_websockets_are_turned_away() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/api/x", "headers": [], "query_string": b"", "root_path": ""}
    await make(RouteRegistry()).app(scope, receive, send)
    assert sent[0]["type"] == "websocket.close"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_do_not_wait_for_acknowledgements(host: str) -> None:
    """asyncio sets TCP_NODELAY on connections of sockets that name TCP, and on no others."""
    with make(RouteRegistry())._bind(host, 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
