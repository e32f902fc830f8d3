"""A small server of models: OpenAI's chat completions, and scoring as Azure Machine Learning's endpoints do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tests.ml.serving import serving


class ModelServer:
    """Answers with `{model}: {messages so far} {last message}`, so that tests see what arrived.

    `failures` are statuses of the next answers; `html` answers with a page instead; `delay` seconds pass before;
    `context` is the most characters of messages that fit, `too_long` what is said of more; `error` is what the scoring
    script says instead of an answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.models = ["llama-3.3-70b", "llama-3.3-70b-ceo"]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.failures: list[int] = []
        self.html = False
        self.delay = 0.0
        self.context = 1_000_000
        self.too_long: dict[str, object] = {
            "message": "This model's maximum context length is 1 token.",
            "code": "context_length_exceeded",
        }
        self.error = ""
        self.running = self.most_running = 0
        self._over = asyncio.Event()

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        refused = await self._arrived(request, body)
        if refused is not None:
            return refused
        text = f"{body.get('model', '')}: {len(body['messages'])} {body['messages'][-1]['content']}"
        return JSONResponse(
            {
                "id": "c1",
                "object": "chat.completion",
                "created": 0,
                "model": body.get("model", ""),
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            }
        )

    async def _score(self, request: Request) -> Response:
        body = await request.json()
        refused = await self._arrived(request, body)
        if refused is not None:
            return refused
        if self.error:
            return JSONResponse({"error": self.error})
        messages = body["input_data"]["input_string"]
        return JSONResponse({"output": f"scored: {len(messages)} {messages[-1]['content']}"})

    async def _models(self, request: Request) -> Response:
        return JSONResponse(
            {
                "object": "list",
                "data": [{"id": m, "object": "model", "created": 0, "owned_by": "t"} for m in self.models],
            }
        )

    async def _root(self, request: Request) -> Response:
        return Response("Healthy")

    async def _arrived(self, request: Request, body: dict[str, Any]) -> Response | None:
        self.requests.append(body)
        self.keys.append(request.headers.get("authorization", ""))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if self.delay:
                # Who is not waited for any more does not keep the server from its end.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.delay):
                        await self._over.wait()
        finally:
            self.running -= 1
        if self.failures:
            status = self.failures.pop(0)
            return JSONResponse({"error": {"message": f"asked to fail with {status}"}}, status)
        if len(str(body)) > self.context:
            return JSONResponse({"error": self.too_long}, 400)
        return HTMLResponse("<html>a proxy</html>") if self.html else None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[ModelServer]:
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/score", self._score, methods=["POST"]),
            Route("/", self._root),
        ]
        async with serving(Starlette(routes=routes)) as url:
            self.url = url
            try:
                yield self
            finally:
                self._over.set()
