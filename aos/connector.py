"""The API of AOS as a custom connector of the Power Platform takes it: OpenAPI 2.0, below 1 MB, one way to sign in.

Rules: https://learn.microsoft.com/connectors/custom-connectors/define-openapi-definition. What 2.0 cannot say is left
out: null as a type, events instead of JSON, problem documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPERATIONS = (
    *("query", "ask", "operation", "cancel", "agent_list", "agent_status"),
    *("begin_workflow", "workflow", "cancel_workflow", "health"),
)
"""What front ends need: no administration, no approvals."""
KEYWORDS = frozenset(
    {
        *("type", "title", "description", "default", "enum", "format", "pattern", "required", "items", "properties"),
        *("additionalProperties", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
        *("minProperties", "maxProperties", "uniqueItems", "$ref"),
    }
)
"""Of JSON Schema, as far as 2.0 has them."""

Json = dict[str, Any]


def connector_document(document: Mapping[str, Any], host: str, tenant: str | None = None) -> Json:
    """The OpenAPI 2.0 definition.

    Args:
        document: The OpenAPI 3.1 document of the API.
        host: Where it is served over HTTPS, such as `app.azurewebsites.net`.
        tenant: Callers sign in with Entra ID in this tenant; None: with the function key.
    """
    paths: dict[str, Json] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict) and operation.get("operationId") in OPERATIONS:
                paths.setdefault(path.removeprefix("/api"), {})[method] = _operation(operation, item)
    definitions = {name: _schema(schema) for name, schema in document["components"]["schemas"].items()}
    security = _security(tenant)
    return {
        "swagger": "2.0",
        "info": {"title": document["info"]["title"], "version": document["info"]["version"]},
        "host": host,
        "basePath": "/api",
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": paths,
        "definitions": _used(paths, definitions),
        "securityDefinitions": security,
        "security": [{name: [] for name in security}],
    }


def _operation(operation: Json, item: Json) -> Json:
    parameters = [_parameter(each) for each in (*item.get("parameters", ()), *operation.get("parameters", ()))]
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        parameters.append({"name": "body", "in": "body", "required": True, "schema": _schema(schema)})
    told = {"operationId", "summary", "description", "tags"} & operation.keys()
    responses = {status: _response(each) for status, each in operation["responses"].items() if status.startswith("2")}
    return {
        **{name: operation[name] for name in sorted(told)},
        "parameters": parameters,
        "responses": {**responses, "default": {"description": "A problem document (RFC 9457): code, title, detail."}},
    }


def _parameter(parameter: Json) -> Json:
    schema = _schema(parameter.get("schema", {"type": "string"}))
    told = {name: parameter[name] for name in ("name", "in", "description", "required") if name in parameter}
    return {"type": "string", **{name: value for name, value in schema.items() if name != "title"}, **told}


def _response(response: Json) -> Json:
    converted: Json = {"description": response["description"]}
    content = response.get("content", {})
    if "application/json" in content:
        converted["schema"] = _schema(content["application/json"]["schema"])
    return converted


def _schema(schema: Any) -> Any:
    """A schema without what 2.0 lacks; of several types the first one that is not null."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/components/schemas/", "#/definitions/")}
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            kinds = [each for each in schema[choice] if each.get("type") != "null"]
            rest = {name: value for name, value in schema.items() if name != choice}
            if len(kinds) != 1:
                return _schema(rest)
            return _schema({**rest, **kinds[0]})
    converted = {name: value for name, value in schema.items() if name in KEYWORDS}
    if "const" in schema:
        converted["enum"] = [schema["const"]]
    if isinstance(converted.get("type"), list):
        converted["type"] = next(kind for kind in converted["type"] if kind != "null")
    if converted.get("default", ...) is None:
        del converted["default"]
    if "properties" in converted:
        converted["properties"] = {name: _schema(value) for name, value in converted["properties"].items()}
    if converted.get("type") == "array":
        converted["items"] = _schema(converted.get("items", {}))
    if "additionalProperties" in converted:
        converted["additionalProperties"] = _schema(converted["additionalProperties"])
    return converted


def _used(paths: Mapping[str, Json], definitions: Mapping[str, Json]) -> dict[str, Json]:
    """The definitions that the paths need, also those that definitions need."""
    found: dict[str, Json] = {}
    waiting: list[Any] = [paths]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in found:
                found[name] = definitions[name]
                waiting.append(found[name])
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return dict(sorted(found.items()))


def _security(tenant: str | None) -> Json:
    if tenant is None:
        return {"key": {"type": "apiKey", "in": "header", "name": "x-functions-key"}}
    authority = f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0"
    return {
        "entra": {
            "type": "oauth2",
            "flow": "accessCode",
            "authorizationUrl": f"{authority}/authorize",
            "tokenUrl": f"{authority}/token",
            "scopes": {},
        }
    }
