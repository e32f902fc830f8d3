"""An OpenAI-compatible server of one base model and its adapters, each under its deployment's name.

For small models on a CPU, and to try an adapter before it is deployed: one text is generated at a time. vLLM does the
same for many users on a GPU (docs/vllm.md).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aos.lora.errors import PromptTooLong
from aos.lora.inference import AdapterModel, Generated

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

WAITING = 32
"""Requests that may wait for their turn; more are refused with 429."""
LARGEST_REQUEST = 4 * 1024 * 1024
MOST_TOKENS = 32_768
"""Of one answer: others wait for its end."""


class ChatRequest(BaseModel):
    """What is used of a request to `/v1/chat/completions`; other parameters are let pass."""

    model_config = ConfigDict(extra="ignore")

    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    stream: bool = False
    max_tokens: Annotated[int | None, Field(ge=1, le=MOST_TOKENS)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=MOST_TOKENS)] = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    tools: list[dict[str, Any]] = []
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] = "auto"

    @property
    def tools_shown(self) -> list[dict[str, Any]]:
        """Tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools


def deployments(base: str, adapters: Mapping[str, Path]) -> dict[str, str | None]:
    """Names under which models are served: the base model's, and `{base}-{adapter}` for each adapter."""
    return {base: None} | {f"{base}-{name}": name for name in adapters}


def adapter_app(model: AdapterModel, names: Mapping[str, str | None], max_tokens: int = 512) -> Starlette:
    """The server as an ASGI app.

    Args:
        names: Adapter by the name that it is served under; None is the base model.
        max_tokens: Of an answer whose request does not say.
    """
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    waiting = 0
    started = int(time.time())

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        listed = [{"id": name, "object": "model", "created": started, "owned_by": "aos"} for name in names]
        return JSONResponse({"object": "list", "data": listed})

    async def chat(request: Request) -> Response:
        nonlocal waiting
        body = await request.body()
        if len(body) > LARGEST_REQUEST:
            return _error(413, f"The request has {len(body)} bytes; at most {LARGEST_REQUEST} are read.", "too_large")
        try:
            asked = ChatRequest.model_validate_json(body)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            return _error(400, found, "invalid_request")
        if asked.model not in names:
            return _error(
                404, f"The model {asked.model!r} is not served. Served: {', '.join(names)}.", "model_not_found"
            )
        if waiting >= WAITING:
            return _error(429, "Too many requests wait for their turn.", "rate_limit_exceeded", {"Retry-After": "1"})
        waiting += 1
        try:
            # Before anything is answered: a stream that has begun cannot be refused.
            await asyncio.to_thread(model.prompt, asked.messages, asked.tools_shown)
        except PromptTooLong as error:
            waiting -= 1
            return _error(400, error.detail, error.code)
        except BaseException:
            waiting -= 1
            raise
        work = _Work(model, names[asked.model], asked, max_tokens)
        if asked.stream:

            async def events() -> AsyncIterator[str]:
                nonlocal waiting
                try:
                    async for chunk in work.chunks():
                        yield f"data: {json.dumps(chunk)}\n\n"
                    yield "data: [DONE]\n\n"
                finally:
                    waiting -= 1
                    await work.stop()

            return StreamingResponse(events(), media_type="text/event-stream")
        try:
            return JSONResponse(await work.answer())
        finally:
            waiting -= 1
            await work.stop()

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


class _Work:
    """One answer, generated in a thread of its own."""

    def __init__(self, model: AdapterModel, adapter: str | None, asked: ChatRequest, max_tokens: int) -> None:
        self._model, self._adapter, self._asked = model, adapter, asked
        self._max_tokens = asked.max_completion_tokens or asked.max_tokens or max_tokens
        self._stopped = threading.Event()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._frame = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        self._task = asyncio.create_task(asyncio.to_thread(self._generate), name=f"answer of {asked.model}")

    def _generate(self) -> Generated:
        def tell(piece: str | None) -> None:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        asked = self._asked
        tools = asked.tools_shown
        try:
            return self._model.generate(
                self._adapter,
                asked.messages,
                max_tokens=self._max_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                tools=tools,
                on_text=tell if asked.stream and not tools else None,
                cancelled=self._stopped.is_set,
            )
        finally:
            tell(None)

    async def answer(self) -> dict[str, Any]:
        made = await self._task
        calls = _tool_calls(made.text, self._asked)
        message: dict[str, Any] = {"role": "assistant", "content": None if calls else made.text}
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else made.finish_reason}
        return {**self._frame, "object": "chat.completion", "choices": [choice], "usage": _usage(made)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        frame = {**self._frame, "object": "chat.completion.chunk"}

        def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            return {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

        yield chunk({"role": "assistant", "content": ""})
        told = False
        while (piece := await self._pieces.get()) is not None:
            told = True
            yield chunk({"content": piece})
        made = await self._task
        if calls := _tool_calls(made.text, self._asked):
            yield chunk({"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}, "tool_calls")
        else:
            yield chunk({} if told else {"content": made.text}, made.finish_reason)
        yield {**frame, "choices": [], "usage": _usage(made)}

    async def stop(self) -> None:
        """Ends the thread with its next token."""
        self._stopped.set()
        await asyncio.gather(self._task, return_exceptions=True)


def _tool_calls(text: str, asked: ChatRequest) -> list[dict[str, Any]]:
    """The call in a text as models of the Llama 3 family write one: `{"name": ..., "parameters": {...}}`."""
    if not asked.tools or asked.tool_choice == "none":
        return []
    try:
        said = json.loads(text.strip().removeprefix("<|python_tag|>"))
    except ValueError:
        return []
    known = {tool.get("function", {}).get("name") for tool in asked.tools}
    if not isinstance(said, dict) or said.get("name") not in known:
        return []
    arguments = json.dumps(said.get("parameters", said.get("arguments", {})))
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": said["name"], "arguments": arguments},
        }
    ]


def _usage(made: Generated) -> dict[str, int]:
    return {
        "prompt_tokens": made.input_tokens,
        "completion_tokens": made.output_tokens,
        "total_tokens": made.input_tokens + made.output_tokens,
    }


def _error(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Response:
    from starlette.responses import JSONResponse

    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "code": code, "param": None}}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))
