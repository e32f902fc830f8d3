"""Reading a JSON Schema (2020-12): references, alternatives, types."""

from __future__ import annotations

import re
from collections.abc import Iterator

import jsonschema_rs
from pydantic import JsonValue

from emulators.foundry.model import JsonObject, ModelError

_MAX_PARTS = 256
"""References and parts of ``allOf`` that one subschema is put together from; what comes after them is left out."""
_EXAMPLE = re.compile(r"(?:such as|e\.g\.,?|for example,?)\s+(?:[\"'`]([^\"'`]+)[\"'`]|(-?[\w.-]+))", re.IGNORECASE)


class SchemaReader:
    """One tool's schema; subschemas are resolved against its ``$defs``."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._shared: JsonObject = {key: root[key] for key in ("$defs", "definitions") if key in root}

    def resolve(self, schema: JsonValue) -> JsonObject:
        """The schema with local references followed and ``allOf`` merged; ``true`` is an empty schema."""
        return self._resolve(schema, iter(range(_MAX_PARTS)))

    def _resolve(self, schema: JsonValue, budget: Iterator[int]) -> JsonObject:
        # The budget is that of the whole tree: references that name each other twice double with every level.
        if not isinstance(schema, dict) or next(budget, None) is None:
            return {}
        merged = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts: list[JsonValue] = []
        reference = schema.get("$ref")
        if isinstance(reference, str):
            parts.append(self._target(reference))
        together = schema.get("allOf")
        if isinstance(together, list):
            parts.extend(together)
        for part in parts:
            merged = _merge(self._resolve(part, budget), merged)
        return merged

    def _target(self, reference: str) -> JsonValue:
        node: JsonValue = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step and isinstance(node, dict):
                node = node.get(step.replace("~1", "/").replace("~0", "~"))
        return node

    def alternatives(self, schema: JsonObject) -> list[JsonObject]:
        """The ways to satisfy a resolved schema: branches of ``anyOf``/``oneOf``, or one per type."""
        for key in ("anyOf", "oneOf"):
            branches = schema.get(key)
            if isinstance(branches, list) and branches:
                base = {name: value for name, value in schema.items() if name != key}
                return [_merge(base, self.resolve(branch)) for branch in branches]
        kind = schema.get("type")
        if isinstance(kind, list):
            return [{**schema, "type": one} for one in kind]
        return []

    def options(self, schema: JsonObject) -> list[JsonValue]:
        """The values of an ``enum``, also of one among alternatives."""
        found: list[JsonValue] = []
        for branch in (schema, *self.alternatives(schema)):
            values = branch.get("enum")
            found.extend(values if isinstance(values, list) else [])
        return found

    def accepts(self, schema: JsonObject, value: JsonValue) -> bool:
        """Whether the value is valid; formats are asserted. References to other documents are not fetched.

        Raises:
            ModelError: The schema is none.
        """
        try:
            validator = jsonschema_rs.validator_for({**self._shared, **schema}, validate_formats=True, offline=True)
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            reason = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
            raise ModelError("invalid_function_parameters", f"A schema cannot be used: {reason}", status=400) from error
        return validator.is_valid(value)

    def properties(self, schema: JsonObject) -> dict[str, JsonObject]:
        """The resolved properties of an object schema."""
        found = schema.get("properties")
        return {name: self.resolve(sub) for name, sub in found.items()} if isinstance(found, dict) else {}


def type_of(schema: JsonObject) -> str:
    """The type a resolved schema asks for, inferred from its other keywords if it names none; ``any`` of several."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    if "anyOf" in schema or "oneOf" in schema:
        return "any"
    if {"minimum", "maximum", "multipleOf"} & schema.keys():
        return "number"
    return "string"


def required(schema: JsonObject) -> frozenset[str]:
    """Names that an object must have."""
    names = schema.get("required")
    return frozenset(str(name) for name in names) if isinstance(names, list) else frozenset()


def description(schema: JsonObject) -> str:
    """The description, or an empty string."""
    text = schema.get("description")
    return text if isinstance(text, str) else ""


def examples(schema: JsonObject) -> list[JsonValue]:
    """Values that the schema gives as examples: ``examples``, or ``such as X`` in the description."""
    given = schema.get("examples")
    found: list[JsonValue] = [*given] if isinstance(given, list) else []
    kind = type_of(schema)
    for match in _EXAMPLE.finditer(description(schema)):
        text = (match[1] or match[2]).rstrip(".")
        if kind == "string":
            found.append(text)
        elif text.lstrip("-").isdigit():
            found.append(int(text))
    return found


def _merge(base: JsonObject, over: JsonObject) -> JsonObject:
    merged = {**base, **over}
    for key in ("properties", "$defs"):
        left, right = base.get(key), over.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            merged[key] = {**left, **right}
    left, right = base.get("required"), over.get("required")
    if isinstance(left, list) and isinstance(right, list):
        merged["required"] = [*left, *(name for name in right if name not in left)]
    return merged
