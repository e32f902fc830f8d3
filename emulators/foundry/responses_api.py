"""Runtime routes of the responses protocol: responses, below ``{endpoint}/openai/v1``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from emulators.foundry.agents_api import Metadata, PromptDefinition
from emulators.foundry.azure_functions import FunctionCaller, azure_functions
from emulators.foundry.conversations_api import Locks
from emulators.foundry.deployments import deployment_not_found
from emulators.foundry.edge import Edge, json_response, list_response, page_query, read_body
from emulators.foundry.errors import ApiError, not_found
from emulators.foundry.items import Input, check_pairing, new_id, turns, wire_item
from emulators.foundry.model import JsonObject, Model, ModelError, ModelRequest, input_tokens
from emulators.foundry.response_run import ResponseRun
from emulators.foundry.state import State
from emulators.foundry.tool_definitions import check_tools, functions

OnDisconnect = Literal["finish", "drop"]
DEFAULT_CONTEXT_WINDOW = 131_072
MAX_CHAIN = 1000


class AgentReference(BaseModel):
    """Which agent answers; without a version its latest."""

    type: Literal["agent_reference"]
    name: str
    version: str | None = None


def _conversation_id(value: object) -> object:
    return value.get("id") if isinstance(value, dict) else value


class CreateResponse(BaseModel):
    """Body of ``POST /responses``; settings that no model here heeds are accepted and ignored."""

    model_config = ConfigDict(extra="ignore")

    input: Input = Field(default_factory=list)
    agent_reference: AgentReference | None = None
    conversation: Annotated[str | None, BeforeValidator(_conversation_id)] = None
    previous_response_id: str | None = None
    model: str | None = None
    instructions: str | None = None
    tools: list[JsonObject] | None = None
    tool_choice: JsonValue = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    text: JsonObject | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None


class ResponsesApi:
    """The routes, and the responses that are running. ``functions`` calls Azure Functions.

    ``latency`` (seconds) passes before a model begins; ``on_disconnect`` says whether a response goes on when its
    client has left; ``context_window`` counts tokens by the rule of `count_tokens`.
    """

    def __init__(
        self,
        state: State,
        model: Model,
        locks: Locks,
        functions: FunctionCaller,
        *,
        latency: float = 0.0,
        on_disconnect: OnDisconnect = "finish",
        context_window: int = DEFAULT_CONTEXT_WINDOW,
    ) -> None:
        self._state = state
        self._model = model
        self._locks = locks
        self._functions = functions
        self._latency = latency
        self._on_disconnect = on_disconnect
        self._context_window = context_window
        self._running: dict[str, ResponseRun] = {}
        for interrupted in state.interrupted():
            error = {"code": "server_error", "message": "The service stopped while this response was running."}
            state.finish_response({**interrupted, "status": "failed", "error": {**error}}, None, [])

    def routes(self, edge: Edge) -> list[Route]:
        """All routes of this file."""
        table = [
            ("POST", "/openai/v1/responses", self._create),
            ("GET", "/openai/v1/responses/{id}", self._get),
            ("DELETE", "/openai/v1/responses/{id}", self._delete),
            ("POST", "/openai/v1/responses/{id}/cancel", self._cancel),
            ("GET", "/openai/v1/responses/{id}/input_items", self._input_items),
        ]
        return [edge.route(method, path, handler, versioned=False) for method, path, handler in table]

    async def close(self) -> None:
        """Cancel what is running and wait for its end."""
        runs = list(self._running.values())
        for run in runs:
            run.cancel()
        await asyncio.gather(*(run.ended.wait() for run in runs))

    async def _create(self, request: Request) -> Response:
        body = await read_body(request, CreateResponse)
        run = self._start(body)
        if body.stream:
            return StreamingResponse(self._stream(run), media_type="text/event-stream")
        if body.background:
            return json_response(run.response)
        await self._wait(run, request)
        if run.error is not None and run.error.status is not None:
            error = run.error
            raise ApiError(run.error.status, error.code, error.message, retry_after=error.retry_after)
        return json_response(run.response)

    def _start(self, body: CreateResponse) -> ResponseRun:
        # no await in here: what is checked still holds when the response begins
        definition = self._definition(body)
        history = self._history(body)
        items = [wire_item(item) for item in body.input]
        if body.conversation is not None:
            self._locks.check(body.conversation)
        check_pairing(history, items, settle=True)
        if not history and not items:
            raise ApiError(400, "missing_required_parameter", "input: required, as there is no history.", param="input")
        asked = _model_request(body, definition, [*history, *items])
        try:
            if input_tokens(asked) > self._context_window:
                message = f"Your input exceeds the context window of {self._context_window} tokens of this model."
                raise ModelError("context_length_exceeded", message, status=400)
            self._model.check(asked)
        except ModelError as error:
            raise ApiError(error.status or 400, error.code, error.message, param="input") from error
        response = self._response_object(body, definition)
        self._state.begin_response(response, body.conversation, items)
        run = ResponseRun(
            self._state,
            self._model,
            asked,
            response,
            body.conversation,
            latency=self._latency,
            on_end=self._ended,
            served=azure_functions([*(definition.tools or [])]),
            functions=self._functions,
        )
        self._running[str(response["id"])] = run
        if body.conversation is not None:
            self._locks.hold(body.conversation)
        return run

    def _ended(self, run: ResponseRun) -> None:
        response_id = str(run.response["id"])
        del self._running[response_id]
        if run.conversation is not None:
            self._locks.release(run.conversation)
        if run.response["store"] is False:
            self._state.delete_response(response_id)

    def _definition(self, body: CreateResponse) -> PromptDefinition:
        reference = body.agent_reference
        if reference is not None:
            for field in ("model", "instructions", "tools", "tool_choice", "temperature", "top_p", "text"):
                if getattr(body, field) is not None:
                    raise ApiError(400, "invalid_payload", "Not allowed when agent is specified.", param=field)
            version = self._state.version(reference.name, reference.version)
            if version is None:
                label = reference.name if reference.version is None else f"{reference.name}:{reference.version}"
                raise not_found("Agent", label)
            body.agent_reference = AgentReference(
                type="agent_reference", name=reference.name, version=str(version["version"])
            )
            definition = PromptDefinition.model_validate(version["definition"])
        elif body.model is None:
            message = "model: required unless agent_reference {type, name} names an agent."
            raise ApiError(400, "missing_required_parameter", message, param="model")
        else:
            check_tools(body.tools or [], "tools")
            fields = body.model_dump(include={"model", "instructions", "tools", "tool_choice", "temperature", "top_p"})
            definition = PromptDefinition.model_validate({"kind": "prompt", "text": body.text, **fields})
        if self._state.deployment(definition.model) is None:
            raise deployment_not_found(definition.model)
        return definition

    def _history(self, body: CreateResponse) -> list[JsonObject]:
        if body.conversation is not None and body.previous_response_id is not None:
            message = "previous_response_id and conversation exclude each other."
            raise ApiError(400, "mutually_exclusive_parameters", message, param="previous_response_id")
        if body.conversation is not None:
            if self._state.conversation(body.conversation) is None:
                raise not_found("Conversation", body.conversation)
            return self._state.history(body.conversation)
        chain: list[JsonObject] = []
        previous = body.previous_response_id
        for _ in range(MAX_CHAIN):
            if previous is None:
                return chain
            stored = self._state.response(previous)
            if stored is None:
                raise not_found("Previous response", previous)
            output = stored.body["output"]
            chain[:0] = [*stored.input, *(item for item in _list(output) if isinstance(item, dict))]
            link = stored.body.get("previous_response_id")
            previous = link if isinstance(link, str) else None
        raise ApiError(400, "invalid_payload", f"The chain is longer than {MAX_CHAIN}.", param="previous_response_id")

    def _response_object(self, body: CreateResponse, definition: PromptDefinition) -> JsonObject:
        reference = body.agent_reference
        extra = definition.model_extra or {}
        response: JsonObject = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": bool(body.background),
            "error": None,
            "incomplete_details": None,
            "instructions": definition.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {**(body.metadata or {}), "emulator": self._model.kind, "model_kind": self._model.kind},
            "model": definition.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": 1.0 if definition.temperature is None else definition.temperature,
            "text": extra.get("text") or {"format": {"type": "text"}},
            "tool_choice": definition.tool_choice or "auto",
            "tools": [*(definition.tools or [])],
            "top_p": 1.0 if definition.top_p is None else definition.top_p,
            "truncation": "disabled",
            "usage": None,
        }
        if body.conversation is not None:
            response["conversation"] = {"id": body.conversation}
        if reference is not None:
            response["agent_reference"] = {**reference.model_dump()}
        return response

    async def _stream(self, run: ResponseRun) -> AsyncIterator[str]:
        try:
            async for event in run.events():
                data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
                yield f"event: {event['type']}\ndata: {data}\n\n"
        finally:
            self._client_left(run)

    async def _wait(self, run: ResponseRun, request: Request) -> None:
        ended = asyncio.create_task(run.ended.wait())
        left = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({ended, left}, return_when=asyncio.FIRST_COMPLETED)
            if not run.ended.is_set():
                self._client_left(run)
                await ended
        finally:
            left.cancel()
            ended.cancel()
            await asyncio.gather(left, ended, return_exceptions=True)

    def _client_left(self, run: ResponseRun) -> None:
        if self._on_disconnect == "drop" and not run.ended.is_set() and not run.response["background"]:
            run.cancel()

    async def _get(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        if request.query_params.get("stream", "false").lower() == "true":
            raise ApiError(400, "invalid_payload", "stream: a stored response is returned whole.", param="stream")
        running = self._running.get(response_id)
        if running is not None:
            return json_response(running.response)
        stored = self._state.response(response_id)
        if stored is None:
            raise not_found("Response", response_id)
        return json_response(stored.body)

    async def _delete(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        if response_id in self._running:
            raise ApiError(409, "response_in_progress", f"Response '{response_id}' is running: cancel it first.")
        if not self._state.delete_response(response_id):
            raise not_found("Response", response_id)
        return json_response({"id": response_id, "object": "response.deleted", "deleted": True})

    async def _cancel(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        run = self._running.get(response_id)
        if run is None:
            stored = self._state.response(response_id)
            if stored is None:
                raise not_found("Response", response_id)
            if stored.body["background"] is not True:
                raise ApiError(400, "invalid_payload", "Cannot cancel a synchronous response.")
            return json_response(stored.body)
        if run.response["background"] is not True:
            raise ApiError(400, "invalid_payload", "Cannot cancel a synchronous response.")
        run.cancel()
        await run.ended.wait()
        return json_response(run.response)

    async def _input_items(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        stored = self._state.response(response_id)
        if stored is None:
            raise not_found("Response", response_id)
        query = page_query(request)
        items = stored.input if query.order == "asc" else stored.input[::-1]
        ids = [item["id"] for item in items]
        start = ids.index(query.after) + 1 if query.after in ids else 0
        page = items[start : start + query.limit]
        return list_response(page, has_more=start + query.limit < len(items))


async def _disconnected(request: Request) -> None:
    await request.receive()  # the body has been read: the next message is the disconnect


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _model_request(body: CreateResponse, definition: PromptDefinition, items: list[JsonObject]) -> ModelRequest:
    match definition.tool_choice:
        case str(choice):
            pass
        case {"type": "function", "name": str(choice)}:
            pass
        case _:
            choice = "auto"
    schema: JsonObject | None = None
    match (definition.model_extra or {}).get("text"):
        case {"format": {"type": "json_schema", "schema": dict(found)}}:
            schema = found
    return ModelRequest(
        deployment=definition.model,
        instructions=definition.instructions or "",
        history=turns(items),
        tools=functions([*(definition.tools or [])]),
        tool_choice=choice,
        parallel_calls=body.parallel_tool_calls is not False,
        temperature=definition.temperature,
        top_p=definition.top_p,
        max_output_tokens=body.max_output_tokens,
        json_schema=schema,
    )
