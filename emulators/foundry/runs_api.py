"""Routes of runs and their steps (``api-version=v1``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from emulators.foundry.assistants_api import check_connected, check_enabled, require_assistant
from emulators.foundry.database import UnknownCursor
from emulators.foundry.deployments import deployment_not_found
from emulators.foundry.edge import Edge, json_response, list_response, page_query, read_body, unknown_cursor
from emulators.foundry.errors import ApiError, not_found
from emulators.foundry.model import JsonObject
from emulators.foundry.responses_api import OnDisconnect
from emulators.foundry.run_engine import RunEngine, RunLeg
from emulators.foundry.run_object import run_object
from emulators.foundry.run_record import ENDED
from emulators.foundry.state import State
from emulators.foundry.thread_bodies import (
    CreateRun,
    CreateThread,
    CreateThreadAndRun,
    RunSettings,
    SubmitToolOutputs,
    ToolOutput,
    Update,
    check_no_files,
    message_objects,
    thread_object,
)
from emulators.foundry.thread_state import ThreadState
from emulators.foundry.threads_api import check_room, require_thread
from emulators.foundry.tool_definitions import check_tools


class RunsApi:
    """The routes; ``expiry`` is a run's life in seconds, ``enabled`` False refuses new runs."""

    def __init__(
        self,
        state: State,
        store: ThreadState,
        runs: RunEngine,
        clock: Callable[[], float],
        *,
        expiry: float,
        on_disconnect: OnDisconnect,
        enabled: bool,
    ) -> None:
        self._state = state
        self._store = store
        self._runs = runs
        self._clock = clock
        self._expiry = expiry
        self._on_disconnect = on_disconnect
        self._enabled = enabled

    def routes(self, edge: Edge) -> list[Route]:
        """All routes of this file."""
        run = "/threads/{thread}/runs/{run}"
        table = [
            ("POST", "/threads/runs", self._create_with_thread),
            ("POST", "/threads/{thread}/runs", self._create),
            ("GET", "/threads/{thread}/runs", self._list),
            ("GET", run, self._get),
            ("POST", run, self._update),
            ("POST", f"{run}/cancel", self._cancel),
            ("POST", f"{run}/submit_tool_outputs", self._submit),
            ("GET", f"{run}/steps", self._list_steps),
            ("GET", f"{run}/steps/{{step}}", self._get_step),
        ]
        return [edge.route(method, path, handler, versioned=True) for method, path, handler in table]

    async def _create(self, request: Request) -> Response:
        check_enabled(self._enabled)
        body = await read_body(request, CreateRun)
        thread_id = str(require_thread(self._store, request)["id"])
        run = self._run_object(body, thread_id, body.additional_instructions)
        active = self._runs.active(thread_id)
        if active is not None:
            message = f"Thread {thread_id} already has an active run {active['id']}."
            raise ApiError(400, "invalid_request_error", message)
        check_room(self._store, thread_id, len(body.additional_messages or ()))
        added = message_objects(thread_id, body.additional_messages, int(self._clock()), "additional_messages")
        self._store.create_run(run, added)
        return self._answer(self._runs.start(run), stream=bool(body.stream))

    async def _create_with_thread(self, request: Request) -> Response:
        check_enabled(self._enabled)
        body = await read_body(request, CreateThreadAndRun)
        now = int(self._clock())
        given = body.thread or CreateThread()
        thread = thread_object(given, now)
        thread_id = str(thread["id"])
        run = self._run_object(body, thread_id, None)
        self._store.create_thread(thread, message_objects(thread_id, given.messages, now, "thread.messages"))
        self._store.create_run(run, ())
        return self._answer(self._runs.start(run, thread), stream=bool(body.stream))

    def _run_object(self, body: RunSettings, thread_id: str, additional: str | None) -> JsonObject:
        assistant = require_assistant(self._store, body.assistant_id)
        check_tools(body.tools or [], "tools", nested=True)
        check_no_files(body.tool_resources, "tool_resources")
        check_connected(self._store, body.tools)
        model = str(body.model or assistant["model"])
        if self._state.deployment(model) is None:
            raise deployment_not_found(model)
        return run_object(body, assistant, thread_id, additional, self._clock(), self._expiry)

    def _answer(self, leg: RunLeg, *, stream: bool) -> Response:
        if stream:
            return StreamingResponse(self._stream(leg), media_type="text/event-stream")
        return json_response(leg.record.run)

    async def _stream(self, leg: RunLeg) -> AsyncIterator[str]:
        try:
            async for event in leg.events():
                yield event
        finally:
            if self._on_disconnect == "drop" and not leg.ended.is_set() and leg.record.status != "cancelling":
                self._runs.cancel(leg.record.run)

    def _require(self, request: Request) -> JsonObject:
        thread_id = str(require_thread(self._store, request)["id"])
        run_id = request.path_params["run"]
        run = self._store.get("run", thread_id, run_id)
        if run is None:
            raise not_found("Run", run_id)
        return self._runs.current(run)

    async def _get(self, request: Request) -> Response:
        return json_response(self._require(request))

    async def _list(self, request: Request) -> Response:
        thread_id = str(require_thread(self._store, request)["id"])
        try:
            page = self._store.page("run", thread_id, page_query(request))
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response([self._runs.current(run) for run in page.data], has_more=page.has_more)

    async def _update(self, request: Request) -> Response:
        body = await read_body(request, Update)
        return json_response(self._runs.annotate(self._require(request), body.metadata))

    async def _cancel(self, request: Request) -> Response:
        run = self._require(request)
        if run["status"] in (*ENDED, "cancelling"):
            raise ApiError(400, "invalid_request_error", f"Cannot cancel run with status '{run['status']}'.")
        return json_response(self._runs.cancel(run))

    async def _submit(self, request: Request) -> Response:
        body = await read_body(request, SubmitToolOutputs)
        run = self._require(request)
        if run["status"] != "requires_action":
            message = f'Runs in status "{run["status"]}" do not accept tool outputs.'
            raise ApiError(400, "invalid_request_error", message)
        outputs = _outputs(run, body.tool_outputs)
        return self._answer(self._runs.submit(run, outputs), stream=bool(body.stream))

    async def _list_steps(self, request: Request) -> Response:
        run_id = str(self._require(request)["id"])
        try:
            page = self._store.page("step", run_id, page_query(request))
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response(page.data, has_more=page.has_more)

    async def _get_step(self, request: Request) -> Response:
        run_id, step_id = str(self._require(request)["id"]), request.path_params["step"]
        step = self._store.get("step", run_id, step_id)
        if step is None:
            raise not_found("Run step", step_id)
        return json_response(step)


def _outputs(run: JsonObject, given: list[ToolOutput]) -> dict[str, str]:
    expected: list[str] = []
    match run["required_action"]:
        case {"submit_tool_outputs": {"tool_calls": list(calls)}}:
            expected = [str(call["id"]) for call in calls if isinstance(call, dict)]
    got = [output.tool_call_id for output in given]
    if sorted(got) != sorted(expected):
        message = f"Expected tool outputs for call_ids {expected}, got {got}"
        raise ApiError(400, "invalid_request_error", message, param="tool_outputs")
    return {output.tool_call_id: output.output or "" for output in given}
