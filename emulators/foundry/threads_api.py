"""Routes of threads and their messages, and refusals of what the emulator lacks (``api-version=v1``)."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulators.foundry.assistants_api import check_enabled
from emulators.foundry.database import UnknownCursor
from emulators.foundry.edge import Edge, json_response, list_response, page_query, read_body, unknown_cursor
from emulators.foundry.errors import ApiError, not_found
from emulators.foundry.model import JsonObject
from emulators.foundry.run_engine import RunEngine
from emulators.foundry.thread_bodies import (
    MAX_MESSAGES_PER_THREAD,
    CreateMessage,
    CreateThread,
    Update,
    check_no_files,
    message_object,
    message_objects,
    thread_object,
)
from emulators.foundry.thread_state import ThreadState


class ThreadsApi:
    """The routes over one store; ``enabled`` False refuses new threads."""

    def __init__(self, store: ThreadState, runs: RunEngine, clock: Callable[[], float], *, enabled: bool) -> None:
        self._store = store
        self._runs = runs
        self._clock = clock
        self._enabled = enabled

    def routes(self, edge: Edge) -> list[Route]:
        """All routes of this file; ``POST /threads/runs`` must stand before them."""
        table = [
            ("POST", "/threads", self._create),
            ("GET", "/threads", self._list),
            ("GET", "/threads/{thread}", self._get),
            ("POST", "/threads/{thread}", self._update),
            ("DELETE", "/threads/{thread}", self._delete),
            ("POST", "/threads/{thread}/messages", self._create_message),
            ("GET", "/threads/{thread}/messages", self._list_messages),
            ("GET", "/threads/{thread}/messages/{message}", self._get_message),
            ("POST", "/threads/{thread}/messages/{message}", self._update_message),
        ]
        for path in ("/files", "/files/{rest:path}", "/vector_stores", "/vector_stores/{rest:path}"):
            table.extend((method, path, _not_here) for method in ("GET", "POST", "DELETE"))
        return [edge.route(method, path, handler, versioned=True) for method, path, handler in table]

    async def _create(self, request: Request) -> Response:
        check_enabled(self._enabled)
        body = await read_body(request, CreateThread)
        now = int(self._clock())
        thread = thread_object(body, now)
        self._store.create_thread(thread, message_objects(str(thread["id"]), body.messages, now, "messages"))
        return json_response(thread)

    async def _list(self, request: Request) -> Response:
        try:
            page = self._store.page("thread", None, page_query(request))
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response(page.data, has_more=page.has_more)

    async def _get(self, request: Request) -> Response:
        return json_response(require_thread(self._store, request))

    async def _update(self, request: Request) -> Response:
        body = await read_body(request, Update)
        check_no_files(body.tool_resources, "tool_resources")
        thread = {**require_thread(self._store, request), **body.model_dump(exclude_unset=True, exclude_none=True)}
        self._store.put(thread)
        return json_response(thread)

    async def _delete(self, request: Request) -> Response:
        thread_id = str(require_thread(self._store, request)["id"])
        await self._runs.drop(thread_id)
        self._store.delete(thread_id)
        return json_response({"id": thread_id, "object": "thread.deleted", "deleted": True})

    # Messages

    async def _create_message(self, request: Request) -> Response:
        body = await read_body(request, CreateMessage)
        thread_id = str(require_thread(self._store, request)["id"])
        active = self._runs.active(thread_id)
        if active is not None:
            message = f"Can't add messages to {thread_id} while a run {active['id']} is active."
            raise ApiError(400, "invalid_request_error", message)
        check_room(self._store, thread_id, 1)
        added = message_object(thread_id, body, int(self._clock()))
        self._store.add("message", thread_id, added)
        return json_response(added)

    async def _list_messages(self, request: Request) -> Response:
        thread_id = str(require_thread(self._store, request)["id"])
        run = request.query_params.get("run_id", "")
        try:
            page = self._store.page("message", thread_id, page_query(request), run=run)
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response(page.data, has_more=page.has_more)

    def _message(self, request: Request) -> JsonObject:
        thread_id = str(require_thread(self._store, request)["id"])
        message_id = request.path_params["message"]
        message = self._store.get("message", thread_id, message_id)
        if message is None:
            raise not_found("Message", message_id)
        return message

    async def _get_message(self, request: Request) -> Response:
        return json_response(self._message(request))

    async def _update_message(self, request: Request) -> Response:
        body = await read_body(request, Update)
        message = self._message(request)
        if message["status"] == "in_progress":
            raise ApiError(400, "invalid_request_error", f"Message '{message['id']}' is still being written.")
        message = {**message, **body.model_dump(include={"metadata"}, exclude_none=True)}
        self._store.put(message)
        return json_response(message)


def require_thread(store: ThreadState, request: Request) -> JsonObject:
    """The thread that a path names.

    Raises:
        ApiError: 404.
    """
    thread_id = request.path_params["thread"]
    thread = store.get("thread", None, thread_id)
    if thread is None:
        raise not_found("Thread", thread_id)
    return thread


def check_room(store: ThreadState, thread_id: str, more: int) -> None:
    """Refuse messages beyond what a thread holds.

    Raises:
        ApiError: 400.
    """
    if store.count("message", thread_id) + more > MAX_MESSAGES_PER_THREAD:
        message = f"Thread '{thread_id}' holds {MAX_MESSAGES_PER_THREAD} messages, the most allowed. Open a new one."
        raise ApiError(400, "thread_message_limit_exceeded", message)


async def _not_here(request: Request) -> Response:
    message = f"{request.method} {request.url.path}: this emulator has no files and no vector stores."
    raise ApiError(501, "not_implemented", message)
