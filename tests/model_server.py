"""A small OpenAI-compatible server: answers chat completions as a test scripts it and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Body = dict[str, Any]


@dataclass
class Answer:
    """A completion: text, calls as (id, name, arguments); or a refusal with an HTTP status; or raw bytes."""

    text: str | None = None
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    finish: str | None = None
    status: int = 200
    error: Body = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0


Script = Callable[[Body], Answer]


def say(text: str) -> Script:
    """Always this text."""
    return lambda body: Answer(text)


class ModelServer:
    """Serves `/v1/chat/completions` and `/v1/models`.

    Attributes:
        asked: Bodies of the completions that were asked for.
        keys: Their API keys.
        models: Names of the models served; others are refused as vLLM does.
        script: What the next completions are answered with.
    """

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.asked: list[Body] = []
        self.keys: list[str] = []
        self.models = ["llama-3.3-70b", *(f"llama-3.3-70b-{domain}" for domain in ("ceo", "cfo", "cto", "cmo", "coo"))]
        self.script: Script = say("Done.")

    def answers(self, *answers: Answer) -> None:
        """One after the other, the last one for ever."""
        left = list(answers)
        self.script = lambda body: left.pop(0) if len(left) > 1 else left[0]

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization", ""))
        if body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist."
            return JSONResponse({"error": {"message": message, "type": "NotFoundError", "code": 404}}, 404)
        answer = self.script(body)
        await asyncio.sleep(answer.delay)
        if answer.raw is not None:
            return Response(answer.raw, answer.status, media_type="text/html")
        if answer.status != 200:
            return JSONResponse({"error": answer.error}, answer.status, answer.headers)
        if body.get("stream"):
            return StreamingResponse(_stream(body, answer), media_type="text/event-stream")
        return JSONResponse(_completion(body, answer))

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})


def _completion(body: Body, answer: Answer) -> Body:
    message: Body = {"role": "assistant", "content": answer.text}
    if answer.calls:
        message["tool_calls"] = [_call(call) for call in answer.calls]
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(answer)}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


async def _stream(body: Body, answer: Answer) -> AsyncIterator[str]:
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    for word in (answer.text or "").split(" ") if answer.text else []:
        yield _event({**base, "choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
    for index, call in enumerate(answer.calls):
        delta = {"tool_calls": [{"index": index, **_call(call)}]}
        yield _event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(answer)}]})
    yield _event({**base, "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
    yield "data: [DONE]\n\n"


def _event(chunk: Body) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _call(call: tuple[str, str, str]) -> Body:
    call_id, name, arguments = call
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _finish(answer: Answer) -> str:
    return answer.finish or ("tool_calls" if answer.calls else "stop")


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    """A server on a free port of 127.0.0.1."""
    model = ModelServer()
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", model.complete, methods=["POST"]),
            Route("/v1/models", model.list_models),
        ]
    )
    # Named as TCP, for asyncio to send answers at once.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # already, so that a first request waits for the server to start
    model.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield model
    finally:
        server.should_exit = True
        await serving
