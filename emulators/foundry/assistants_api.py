"""Routes of assistants, the agents of the threads protocol (``api-version=v1``)."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulators.foundry.connected_agents import connected_agents
from emulators.foundry.database import UnknownCursor
from emulators.foundry.deployments import deployment_not_found
from emulators.foundry.edge import Edge, json_response, list_response, page_query, read_body, unknown_cursor
from emulators.foundry.errors import ApiError, not_found
from emulators.foundry.items import new_id
from emulators.foundry.model import JsonObject
from emulators.foundry.state import State
from emulators.foundry.thread_bodies import AssistantFields, CreateAssistant, check_no_files
from emulators.foundry.thread_state import ThreadState
from emulators.foundry.tool_definitions import check_tools


def check_enabled(enabled: bool) -> None:
    """Refuse what an administrator has switched off, by the tag ``MS-AOAI-Feature-Assistants=Disabled``."""
    if not enabled:
        message = (
            "Agents (classic) are disabled for this resource (MS-AOAI-Feature-Assistants=Disabled). "
            "Use agents and responses, or ask an administrator to enable them."
        )
        raise ApiError(403, "Forbidden", message)


class AssistantsApi:
    """The routes over both stores; ``enabled`` False refuses to create or change assistants."""

    def __init__(self, state: State, store: ThreadState, clock: Callable[[], float], *, enabled: bool) -> None:
        self._state = state
        self._store = store
        self._clock = clock
        self._enabled = enabled

    def routes(self, edge: Edge) -> list[Route]:
        """All routes of this file."""
        table = [
            ("POST", "/assistants", self._create),
            ("GET", "/assistants", self._list),
            ("GET", "/assistants/{assistant}", self._get),
            ("POST", "/assistants/{assistant}", self._update),
            ("DELETE", "/assistants/{assistant}", self._delete),
        ]
        return [edge.route(method, path, handler, versioned=True) for method, path, handler in table]

    def _require(self, request: Request) -> JsonObject:
        return require_assistant(self._store, request.path_params["assistant"])

    def _check(self, body: AssistantFields) -> None:
        check_tools(body.tools or [], "tools", nested=True)
        check_no_files(body.tool_resources, "tool_resources")
        check_connected(self._store, body.tools)
        if body.model is not None and self._state.deployment(body.model) is None:
            raise deployment_not_found(body.model, status=400)

    async def _create(self, request: Request) -> Response:
        check_enabled(self._enabled)
        body = await read_body(request, CreateAssistant)
        self._check(body)
        assistant: JsonObject = {
            "id": new_id("asst"),
            "object": "assistant",
            "created_at": int(self._clock()),
            "name": body.name,
            "description": body.description,
            "model": body.model,
            "instructions": body.instructions,
            "tools": [*(body.tools or [])],
            "tool_resources": body.tool_resources or {},
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "response_format": body.response_format or "auto",
            "metadata": {**(body.metadata or {})},
        }
        self._store.add("assistant", None, assistant)
        return json_response(assistant)

    async def _list(self, request: Request) -> Response:
        try:
            page = self._store.page("assistant", None, page_query(request))
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response(page.data, has_more=page.has_more)

    async def _get(self, request: Request) -> Response:
        return json_response(self._require(request))

    async def _update(self, request: Request) -> Response:
        check_enabled(self._enabled)
        body = await read_body(request, AssistantFields)
        self._check(body)
        assistant = {**self._require(request), **body.model_dump(mode="json", exclude_unset=True, exclude_none=True)}
        self._store.put(assistant)
        return json_response(assistant)

    async def _delete(self, request: Request) -> Response:
        assistant_id = str(self._require(request)["id"])
        self._store.delete(assistant_id)
        return json_response({"id": assistant_id, "object": "assistant.deleted", "deleted": True})


def check_connected(store: ThreadState, tools: list[JsonObject] | None) -> None:
    """Refuse checked tools that connect an assistant that does not exist.

    Raises:
        ApiError: 400.
    """
    for agent in connected_agents([*(tools or [])]).values():
        if store.get("assistant", None, agent.id) is None:
            message = f"Connected agent '{agent.name}': no assistant found with id '{agent.id}'."
            raise ApiError(400, "invalid_request_error", message, param="tools")


def require_assistant(store: ThreadState, assistant_id: str) -> JsonObject:
    """An assistant by id.

    Raises:
        ApiError: 404.
    """
    assistant = store.get("assistant", None, assistant_id)
    if assistant is None:
        raise not_found("Assistant", assistant_id)
    return assistant
