"""Management routes: agents, their versions, deployments (``api-version=v1``)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulators.foundry.database import UnknownCursor
from emulators.foundry.deployments import deployment_not_found
from emulators.foundry.edge import Edge, json_response, list_response, page_query, read_body, unknown_cursor
from emulators.foundry.errors import ApiError, not_found
from emulators.foundry.model import JsonObject
from emulators.foundry.state import State
from emulators.foundry.tool_definitions import check_tools

MAX_VERSIONS = 1000
_AGENT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class PromptDefinition(BaseModel):
    """The part of a prompt agent's definition that the emulator reads; the rest is kept as it came."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["prompt"]
    model: str = Field(min_length=1)
    instructions: str | None = None
    tools: list[JsonObject] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    tool_choice: JsonValue = None


class CreateVersion(BaseModel):
    """Body of ``POST /agents/{name}/versions``."""

    definition: PromptDefinition
    description: str | None = Field(default=None, max_length=512)
    metadata: Metadata | None = None
    draft: bool = False


class AgentsApi:
    """The routes over one `State`."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self, edge: Edge) -> list[Route]:
        """All routes of this file."""
        table = [
            ("GET", "/agents", self._list_agents),
            ("GET", "/agents/{name}", self._get_agent),
            ("DELETE", "/agents/{name}", self._delete_agent),
            ("POST", "/agents/{name}/versions", self._create_version),
            ("GET", "/agents/{name}/versions", self._list_versions),
            ("GET", "/agents/{name}/versions/{version}", self._get_version),
            ("DELETE", "/agents/{name}/versions/{version}", self._delete_version),
            ("GET", "/deployments", self._list_deployments),
            ("GET", "/deployments/{name}", self._get_deployment),
        ]
        return [edge.route(method, path, handler, versioned=True) for method, path, handler in table]

    async def _create_version(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not _AGENT_NAME.fullmatch(name):
            raise ApiError(
                400,
                "invalid_agent_name",
                f"Agent name '{name}': 1 to 63 letters, digits or hyphens; it begins and ends with a letter or digit.",
                param="name",
            )
        body = await read_body(request, CreateVersion)
        check_tools(body.definition.tools or [], "definition.tools")
        if self._state.deployment(body.definition.model) is None:
            raise deployment_not_found(body.definition.model, status=400)
        if self._state.version_count(name) >= MAX_VERSIONS:
            message = f"Agent '{name}' has {MAX_VERSIONS} versions, the most allowed. Delete old ones first."
            raise ApiError(400, "agent_version_limit_exceeded", message)
        fields: JsonObject = {
            "description": body.description,
            "metadata": {**(body.metadata or {})},
            "definition": body.definition.model_dump(mode="json", exclude_unset=True),
        }
        return json_response(self._state.create_version(name, fields, draft=body.draft))

    def _agent_object(self, name: str) -> JsonObject:
        latest = self._state.version(name)
        if latest is None:
            raise not_found("Agent", name)
        return {
            "object": "agent",
            "id": name,
            "name": name,
            "state": "enabled",
            "configuration_state": "enabled",
            "versions": {"latest": latest},
        }

    async def _get_agent(self, request: Request) -> Response:
        return json_response(self._agent_object(request.path_params["name"]))

    async def _list_agents(self, request: Request) -> Response:
        if request.query_params.get("kind", "prompt") != "prompt":
            return list_response([], has_more=False)
        try:
            page = self._state.agents(page_query(request))
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response([self._agent_object(name) for name in page.data], has_more=page.has_more)

    async def _delete_agent(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not self._state.delete_agent(name):
            raise not_found("Agent", name)
        return json_response({"object": "agent.deleted", "name": name, "deleted": True})

    async def _list_versions(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._agent_object(name)
        drafts = request.query_params.get("include_drafts", "false").lower() == "true"
        try:
            page = self._state.versions(name, page_query(request), drafts=drafts)
        except UnknownCursor as cursor:
            raise unknown_cursor(cursor) from cursor
        return list_response(page.data, has_more=page.has_more)

    async def _get_version(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params["version"]
        found = self._state.version(name, version)
        if found is None:
            raise not_found("Agent version", f"{name}:{version}")
        return json_response(found)

    async def _delete_version(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params["version"]
        if not self._state.delete_version(name, version):
            raise not_found("Agent version", f"{name}:{version}")
        deleted = {"object": "agent.version.deleted", "name": name, "version": version, "deleted": True}
        return json_response(deleted)

    async def _list_deployments(self, request: Request) -> Response:
        wanted = {
            field: request.query_params[parameter]
            for parameter, field in (
                ("modelPublisher", "modelPublisher"),
                ("modelName", "modelName"),
                ("deploymentType", "type"),
            )
            if parameter in request.query_params
        }
        found = [d for d in self._state.deployments() if all(d[field] == value for field, value in wanted.items())]
        return json_response({"value": found})

    async def _get_deployment(self, request: Request) -> Response:
        deployment = self._state.deployment(request.path_params["name"])
        if deployment is None:
            raise deployment_not_found(request.path_params["name"])
        return json_response(deployment)
