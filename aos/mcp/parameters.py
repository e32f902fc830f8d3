"""A tool's input schema as the model is shown it.

MCP allows all of JSON Schema 2020-12; the model service takes less, and models follow a schema best that is written
out. So references are put in place, what the service refuses at the top is said in words, and arguments that are none
of the model's business are left out. Calls are compared with the server's own schema, never with this one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

DEEPEST_RECURSION = 2
"""How often a definition that refers to itself is written out within itself."""
MOST_NODES = 4000
"""Objects and lists of a schema that is written out; references beyond it are said in words."""
LONGEST_EXPLANATION = 2000

_REFUSED_AT_THE_TOP = ("oneOf", "anyOf", "allOf", "enum", "not")
"""The service takes an object there and none of these (`invalid_function_parameters`)."""
_SAYS_NOTHING = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"})
"""JSON Schema 2020-12, vocabulary Meta-Data: keywords that only annotate."""
_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are data, not schemas."""


def parameters(schema: Mapping[str, Any], defaults: Mapping[str, Any], locked: Collection[str]) -> Schema:
    """The schema of a function's arguments.

    Args:
        schema: The tool's input schema; valid, and referring only to itself.
        defaults: Values that arguments have if the model gives none: they are shown, and the arguments optional.
        locked: Arguments that are left out.
    """
    shown: Schema = {"type": "object", "properties": {}, **inlined(schema)}
    unsaid = {key: shown.pop(key) for key in _REFUSED_AT_THE_TOP if key in shown}
    if unsaid and "unevaluatedProperties" in shown:
        # It looks at what the others let through: without them it would forbid what they allow.
        unsaid["unevaluatedProperties"] = shown.pop("unevaluatedProperties")
    shown["properties"] = {
        name: _with_default(value, defaults[name]) if name in defaults else value
        for name, value in shown["properties"].items()
        if name not in locked
    }
    if "required" in shown:
        shown["required"] = [name for name in shown["required"] if name not in locked and name not in defaults]
    if unsaid:
        rule = json.dumps(unsaid, ensure_ascii=False, separators=(",", ":"))[:LONGEST_EXPLANATION]
        said = f"The arguments as a whole must also fit this JSON Schema: {rule}"
        shown["description"] = f"{shown['description']}\n{said}" if shown.get("description") else said
    return shown


def inlined(schema: Mapping[str, Any]) -> Schema:
    """The schema with each `$ref` replaced by what it refers to.

    A recursive definition is written out twice, then described in words. A schema with references that depend on where
    they are looked from (`$id`, `$anchor`, `$dynamicRef`) stays as it is: the service passes it on.
    """
    references = list(_references(schema))
    if not references:
        return {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
    if any(reference is None for reference in references):
        return dict(schema)
    return _Writer(schema).written()


def _references(value: Any) -> Iterator[str | None]:
    """The pointers that a schema refers to; None for a reference of another kind."""
    todo: list[tuple[Any, bool]] = [(value, False)]
    while todo:
        found, names = todo.pop()
        if isinstance(found, list):
            todo.extend((child, False) for child in found)
        elif isinstance(found, dict):
            for key, child in found.items():
                if names:
                    todo.append((child, False))
                elif key == "$ref":
                    yield child if isinstance(child, str) and (child == "#" or child.startswith("#/")) else None
                elif key in ("$dynamicRef", "$recursiveRef") or (key == "$id" and found is not value):
                    yield None
                elif key not in _DATA:
                    todo.append((child, key in _NAMED))


_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose values are schemas by name, so that the names are no keywords."""


class _Writer:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def written(self) -> Schema:
        top = {key: value for key, value in self._root.items() if key not in ("$defs", "definitions")}
        written: Schema = self._schema(top, ("#",))
        return written

    def _schema(self, schema: Any, path: tuple[str, ...]) -> Any:
        self._nodes += 1
        if isinstance(schema, list):
            return [self._schema(child, path) for child in schema]
        if not isinstance(schema, dict):
            return schema
        here = {key: self._keyword(key, value, path) for key, value in schema.items() if key != "$ref"}
        if "$ref" not in schema:
            return here
        target = self._target(schema["$ref"], path)
        if not isinstance(target, dict):
            return target if not here else {"allOf": [target], **here}
        if here.keys() <= _SAYS_NOTHING or not here.keys() & target.keys():
            return {**target, **here}
        return {**here, "allOf": [target, *here.get("allOf", ())]}

    def _keyword(self, key: str, value: Any, path: tuple[str, ...]) -> Any:
        if key in _DATA:
            return value
        if key in _NAMED and isinstance(value, dict):
            return {name: self._schema(child, path) for name, child in value.items()}
        return self._schema(value, path) if isinstance(value, dict | list) else value

    def _target(self, pointer: str, path: tuple[str, ...]) -> Any:
        target = _resolved(self._root, pointer)
        if not isinstance(target, dict):
            return target
        if path.count(pointer) >= DEEPEST_RECURSION or self._nodes >= MOST_NODES:
            return _in_words(target, pointer)
        target = {key: value for key, value in target.items() if key not in ("$defs", "definitions", "$schema", "$id")}
        return self._schema(target, (*path, pointer))


def _in_words(target: Schema, pointer: str) -> Schema:
    name = target.get("title") or pointer.rpartition("/")[2].lstrip("#") or "the whole"
    said: Schema = {"description": f"Again {name}, in the same form as above."}
    return {"type": target["type"], **said} if "type" in target else said


def _resolved(root: Mapping[str, Any], pointer: str) -> Any:
    """What a JSON pointer in a URI fragment points to (RFC 6901, section 6)."""
    from urllib.parse import unquote

    value: Any = root
    for part in unquote(pointer[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def _with_default(schema: Any, value: Any) -> Any:
    return {**schema, "default": value} if isinstance(schema, dict) else {"default": value}
