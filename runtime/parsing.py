"""Bytes from outside into typed models, with faults that point into what the sender wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from runtime.problems import FieldError, InvalidJson, invalid

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_FIELD_ERRORS = 50


def parse_json(body: bytes) -> object:
    """The value of a UTF-8 JSON body (RFC 8259: `NaN` and `Infinity` are refused). Raises `InvalidJson`."""
    if not body:
        raise InvalidJson("The body is empty.")
    try:
        value: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson(f"{error}.") from error
    return value


def parse_model(body: bytes, model: type[ModelT]) -> ModelT:
    """`body` as `model`. Raises `InvalidJson` (400), or a 422 `Problem` with a JSON pointer per fault."""
    value = parse_json(body)
    try:
        # The text again, not `value`: in JSON mode strict models accept what JSON can only write as a string.
        return model.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise invalid(_field_error(fault, value) for fault in faults[:MAX_FIELD_ERRORS]) from None


def _field_error(fault: ErrorDetails, document: object) -> FieldError:
    path = _path_in_document(fault["loc"], document, fault)
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return FieldError(pointer, fault["msg"])


def _path_in_document(loc: Sequence[int | str], document: object, fault: ErrorDetails) -> list[int | str]:
    """`loc` without the parts that pydantic adds: union tags, union members, `[key]`.

    Such a part is told apart by walking the document: a reading of `loc` is right when it ends at the value that
    pydantic complains about. Readings that keep more parts are tried first.
    """
    missing = fault["type"] in ("missing", "missing_argument")
    end = len(loc) - 1 if missing else len(loc)

    def walk(value: object, index: int) -> list[int | str] | None:
        if index == end:
            return [] if _same(value, fault["input"]) else None
        part = loc[index]
        child = _child(value, part)
        if child is not None and (rest := walk(child[0], index + 1)) is not None:
            return [part, *rest]
        return walk(value, index + 1)

    # Each union level doubles the readings at worst; beyond this depth the raw path is good enough.
    path = walk(document, 0) if len(loc) <= 16 else None
    if path is None:
        return list(loc)
    return [*path, loc[-1]] if missing else path


def _child(value: object, part: int | str) -> tuple[object] | None:
    if isinstance(value, dict) and part in value:
        return (value[part],)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return (value[part],)
    return None


def _same(left: object, right: object) -> bool:
    # Containers by size alone: enough to tell the readings apart, and cheap on a large hostile body.
    if isinstance(left, dict) and isinstance(right, dict):
        return len(left) == len(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right)
    return type(left) is type(right) and left == right
