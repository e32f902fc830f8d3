"""The threads adapter before services and proxies that answer oddly."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aos.errors import FoundryRefused, FoundryUnavailable
from aos.foundry.clients import FoundryClients
from aos.foundry.provisioning import Provisioner
from aos.foundry.threads import ThreadsAdapter
from aos.kernel.types import AgentRef, ConversationKey, ToolOutput
from tests.foundry.project import settings, spec

REF = AgentRef("ceo", "asst_1", "hash", "llama-3.3-70b-ceo")
THREAD = "thread_1"
Ask = Callable[[ThreadsAdapter], Awaitable[object]]
ASKS: dict[str, Ask] = {
    "check": lambda adapter: adapter.check(),
    "ensure": lambda adapter: adapter.ensure_agent(spec()),
    "open": lambda adapter: adapter.open_conversation(ConversationKey("ceo", "main")),
    "respond": lambda adapter: adapter.respond(REF, THREAD, (), "hello", 60),
    "streamed": lambda adapter: adapter.respond(REF, THREAD, (), "hello", 60, on_text=lambda piece: None),
    "answer": lambda adapter: adapter.respond(REF, THREAD, [ToolOutput("c", "1")], None, 60),
    "items": lambda adapter: adapter.items_after(THREAD, None),
}
every_ask = pytest.mark.parametrize("ask", ASKS)
MESSAGE: dict[str, Any] = {"id": "msg_1", "object": "thread.message", "created_at": 1, "role": "user", "content": []}
EMPTY: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
RUN: dict[str, Any] = {
    "id": "run_1",
    "object": "thread.run",
    "thread_id": THREAD,
    "assistant_id": "asst_1",
    "created_at": 1,
    "status": "completed",
    "model": "llama",
    "tools": [],
    "metadata": {},
}


def run_with(*calls: tuple[str, str]) -> dict[str, Any]:
    """A run that waits for calls: ids and arguments."""
    made = [{"id": i, "type": "function", "function": {"name": "f", "arguments": a}} for i, a in calls]
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": made}}
    return {**RUN, "status": "requires_action", "required_action": action}


class Service:
    """Answers by method and last part of the path; `*` for all others."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[], Response]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.endpoint = ""

    async def __call__(self, request: Request) -> Response:
        route = f"{request.method} {request.url.path.rpartition('/')[2]}"
        body = await request.body()
        self.asked.append((route, json.loads(body) if body else None))
        answer = self.answers.get(route) or self.answers["*"]
        return answer()

    def json(self, **answers: object) -> None:
        """Routes with `_` for the space."""
        for route, body in answers.items():
            self.answers[route.replace("_", " ", 1)] = partial(JSONResponse, body)


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Service]:
    service = Service()
    app = Starlette(routes=[Route("/{path:path}", service.__call__, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # already, so that a first request waits for the server to start
        service.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/api/projects/local"
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield service
        server.should_exit = True
        await serving


@pytest.fixture
def service(served: Service) -> Service:
    served.answers = {"*": lambda: JSONResponse(EMPTY)}
    served.asked = []
    served.json(POST_messages=MESSAGE, POST_runs=RUN)
    return served


@pytest.fixture(scope="module")
async def adapter(served: Service) -> AsyncIterator[ThreadsAdapter]:
    adapter = ThreadsAdapter(FoundryClients(settings(served.endpoint)), Provisioner(None), "aos")
    yield adapter
    await adapter.close()


@every_ask
@pytest.mark.parametrize(
    "answer",
    [
        lambda: HTMLResponse("<html>Please sign in</html>"),
        lambda: Response('{"id": "run_1", "obj', media_type="application/json"),
        lambda: Response(b"\xff\xfe", media_type="application/json"),
        lambda: JSONResponse([]),
        lambda: JSONResponse(None),
        lambda: JSONResponse({"id": 7, "data": 7, "value": 7}),
    ],
    ids=["html", "half", "bytes", "list", "null", "odd"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_an_answer_that_is_none(
    service: Service, adapter: ThreadsAdapter, ask: str, answer: Callable[[], Response]
) -> None:
    service.answers = {"*": answer}
    with pytest.raises(FoundryUnavailable) as raised:
        await ASKS[ask](adapter)
    assert raised.value.sent


@every_ask
@pytest.mark.parametrize("status", [429, 500, 503, 401, 403])
async def test_a_status_says_whether_to_come_back(
    service: Service, adapter: ThreadsAdapter, ask: str, status: int
) -> None:
    body = {"error": {"code": "x", "message": "No."}}
    service.answers = {"*": lambda: JSONResponse(body, status, headers={"Retry-After": "50"})}
    async with asyncio.timeout(30):
        with pytest.raises(FoundryUnavailable) as raised:
            await ASKS[ask](adapter)
    if status in (401, 403):
        assert raised.value.code == "foundry_unauthorized"
        assert "AZURE_AI_API_KEY" in raised.value.detail
    else:
        assert raised.value.retry_after == 50


async def test_a_call_id_that_comes_twice_is_one_call(service: Service, adapter: ThreadsAdapter) -> None:
    service.json(POST_runs=run_with(("c", '{"a": 1}'), ("c", '{"a": 2}'), ("d", "not json")))
    reply = await adapter.respond(REF, THREAD, (), "hello", 60)
    assert [(call.call_id, call.arguments) for call in reply.calls] == [("c", '{"a": 1}'), ("d", "not json")]
    service.json(GET_runs={**EMPTY, "data": [run_with(("c", "{}"), ("c", "{}"))], "last_id": "run_1"})
    service.json(POST_submit_tool_outputs=RUN)
    late = {**run_with(("c", "{}"), ("c", "{}")), "created_at": 4_000_000_000}
    service.json(GET_runs={**EMPTY, "data": [late], "last_id": "run_1"})
    await adapter.respond(REF, THREAD, [ToolOutput("c", "first"), ToolOutput("c", "first")], None, 60)
    (sent,) = [body for route, body in service.asked if route == "POST submit_tool_outputs"]
    assert sent["tool_outputs"] == [{"tool_call_id": "c", "output": "first"}]


async def test_an_action_that_is_no_function_ends_the_run(service: Service, adapter: ThreadsAdapter) -> None:
    service.json(
        POST_runs=run_with(), POST_cancel={**RUN, "status": "cancelled"}, GET_run_1={**RUN, "status": "cancelled"}
    )
    with pytest.raises(FoundryRefused) as refused:
        await adapter.respond(REF, THREAD, (), "hello", 60)
    assert refused.value.code == "unknown_action"
    assert "POST cancel" in [route for route, _ in service.asked]


async def test_halves_of_characters_do_not_get_in(service: Service, adapter: ThreadsAdapter) -> None:
    service.answers["POST runs"] = lambda: Response(
        json.dumps(run_with(("c", '{"a": "\ud800"}'))), media_type="application/json"
    )
    reply = await adapter.respond(REF, THREAD, (), "hello", 60)
    assert reply.calls[0].arguments == '{"a": "?"}'


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit is exceeded. Try again in 20 seconds.", 20),
        ("Please retry after 1.5s.", 1.5),
        ("Try again in 999999 seconds.", 3600),
        ("Slow down.", None),
    ],
)
async def test_a_failed_run_says_when_to_come_back(
    service: Service, adapter: ThreadsAdapter, message: str, seconds: float | None
) -> None:
    error = {"code": "rate_limit_exceeded", "message": message}
    service.json(POST_runs={**RUN, "status": "failed", "last_error": error})
    with pytest.raises(FoundryUnavailable) as failed:
        await adapter.respond(REF, THREAD, (), "hello", 60)
    assert (failed.value.code, failed.value.retry_after) == ("rate_limit_exceeded", seconds)


def event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def piece(text: str) -> bytes:
    content = [{"index": 0, "type": "text", "text": {"value": text}}]
    return event("thread.message.delta", {"id": "msg_2", "delta": {"role": "assistant", "content": content}})


CREATED = event("thread.run.created", {**RUN, "status": "queued"})


@pytest.mark.parametrize(
    ("chunks", "heard"),
    [
        ([CREATED, piece("so "), b'event: thread.message.delta\ndata: {"id": "msg'], ["so "]),
        ([CREATED, piece("so "), b"event: thread.message.delta\ndata: {half}\n\n", piece("lost")], ["so "]),
        ([CREATED, piece("so ").replace(b"\n", b"\r\n"), event("error", {"code": "x"}), piece("lost")], ["so "]),
        ([(CREATED + piece("so ") + piece("far"))[i : i + 7] for i in range(0, 2000, 7)], ["so ", "far"]),
        ([CREATED], ["so far"]),
        ([], ["so far"]),
    ],
    ids=["cut", "no json", "error", "in small pieces", "silent", "empty"],
)
async def test_a_stream_that_breaks_off_costs_its_pieces_only(
    service: Service, adapter: ThreadsAdapter, chunks: list[bytes], heard: list[str]
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    service.answers["POST runs"] = lambda: StreamingResponse(body(), media_type="text/event-stream")
    said = {**MESSAGE, "id": "msg_2", "role": "assistant", "run_id": "run_1"}
    said["content"] = [{"type": "text", "text": {"value": "so far", "annotations": []}}]
    step: dict[str, Any] = {"id": "step_1", "type": "message_creation", "status": "completed"}
    step["step_details"] = {"type": "message_creation", "message_creation": {"message_id": "msg_2"}}
    service.json(
        GET_run_1=RUN,
        GET_runs={**EMPTY, "data": [RUN], "last_id": "run_1"},
        GET_messages={**EMPTY, "data": [said], "last_id": "msg_2"},
        GET_steps={**EMPTY, "data": [step], "last_id": "step_1"},
    )
    pieces: list[str] = []
    reply = await adapter.respond(REF, THREAD, (), "hello", 60, on_text=pieces.append)
    assert (reply.text, pieces) == ("so far", heard)
    assert reply.anchor == "run_1/msg_2"
