from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aos.config import load_settings
from aos.errors import AgentGone, ConversationGone, FoundryRefused, FoundryUnavailable, RequestRefused, SettingError
from aos.foundry.clients import FoundryClients
from aos.foundry.provisioning import Provisioner
from aos.foundry.responses import ResponsesAdapter
from aos.kernel.hold import failure_of
from aos.kernel.types import AgentRef, ConversationKey, Failure
from tests.foundry.pacing import Patience
from tests.foundry.project import Adapter, Project, settings, spec

Ask = Callable[[Adapter], Awaitable[object]]
REF = AgentRef("ceo", "1", "hash", "llama-3.3-70b-ceo")

ASKS: dict[str, Ask] = {
    "check": lambda adapter: adapter.check(),
    "ensure": lambda adapter: adapter.ensure_agent(spec()),
    "open": lambda adapter: adapter.open_conversation(ConversationKey("ceo", "main")),
    "respond": lambda adapter: adapter.respond(REF, "conv_1", (), "hello", 60),
    "items": lambda adapter: adapter.items_after("conv_1", None),
}
PATHS = {"check": "/deployments", "ensure": "/agents", "open": "/conversations", "respond": "/responses", "items": "/"}
every_ask = pytest.mark.parametrize("ask", ASKS)


def new_adapter(endpoint: str) -> ResponsesAdapter:
    return ResponsesAdapter(FoundryClients(settings(endpoint)), Provisioner(None), "aos")


async def unavailable(adapter: Adapter, ask: str) -> FoundryUnavailable:
    with pytest.raises(FoundryUnavailable) as raised:
        await ASKS[ask](adapter)
    return raised.value


# --- what the service says


@every_ask
async def test_overload_says_when_to_come_back(project: Project, ask: str) -> None:
    await project.fail(429, PATHS[ask], retry_after=50)
    async with asyncio.timeout(30):
        error = await unavailable(project.new_adapter(Provisioner(None)), ask)
    assert error.retry_after == 50
    assert "429" in error.detail


async def test_a_step_that_was_refused_for_overload_did_not_happen(project: Project) -> None:
    await project.fail(429, "/responses", retry_after=0.25)
    error = await unavailable(project.adapter, "respond")
    assert (error.sent, error.retry_after) == (False, 0.25)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_a_broken_service_may_have_taken_the_step(project: Project, status: int) -> None:
    await project.fail(status, "/responses")
    error = await unavailable(project.adapter, "respond")
    assert (error.sent, error.retry_after) == (True, None)


@every_ask
@pytest.mark.parametrize("status", [401, 403])
async def test_a_sign_in_that_ran_out_is_for_the_operator_to_mend(project: Project, ask: str, status: int) -> None:
    await project.fail(status, PATHS[ask], code="Unauthorized", message="The access token has expired.")
    error = await unavailable(project.new_adapter(Provisioner(None)), ask)
    assert error.code == "foundry_unauthorized"
    assert "has expired" in error.detail
    assert "AZURE_AI_API_KEY" in error.detail


async def test_any_other_refusal_keeps_the_code_of_the_service(project: Project) -> None:
    await project.fail(400, "/responses", code="tool_limit_exceeded", message="Too many tools.")
    with pytest.raises(FoundryRefused, match=r"Too many tools\.") as refused:
        await ASKS["respond"](project.adapter)
    assert refused.value.code == "tool_limit_exceeded"


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("not_found", "Conversation 'conv_1' not found.", ConversationGone),
        ("not_found", 'Conversation with id "conv_1" not found.', ConversationGone),
        ("not_found", "Agent 'ceo:1' not found.", AgentGone),
        ("not_found", "Agent 'conversation-starter' not found.", AgentGone),
        ("DeploymentNotFound", "The API deployment 'travel-agent' for this resource does not exist.", RequestRefused),
        ("DeploymentNotFound", "The API deployment 'conversation' does not exist.", RequestRefused),
    ],
)
async def test_what_is_missing_is_told_apart(project: Project, code: str, message: str, kind: type[Exception]) -> None:
    await project.fail(404, "/responses", code=code, message=message)
    with pytest.raises(FoundryRefused) as refused:
        await ASKS["respond"](project.adapter)
    assert type(refused.value) is kind


# --- what stands in between


class Proxy:
    """A server that answers everything alike."""

    def __init__(self) -> None:
        self.answer: Callable[[], Response] = Response
        self.endpoint = ""

    async def __call__(self, request: Request) -> Response:
        return self.answer()


@pytest.fixture(scope="module")
async def proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    app = Starlette(routes=[Route("/{path:path}", proxy.__call__, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # already, so that a first request waits for the server to start
        proxy.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/api/projects/local"
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield proxy
        server.should_exit = True
        await serving


@pytest.fixture(scope="module")
async def behind(proxy: Proxy) -> AsyncIterator[ResponsesAdapter]:
    adapter = new_adapter(proxy.endpoint)
    yield adapter
    await adapter.close()


@every_ask
@pytest.mark.parametrize(
    "answer",
    [
        lambda: HTMLResponse("<html>Please sign in</html>"),
        lambda: Response('{"id": "resp_1", "obj', media_type="application/json"),
        lambda: Response(b"\xff\xfe", media_type="application/json"),
        lambda: JSONResponse([]),
        lambda: JSONResponse(None),
    ],
    ids=["html", "half", "bytes", "list", "null"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_an_answer_that_is_none(
    proxy: Proxy, behind: ResponsesAdapter, ask: str, answer: Callable[[], Response]
) -> None:
    proxy.answer = answer
    error = await unavailable(behind, ask)
    assert error.sent
    assert "could not be read" in error.detail


@pytest.mark.parametrize("ask", ["ensure", "open", "respond"])
async def test_an_answer_without_what_it_should_hold(proxy: Proxy, behind: ResponsesAdapter, ask: str) -> None:
    proxy.answer = lambda: JSONResponse({})
    assert (await unavailable(behind, ask)).sent


@every_ask
async def test_a_page_that_says_bad_gateway(proxy: Proxy, behind: ResponsesAdapter, ask: str) -> None:
    proxy.answer = lambda: HTMLResponse("<html>Bad gateway</html>", 502, headers={"Retry-After": "50"})
    async with asyncio.timeout(30):
        error = await unavailable(behind, ask)
    assert (error.sent, error.retry_after) == (True, 50)
    assert "502" in error.detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2),
        ({"Retry-After": "2", "retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "2", "retry-after-ms": "soon"}, 2),
        ({"Retry-After": "inf"}, 3600),
        ({"Retry-After": "86400"}, 3600),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "Sat, 21 Nov 2026 08:00:00 GMT"}, None),
    ],
)
async def test_when_to_come_back_is_a_bounded_number(
    proxy: Proxy, behind: ResponsesAdapter, headers: dict[str, str], seconds: float | None
) -> None:
    proxy.answer = lambda: JSONResponse({}, 503, headers=headers)
    assert (await unavailable(behind, "respond")).retry_after == seconds


async def test_the_time_out_is_of_the_whole_answer(
    proxy: Proxy, behind: ResponsesAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience, drops, dripping = Patience(monkeypatch), 0, asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        nonlocal drops
        while True:
            yield b" "
            drops += 1
            if drops == 3:
                dripping.set()
            await asyncio.sleep(0.05)

    proxy.answer = lambda: StreamingResponse(drip(), media_type="application/json")
    async with asyncio.timeout(60):
        asking = asyncio.create_task(behind.respond(REF, "conv_1", (), "hello", patience.SECONDS))
        await dripping.wait()
        patience.end()
        with pytest.raises(FoundryUnavailable, match="in time") as late:
            await asking
    assert late.value.sent


RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "llama",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "status": "completed",
    "output": [],
}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


async def test_an_answer_cut_at_its_length_is_still_one(proxy: Proxy, behind: ResponsesAdapter) -> None:
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    proxy.answer = lambda: JSONResponse({**RESPONSE, **cut, "output": [said("Once upon")]})
    reply = await behind.respond(REF, "conv_1", (), "hello", 5)
    assert (reply.text, reply.truncated) == ("Once upon", True)
    proxy.answer = lambda: JSONResponse({**RESPONSE, "output": [said("Once upon a time.")]})
    assert not (await behind.respond(REF, "conv_1", (), "hello", 5)).truncated
    proxy.answer = lambda: JSONResponse({**RESPONSE, **cut})
    with pytest.raises(FoundryRefused, match="incomplete: max_output_tokens") as refused:
        await behind.respond(REF, "conv_1", (), "hello", 5)
    assert refused.value.code == "max_output_tokens"


async def test_a_filtered_answer_is_not_shown_in_part(proxy: Proxy, behind: ResponsesAdapter) -> None:
    cut = {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    proxy.answer = lambda: JSONResponse({**RESPONSE, **cut, "output": [said("How to")]})
    with pytest.raises(FoundryRefused) as refused:
        await behind.respond(REF, "conv_1", (), "hello", 5)
    assert refused.value.code == "content_filter"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ({"code": "rate_limit_exceeded", "message": "Slow down."}, FoundryUnavailable, "rate_limit_exceeded"),
        ({"code": "server_error", "message": "Oops."}, FoundryUnavailable, "server_error"),
        ({"code": "invalid_prompt", "message": "No."}, FoundryRefused, "invalid_prompt"),
        (None, FoundryRefused, "failed"),
    ],
)
async def test_a_response_that_says_that_it_failed(
    proxy: Proxy, behind: ResponsesAdapter, error: object, kind: type[FoundryUnavailable | FoundryRefused], code: str
) -> None:
    proxy.answer = lambda: JSONResponse({**RESPONSE, "status": "failed", "error": error})
    with pytest.raises(kind) as failed:
        await behind.respond(REF, "conv_1", (), "hello", 5)
    assert failed.value.code == code


async def test_a_model_that_declines_is_heard(proxy: Proxy, behind: ResponsesAdapter) -> None:
    declined = {**said(""), "content": [{"type": "refusal", "refusal": "I will not do that."}]}
    proxy.answer = lambda: JSONResponse({**RESPONSE, "output": [declined]})
    assert (await behind.respond(REF, "conv_1", (), "hello", 5)).text == "I will not do that."


async def test_halves_of_characters_do_not_get_in(proxy: Proxy, behind: ResponsesAdapter) -> None:
    made = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": '{"a": "\ud800"}'}
    proxy.answer = lambda: Response(
        json.dumps({**RESPONSE, "output": [said("so \ud83d far"), made]}), media_type="application/json"
    )
    reply = await behind.respond(REF, "conv_1", (), "hello", 5)
    assert (reply.text, reply.calls[0].arguments) == ("so ? far", '{"a": "?"}')


async def test_an_error_that_quotes_half_a_character_can_be_stored(proxy: Proxy, behind: ResponsesAdapter) -> None:
    error = {"code": "invalid_prompt", "message": "Not allowed: 'so \ud83d'."}
    failed = json.dumps({**RESPONSE, "status": "failed", "error": error})
    proxy.answer = lambda: Response(failed, media_type="application/json")
    with pytest.raises(FoundryRefused) as refused:
        await behind.respond(REF, "conv_1", (), "hello", 5)
    stored = TypeAdapter(Failure).dump_json(failure_of(refused.value))
    assert json.loads(stored)["detail"] == "The model step failed: Not allowed: 'so ?'."


# --- nobody there


async def test_a_connection_that_never_opens_means_not_sent() -> None:
    with socket.socket() as full, socket.socket() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())  # takes the only place
        adapter = new_adapter(f"http://127.0.0.1:{full.getsockname()[1]}/api/projects/local")
        with pytest.raises(FoundryUnavailable) as late:
            await adapter.respond(REF, "conv_1", (), "hello", 0.3)
        await adapter.close()
    assert not late.value.sent


async def test_a_connection_that_breaks_may_have_been_sent() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        adapter = new_adapter(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/projects/local")
        error = await unavailable(adapter, "respond")
        await adapter.close()
    assert error.sent


# --- settings


async def test_without_an_endpoint_or_a_sign_in() -> None:
    lacking = FoundryClients(load_settings({"AZURE_AI_API_KEY": "k"}))
    with pytest.raises(SettingError, match="AZURE_AI_PROJECT_ENDPOINT"):
        await ResponsesAdapter(lacking, Provisioner(None), "aos").check()
    anonymous = FoundryClients(load_settings({"AZURE_AI_PROJECT_ENDPOINT": "https://x.example/api/projects/p"}))
    with pytest.raises(SettingError, match="AZURE_AI_API_KEY"):
        await ResponsesAdapter(anonymous, Provisioner(None), "aos").open_conversation(ConversationKey("a", "b"))
