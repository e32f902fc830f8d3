"""The forwarding model: any OpenAI-compatible server (vLLM, Ollama, llama.cpp, Azure OpenAI).

The deployment's name is the backend's model name. The key comes from ``OPENAI_API_KEY``, else it is ``none``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import openai
from openai.types import chat
from openai.types.chat.chat_completion_chunk import Choice

from emulators.foundry.model import (
    ArgumentsDelta,
    Called,
    CallStarted,
    Finished,
    ModelError,
    ModelEvent,
    ModelRequest,
    Returned,
    Said,
    TextDelta,
    Turn,
    Usage,
)

REQUEST_TIMEOUT_SECONDS = 120.0


class ForwardingModel:
    """Sends every step to ``{base_url}/chat/completions`` and passes deltas on as they come.

    The backend's refusals reach the client with their own status and code; there is no retry here, as the client of
    the emulator has its own.
    """

    def __init__(self, base_url: str) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=REQUEST_TIMEOUT_SECONDS,
            max_retries=0,
        )

    @property
    def kind(self) -> str:
        """``forward``."""
        return "forward"

    async def close(self) -> None:
        """Close the connections to the backend."""
        await self._client.close()

    def check(self, request: ModelRequest) -> None:
        """The backend decides."""

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """One streamed chat completion."""
        finish: str | None = None
        usage: Usage | None = None
        started: set[int] = set()
        try:
            async with await self._client.chat.completions.create(
                model=request.deployment,
                messages=_messages(request),
                tools=_tools(request),
                tool_choice=_tool_choice(request),
                parallel_tool_calls=request.parallel_calls if request.tools else openai.omit,
                temperature=openai.omit if request.temperature is None else request.temperature,
                top_p=openai.omit if request.top_p is None else request.top_p,
                max_tokens=openai.omit if request.max_output_tokens is None else request.max_output_tokens,
                response_format=_response_format(request),
                stream=True,
                stream_options={"include_usage": True},
            ) as stream:
                async for chunk in stream:
                    if chunk.usage is not None:
                        usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                    for choice in chunk.choices[:1]:
                        finish = choice.finish_reason or finish
                        for event in _events(choice, started):
                            yield event
        except openai.APIStatusError as error:
            raise _refused(error) from error
        except openai.APITimeoutError as error:
            raise ModelError("timeout", "The model backend did not answer in time.", status=504) from error
        except openai.APIError as error:
            raise ModelError("server_error", f"The model backend failed: {error.message}", status=502) from error
        yield _finished(finish, usage)


def _events(choice: Choice, started: set[int]) -> list[ModelEvent]:
    events: list[ModelEvent] = []
    if choice.delta.content:
        events.append(TextDelta(choice.delta.content))
    for call in choice.delta.tool_calls or []:
        if call.index not in started:
            started.add(call.index)
            events.append(CallStarted(call.index, (call.function and call.function.name) or ""))
        if call.function and call.function.arguments:
            events.append(ArgumentsDelta(call.index, call.function.arguments))
    return events


def _finished(finish: str | None, usage: Usage | None) -> Finished:
    match finish:
        case "length":
            return Finished("max_output_tokens", usage)
        case "content_filter":
            return Finished("content_filter", usage)
        case None:
            raise ModelError("server_error", "The model backend ended its stream without finishing.", status=502)
        case _:
            return Finished("stop", usage)


def _refused(error: openai.APIStatusError) -> ModelError:
    body = error.body if isinstance(error.body, dict) else {}
    status = error.status_code
    if status in (401, 403):  # the backend's key is the emulator's matter, not the client's
        return ModelError("server_error", f"The model backend refused the key: {error.message}", status=502)
    default = {404: "DeploymentNotFound", 429: "rate_limit_exceeded"}.get(status)
    code = body.get("code") or default or ("server_error" if status >= 500 else "invalid_payload")
    message = body.get("message") or error.message
    wait = error.response.headers.get("retry-after", "")
    retry_after = float(wait) if wait.replace(".", "", 1).isdigit() else None
    return ModelError(str(code), str(message), status=status, retry_after=retry_after)


def _messages(request: ModelRequest) -> list[chat.ChatCompletionMessageParam]:
    messages: list[chat.ChatCompletionMessageParam] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    pending: list[Called] = []
    for turn in (*request.history, None):
        if pending and not isinstance(turn, Called):
            messages.append({"role": "assistant", "tool_calls": [_call(call) for call in pending]})
            pending = []
        if isinstance(turn, Called):
            pending.append(turn)  # the calls of one step travel in one message
        elif turn is not None:
            messages.append(_message(turn))
    return messages


def _message(turn: Turn) -> chat.ChatCompletionMessageParam:
    match turn:
        case Said("user", text):
            return {"role": "user", "content": text}
        case Said("assistant", text):
            return {"role": "assistant", "content": text}
        case Said(_, text):
            return {"role": "system", "content": text}
        case Returned(call_id, output):
            return {"role": "tool", "tool_call_id": call_id, "content": output}
        case Called():
            return {"role": "assistant", "tool_calls": [_call(turn)]}


def _call(call: Called) -> chat.ChatCompletionMessageFunctionToolCallParam:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tools(request: ModelRequest) -> list[chat.ChatCompletionToolUnionParam] | openai.Omit:
    if not request.tools:
        return openai.omit
    found: list[chat.ChatCompletionToolUnionParam] = []
    for tool in request.tools:
        parameters: dict[str, object] = {**tool.parameters}
        found.append(
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
            }
        )
    return found


def _tool_choice(request: ModelRequest) -> chat.ChatCompletionToolChoiceOptionParam | openai.Omit:
    if not request.tools:
        return openai.omit
    match request.tool_choice:
        case "auto" | "none" | "required" as choice:
            return choice
        case name:
            return {"type": "function", "function": {"name": name}}


def _response_format(
    request: ModelRequest,
) -> chat.completion_create_params.ResponseFormat | openai.Omit:
    if request.json_schema is None:
        return openai.omit
    schema: dict[str, object] = {**request.json_schema}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
