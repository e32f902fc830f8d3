"""The input schema of a tool, checked before anything is validated against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from pydantic import JsonValue


def schema_fault(schema: Mapping[str, JsonValue]) -> tuple[tuple[str | int, ...], str] | None:
    """What is wrong with the JSON Schema of a tool's arguments: where in it, and what; None if it is right.

    It must be valid by its own `$schema` (2020-12 without one, as MCP says), have `"type": "object"` at the top, and
    refer only to itself: nothing is ever fetched from an address that stands in a document.
    """
    import jsonschema_rs

    if schema.get("type") != "object":
        found = f"it is {schema['type']!r}" if "type" in schema else "it is missing"
        return ("type",), f'A tool takes an object: the type must be "object"; {found[:120]}.'
    try:
        jsonschema_rs.validator_for(dict(schema), retriever=_refuse)
    except jsonschema_rs.ValidationError as error:
        return tuple(error.instance_path), f"The JSON Schema is not valid: {error.message[:300]}."
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        return (), f"The JSON Schema cannot be used: {str(error)[:300]}."
    return None


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri[:200]} is outside the document; only references within it are allowed")
