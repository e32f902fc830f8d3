"""The OpenAPI 3.1 document of a registry: routes, their models, parameters, answers and credentials.

It is made from declarations alone, so it is there before, and whether or not, the application can start.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from runtime.auth import ADMIN_KEY_HEADER, FUNCTION_KEY_HEADER, KEY_QUERY_PARAMETER
from runtime.messages import Request, Response
from runtime.problems import PROBLEM_MEDIA_TYPE
from runtime.route_checks import RouteError, describe, function_of
from runtime.routes import Answers, AuthLevel, HttpMethod, Model, Route
from runtime.routes_registry import RouteRegistry

if TYPE_CHECKING:
    from pydantic import BaseModel

Schema = dict[str, object]
Mode = Literal["validation", "serialization"]

PATH = "openapi.json"
NAME = "openapi"
VERSION = "3.1.0"
JSON = "application/json"

_BODY_METHODS = frozenset({HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH})
_HEADERS: dict[str, Schema] = {
    "RequestId": {
        "description": "The caller's own x-request-id, if it was sane, or a new one; logs name it.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 64},
    },
    "TraceResponse": {
        "description": "The trace that the request belongs to (W3C Trace Context).",
        "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
}
_EVERY_ANSWER: Schema = {
    "x-request-id": {"$ref": "#/components/headers/RequestId"},
    "traceresponse": {"$ref": "#/components/headers/TraceResponse"},
}
_PROBLEM: Schema = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "The same for every occurrence."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string", "description": "For programs to compare.", "pattern": "^[a-z][a-z0-9_]*$"},
        "detail": {"type": "string", "description": "What happened this time, and what to do about it."},
        "request_id": {"type": "string"},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) into what was sent."},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def openapi_route(registry: RouteRegistry, *, title: str, version: str, prefix: str, tokens: bool) -> Route | None:
    """The route that serves the document of `registry`; None if the application has one of that path or name."""
    if registry.get_route(PATH) is not None or registry.get(NAME) is not None:
        return None
    made: list[bytes] = []

    def document(request: Request) -> Response:
        """This document."""
        del request
        if not made:
            from pydantic_core import to_json

            made.append(to_json(openapi_document(registry, title=title, version=version, prefix=prefix, tokens=tokens)))
        return Response(body=made[0], media_type=JSON)

    return Route(
        PATH, document, (HttpMethod.GET,), AuthLevel.ANONYMOUS, NAME, "This document.", ("meta",), needs_app=False
    )


def openapi_document(
    registry: RouteRegistry, *, title: str, version: str, prefix: str = "/api", tokens: bool = False
) -> dict[str, object]:
    """The document.

    Args:
        prefix: Before every path.
        tokens: Whether bearer tokens are accepted beside keys.
    """
    own = openapi_route(registry, title=title, version=version, prefix=prefix, tokens=tokens)
    routes = [*registry.http_routes, *([own] if own is not None else [])]
    schemas, reference = _schemas(routes)
    paths: dict[str, Schema] = {}
    base = "/" + prefix.strip("/") if prefix.strip("/") else ""
    for route in routes:
        for method in route.methods:
            operation = _operation(route, method, reference, tokens)
            paths.setdefault(f"{base}/{route.path}", {})[method.lower()] = operation
    schemes: dict[str, Schema] = {
        "functionKey": {"type": "apiKey", "in": "header", "name": FUNCTION_KEY_HEADER},
        "functionKeyParameter": {"type": "apiKey", "in": "query", "name": KEY_QUERY_PARAMETER},
        "adminKey": {"type": "apiKey", "in": "header", "name": ADMIN_KEY_HEADER},
    }
    if tokens:
        schemes["token"] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM},
            "headers": _HEADERS,
            "securitySchemes": schemes,
        },
    }


def _schemas(routes: Iterable[Route]) -> tuple[dict[str, Schema], Callable[[Model, Mode], Schema]]:
    """The schemas of all models by name, and what refers to one of them."""
    from pydantic.json_schema import models_json_schema

    inputs: list[tuple[type[BaseModel], Mode]] = []
    for route in routes:
        if route.request_model is not None:
            inputs.append((route.request_model, "validation"))
        models = [route.response_model, *(answer.model for answer in route.answers.values())]
        inputs += [(_found(model, route), "serialization") for model in models if model is not None]
    unique = list(dict.fromkeys(inputs))
    if not unique:
        return {}, lambda model, mode: {}
    references, definitions = models_json_schema(unique, ref_template="#/components/schemas/{model}")
    known: dict[str, Schema] = definitions.get("$defs", {})
    return known, lambda model, mode: dict(references[_imported(model), mode])


def _found(model: Model, route: Route) -> type[BaseModel]:
    try:
        return _imported(model)
    except (ImportError, AttributeError, TypeError) as error:
        raise RouteError([describe(route, f"the model {model!r} cannot be had: {error}")]) from error


def _imported(model: Model) -> type[BaseModel]:
    from pydantic import BaseModel

    found = pkgutil.resolve_name(model) if isinstance(model, str) else model
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise TypeError("it is no pydantic model")
    return found


def _operation(route: Route, method: HttpMethod, reference: Callable[[Model, Mode], Schema], tokens: bool) -> Schema:
    name = route.name if len(route.methods) == 1 else f"{route.name}_{method.lower()}"
    operation: Schema = {"operationId": name, "responses": _responses(route, method, reference)}
    if route.description:
        operation["summary"] = route.description
    text = inspect.getdoc(function_of(route.handler)) or ""
    if "\n" in text:
        operation["description"] = text
    if route.tags:
        operation["tags"] = list(route.tags)
    parameters = _parameters(route)
    if parameters:
        operation["parameters"] = parameters
    if route.request_model is not None and method in _BODY_METHODS:
        schema = reference(route.request_model, "validation")
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    operation["security"] = _security(route, tokens)
    return operation


def _parameters(route: Route) -> list[Schema]:
    from runtime.parameters import adapter

    described: list[Schema] = []
    declared = {(parameter.where, parameter.name) for parameter in route.parameters}
    for segment in route.segments:
        if segment.startswith("{") and ("path", segment[1:-1]) not in declared:
            schema: Schema = {"type": "string", "minLength": 1}
            described.append({"name": segment[1:-1], "in": "path", "required": True, "schema": schema})
    for parameter in route.parameters:
        item: Schema = {
            "name": parameter.name,
            "in": parameter.where,
            "required": parameter.required or parameter.where == "path",
            "schema": adapter(parameter).json_schema(),
        }
        if parameter.description:
            item["description"] = parameter.description
        described.append(item)
    return described


def _responses(route: Route, method: HttpMethod, reference: Callable[[Model, Mode], Schema]) -> dict[str, Schema]:
    answers = dict(route.answers)
    if route.response_model is not None:
        answers.setdefault(200, Answers("The answer.", route.response_model))
    responses: dict[str, Schema] = {}
    for status, answer in answers.items():
        content: Schema = {}
        if answer.model is not None:
            content[JSON] = {"schema": reference(answer.model, "serialization")}
        for media_type, why in answer.media_types.items():
            content[media_type] = {"schema": {"type": "string", "description": why}}
        named = {name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()}
        responses[str(status)] = {"description": answer.description, "headers": {**_EVERY_ANSWER, **named}}
        if content:
            responses[str(status)]["content"] = content
    if not any(status < 400 for status in answers):
        responses["200"] = {"description": "The answer.", "headers": _EVERY_ANSWER}
    problem: dict[str, object] = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in _problems(route, method):
        plain: Schema = {"description": HTTPStatus(status).phrase, "headers": _EVERY_ANSWER}
        known = responses.get(str(status), plain)
        described = known.get("content")
        both = {**described, **problem} if isinstance(described, dict) else problem
        responses[str(status)] = {**known, "content": both}
    return dict(sorted(responses.items()))


def _problems(route: Route, method: HttpMethod) -> Sequence[int]:
    """The statuses that the runtime answers by itself, and those that the route declares."""
    statuses = {500, *route.problems}
    if route.auth_level is not AuthLevel.ANONYMOUS:
        statuses |= {401, 403}
    if route.parameters:
        statuses.add(400)
    if method in _BODY_METHODS:
        statuses |= {400, 408, 413, 415}
        if route.request_model is not None:
            statuses.add(422)
    if route.needs_app:
        statuses.add(503)
    return sorted(statuses)


def _security(route: Route, tokens: bool) -> list[Schema]:
    if route.auth_level is AuthLevel.ANONYMOUS:
        return []
    keys = ["adminKey"] if route.auth_level is AuthLevel.ADMIN else ["functionKey", "functionKeyParameter"]
    accepted: list[Schema] = [{key: []} for key in keys]
    if tokens:
        accepted.append({"token": [*route.scopes, *(["admin"] if route.auth_level is AuthLevel.ADMIN else [])]})
    return accepted
