"""Model steps that are streamed, through the real SDK."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aos.errors import FoundryRefused, FoundryUnavailable
from aos.foundry import responses
from aos.foundry.responses import ResponsesAdapter
from aos.kernel.recovery import missing_input
from aos.kernel.types import AgentRef, ToolOutput
from emulators.foundry import FoundryEmulator
from tests.foundry.pacing import PacedModel, Patience
from tests.foundry.project import Project, running
from tests.foundry.test_faults import REF, RESPONSE, new_adapter, said
from tests.foundry.test_responses import opened


async def streamed(
    project: Project, ref: AgentRef, remote_id: str, text: str, timeout: float = 10
) -> tuple[str, list[str]]:
    """The text of the reply, and the pieces in which it came."""
    pieces: list[str] = []
    reply = await project.adapter.respond(ref, remote_id, (), text, timeout, on_text=pieces.append)
    return reply.text, pieces


async def test_a_streamed_step_ends_like_one_that_is_not(project: Project) -> None:
    ref, remote_id = await opened(project)
    plain = await project.adapter.respond(ref, remote_id, (), "@say one two three", 10)
    _, other_id = await opened(project)
    pieces: list[str] = []
    reply = await project.adapter.respond(ref, other_id, (), "@say one two three", 10, on_text=pieces.append)
    assert pieces == ["one ", "two ", "three"]
    assert (reply.text, reply.calls, reply.usage, reply.model) == (plain.text, plain.calls, plain.usage, plain.model)
    items = await project.adapter.items_after(other_id, None)
    assert [(item.kind, item.text) for item in items] == [("user", "@say one two three"), ("text", "one two three")]
    assert reply.anchor == items[-1].item_id


async def test_calls_come_whole(project: Project) -> None:
    ref, remote_id = await opened(project)
    pieces: list[str] = []
    asked = '@tool ledger_lookup {"year": 2024}\n@tool ledger_lookup {"year": 2025}\n@say done and dusted'
    reply = await project.adapter.respond(ref, remote_id, (), asked, 10, on_text=pieces.append)
    assert [json.loads(call.arguments) for call in reply.calls] == [{"year": 2024}, {"year": 2025}]
    assert pieces == []
    outputs = [ToolOutput(call.call_id, "1") for call in reply.calls]
    after = await project.adapter.respond(ref, remote_id, outputs, None, 10, on_text=pieces.append)
    assert after.text == "".join(pieces) == "done and dusted"


async def test_text_comes_before_the_end() -> None:
    model = PacedModel()
    async with running(FoundryEmulator(model=model)) as project:
        ref, remote_id = await opened(project)
        pieces: list[str] = []
        first = asyncio.Event()

        def hear(piece: str) -> None:
            pieces.append(piece)
            first.set()

        step = asyncio.create_task(project.adapter.respond(ref, remote_id, (), "@say a WAIT b", 60, on_text=hear))
        await asyncio.wait_for(first.wait(), 30)
        assert pieces == ["a "]
        assert not step.done()
        model.go.set()
        assert (await step).text == "".join(pieces) == "a WAIT b"


async def test_steps_share_a_connection(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "TAIL", 60.0)  # nobody is left because the machine is slow
    ref, remote_id = await opened(project)
    await streamed(project, ref, remote_id, "@say one two")
    pool = project.clients.openai._client._transport._pool  # type: ignore[attr-defined]  # nothing else tells
    idle = [id(connection) for connection in pool.connections if connection.is_idle()]
    assert idle
    for number in range(3):
        await streamed(project, ref, remote_id, f"@say {number}")
    assert [id(connection) for connection in pool.connections if connection.is_idle()] == idle


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("@fail content_filter", "content_filter"),
        ("@fail context_length_exceeded", "context_length_exceeded"),
    ],
)
async def test_what_the_model_refuses_for_good(project: Project, text: str, code: str) -> None:
    ref, remote_id = await opened(project)
    with pytest.raises(FoundryRefused) as refused:
        await streamed(project, ref, remote_id, text)
    assert refused.value.code == code


async def test_a_step_that_failed_may_be_tried_again(project: Project) -> None:
    ref, remote_id = await opened(project)
    with pytest.raises(FoundryUnavailable) as failed:
        await streamed(project, ref, remote_id, "@fail server_error")
    assert (failed.value.code, failed.value.sent) == ("server_error", True)


async def test_overload_is_told_before_the_stream(project: Project) -> None:
    ref, remote_id = await opened(project)
    await project.fail(429, "/responses", retry_after=7)
    with pytest.raises(FoundryUnavailable) as refused:
        await streamed(project, ref, remote_id, "hello")
    assert (refused.value.sent, refused.value.retry_after) == (False, 7)


async def test_the_answer_of_a_stream_that_timed_out_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, patience = PacedModel(), Patience(monkeypatch)
    async with running(FoundryEmulator(model=model, on_disconnect="finish")) as project:
        ref, remote_id = await opened(project)
        pieces: list[str] = []
        heard = asyncio.Event()

        def hear(piece: str) -> None:
            pieces.append(piece)
            heard.set()

        asked = "@say half WAIT whole"
        step = asyncio.create_task(project.adapter.respond(ref, remote_id, (), asked, patience.SECONDS, on_text=hear))
        await asyncio.wait_for(heard.wait(), 30)
        patience.end()
        with pytest.raises(FoundryUnavailable, match="in time") as late:
            await step
        assert late.value.sent
        assert pieces == ["half "]
        model.go.set()
        reply = None
        async with asyncio.timeout(60):
            while reply is None:
                items = await project.adapter.items_after(remote_id, None)
                reply, _, _ = missing_input(items, (), asked, ref.deployment)
        assert reply.text == "half WAIT whole"


async def test_a_caller_that_gives_up_closes_the_stream() -> None:
    model = PacedModel()
    async with running(FoundryEmulator(model=model, on_disconnect="drop")) as project:
        ref, remote_id = await opened(project)
        heard = asyncio.Event()
        asked = "@say half WAIT whole"
        step = asyncio.create_task(
            project.adapter.respond(ref, remote_id, (), asked, 60, on_text=lambda _: heard.set())
        )
        await asyncio.wait_for(heard.wait(), 30)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        # The service dropped the step as soon as it saw nobody there: until then the conversation is locked.
        text = ""
        async with asyncio.timeout(60):
            while not text:
                with suppress(FoundryUnavailable):
                    text, _ = await streamed(project, ref, remote_id, "@say next")
        assert text == "next"


# --- streams that are none, or halves


class Service:
    """A server that answers every request for a response alike."""

    def __init__(self) -> None:
        self.answer: Callable[[], Response] = Response
        self.endpoint = ""

    async def __call__(self, request: Request) -> Response:
        return self.answer()


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    service = Service()
    app = Starlette(routes=[Route("/{path:path}", service.__call__, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # already, so that a first request waits for the server to start
        service.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/api/projects/local"
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield service
        server.should_exit = True
        await serving


@pytest.fixture(scope="module")
async def adapter(service: Service) -> AsyncIterator[ResponsesAdapter]:
    adapter = new_adapter(service.endpoint)
    yield adapter
    await adapter.close()


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps({'sequence_number': number, **event})}\n\n".encode()
        for number, event in enumerate(events)
    )


def delta(text: str) -> dict[str, Any]:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    return {"type": "response.output_text.delta", "delta": text, **where}


def completed(text: str) -> dict[str, Any]:
    return {"type": "response.completed", "response": {**RESPONSE, "output": [said(text)]}}


def whole(data: bytes) -> Callable[[], Response]:
    return lambda: Response(data, media_type="text/event-stream")


@pytest.mark.parametrize(
    "answer",
    [
        whole(b""),
        whole(sse(delta("half "))),
        whole(sse(delta("half ")) + b'event: response.completed\ndata: {"type": "respon'),
        whole(sse(delta("half ")) + b'event: response.completed\ndata: {"type": "respon\n\n'),
        whole(sse(delta("half ")) + b"data: [DONE]\n\n"),
        whole(b"data: []\n\n"),
        whole(b"data: \xff\xfe\n\n"),
        whole(sse({"type": "response.completed"})),
        whole(sse({"type": "response.completed", "response": None})),
        lambda: HTMLResponse("<html>Please sign in</html>"),
        lambda: JSONResponse({**RESPONSE, "output": [said("not streamed")]}),
    ],
    ids=[
        *("empty", "half", "half an event", "half a document", "done", "list", "bytes", "nothing in it", "null"),
        *("html", "json"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_half_a_stream_may_have_been_a_step(
    service: Service, adapter: ResponsesAdapter, answer: Callable[[], Response]
) -> None:
    service.answer = answer
    async with asyncio.timeout(30):
        with pytest.raises(FoundryUnavailable) as broken:
            await adapter.respond(REF, "conv_1", (), "hello", 60, on_text=lambda _: None)
    assert broken.value.sent


async def test_a_connection_that_breaks_mid_stream_may_have_been_a_step() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = sse(delta("half "))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(body), body))
        await writer.drain()
        await heard.wait()
        writer.close()

    pieces: list[str] = []
    heard = asyncio.Event()

    def hear(piece: str) -> None:
        pieces.append(piece)
        heard.set()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        adapter = new_adapter(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/projects/local")
        with pytest.raises(FoundryUnavailable, match="cannot be reached") as broken:
            await adapter.respond(REF, "conv_1", (), "hello", 60, on_text=hear)
        await adapter.close()
    assert (pieces, broken.value.sent) == (["half "], True)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ({"code": "rate_limit_exceeded", "message": "Slow down."}, FoundryUnavailable, "rate_limit_exceeded"),
        ({"code": None, "message": "Oops."}, FoundryUnavailable, "server_error"),
        ({"code": "invalid_prompt", "message": "No."}, FoundryRefused, "invalid_prompt"),
        ({"error": {"code": "server_error", "message": "Oops."}}, FoundryUnavailable, "foundry_unavailable"),
    ],
)
async def test_an_event_that_says_that_it_failed(
    service: Service,
    adapter: ResponsesAdapter,
    error: dict[str, Any],
    kind: type[FoundryUnavailable | FoundryRefused],
    code: str,
) -> None:
    service.answer = whole(sse(delta("half "), {"type": "error", "param": None, **error}))
    with pytest.raises(kind) as failed:
        await adapter.respond(REF, "conv_1", (), "hello", 5, on_text=lambda _: None)
    assert failed.value.code == code


async def test_a_stream_that_stays_open_after_its_end_is_left(
    service: Service, adapter: ResponsesAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "TAIL", 0.2)
    left = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield sse(delta("all"), completed("all"))
        await left.wait()

    service.answer = lambda: StreamingResponse(body(), media_type="text/event-stream")
    async with asyncio.timeout(30):
        reply = await adapter.respond(REF, "conv_1", (), "hello", 600, on_text=lambda _: None)
    assert reply.text == "all"
    left.set()


async def test_halves_of_characters_do_not_get_in(service: Service, adapter: ResponsesAdapter) -> None:
    service.answer = whole(sse(delta("so \ud83d far"), completed("so \ud83d far")))
    pieces: list[str] = []
    reply = await adapter.respond(REF, "conv_1", (), "hello", 5, on_text=pieces.append)
    assert (reply.text, pieces) == ("so ? far", ["so ? far"])
