"""Runtime routes of conversations and their items, below ``{endpoint}/openai/v1``."""

from __future__ import annotations

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulators.foundry.agents_api import Metadata
from emulators.foundry.database import UnknownCursor
from emulators.foundry.edge import Edge, json_response, list_response, page_query, read_body, unknown_cursor
from emulators.foundry.errors import ApiError, not_found
from emulators.foundry.items import Input, check_pairing, new_id, wire_item
from emulators.foundry.state import State

MAX_ITEMS_PER_CALL = 20


class Locks:
    """Conversations that a running response holds."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def check(self, conversation_id: str) -> None:
        """Refuse with 409 ``conversation_locked`` while a response holds the conversation."""
        if conversation_id in self._held:
            message = "Another process is currently operating on this conversation. Please retry in a few seconds."
            raise ApiError(409, "conversation_locked", message, param="conversation")

    def hold(self, conversation_id: str) -> None:
        """Take it, after `check`."""
        self._held.add(conversation_id)

    def release(self, conversation_id: str) -> None:
        """Let go of it."""
        self._held.discard(conversation_id)


class CreateConversation(BaseModel):
    """Body of ``POST /conversations``."""

    items: Input | None = Field(default=None, max_length=MAX_ITEMS_PER_CALL)
    metadata: Metadata | None = None


class UpdateConversation(BaseModel):
    """Body of ``POST /conversations/{id}``."""

    metadata: Metadata


class CreateItems(BaseModel):
    """Body of ``POST /conversations/{id}/items``."""

    items: Input = Field(min_length=1, max_length=MAX_ITEMS_PER_CALL)


class ConversationsApi:
    """The routes over one `State`."""

    def __init__(self, state: State, locks: Locks) -> None:
        self._state = state
        self._locks = locks

    def routes(self, edge: Edge) -> list[Route]:
        """All routes of this file."""
        table = [
            ("POST", "/openai/v1/conversations", self._create),
            ("GET", "/openai/v1/conversations/{id}", self._get),
            ("POST", "/openai/v1/conversations/{id}", self._update),
            ("DELETE", "/openai/v1/conversations/{id}", self._delete),
            ("GET", "/openai/v1/conversations/{id}/items", self._list_items),
            ("POST", "/openai/v1/conversations/{id}/items", self._create_items),
            ("GET", "/openai/v1/conversations/{id}/items/{item}", self._get_item),
            ("DELETE", "/openai/v1/conversations/{id}/items/{item}", self._delete_item),
        ]
        return [edge.route(method, path, handler, versioned=False) for method, path, handler in table]

    def _require(self, request: Request) -> str:
        conversation_id = str(request.path_params["id"])
        if self._state.conversation(conversation_id) is None:
            raise not_found("Conversation", conversation_id)
        return conversation_id

    async def _create(self, request: Request) -> Response:
        body = await read_body(request, CreateConversation)
        items = [wire_item(item) for item in body.items or []]
        check_pairing([], items, settle=False)
        return json_response(self._state.create_conversation(new_id("conv"), body.metadata or {}, items))

    async def _get(self, request: Request) -> Response:
        return json_response(self._state.conversation(self._require(request)))

    async def _update(self, request: Request) -> Response:
        conversation_id = self._require(request)
        body = await read_body(request, UpdateConversation)
        self._state.update_conversation(conversation_id, body.metadata)
        return json_response(self._state.conversation(conversation_id))

    async def _delete(self, request: Request) -> Response:
        conversation_id = self._require(request)
        self._locks.check(conversation_id)
        self._state.delete_conversation(conversation_id)
        return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    async def _list_items(self, request: Request) -> Response:
        conversation_id = self._require(request)
        try:
            page = self._state.items(conversation_id, page_query(request))
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response(page.data, has_more=page.has_more)

    async def _create_items(self, request: Request) -> Response:
        body = await read_body(request, CreateItems)
        conversation_id = self._require(request)
        self._locks.check(conversation_id)
        items = [wire_item(item) for item in body.items]
        check_pairing(self._state.history(conversation_id), items, settle=False)
        self._state.append_items(conversation_id, items)
        return list_response(items, has_more=False)

    async def _get_item(self, request: Request) -> Response:
        conversation_id, item_id = self._require(request), request.path_params["item"]
        item = self._state.item(conversation_id, item_id)
        if item is None:
            raise not_found("Item", item_id)
        return json_response(item)

    async def _delete_item(self, request: Request) -> Response:
        conversation_id, item_id = self._require(request), request.path_params["item"]
        self._locks.check(conversation_id)
        if not self._state.delete_item(conversation_id, item_id):
            raise not_found("Item", item_id)
        return json_response(self._state.conversation(conversation_id))
