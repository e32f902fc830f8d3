"""Entries of a registry, each read on its own: a bad one is reported and left out, the good ones beside it stay.

Unknown keys are kept in the models (`model_extra`) and reported as warnings.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from aos.registry.document import RawRegistry
from aos.registry.problems import RegistryProblem, json_pointer, kind, suggest

MAX_DEPTH = 64
"""Levels of objects and lists within an entry."""
MAX_REPORTS = 20
"""Problems, and warnings, reported per entry; the rest is counted."""
MAX_TEXT = 32 * 1024
"""Bytes (UTF-8) of a text that a person writes, such as a purpose or a system message."""

ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,47}$"
_NAME_PATTERN = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"
_ID = re.compile(ID_PATTERN[:-1] + r"\Z")

IdKey = Literal["agent_id", "server_id"]
Location = tuple[str | int, ...]
Finding = tuple[Location, str]
"""Where in an entry, and what."""


def _bounded(value: str) -> str:
    if len(value) > MAX_TEXT // 4 and (size := len(value.encode())) > MAX_TEXT:
        raise PydanticCustomError("too_long", f"The text has {size} bytes; at most {MAX_TEXT} are allowed")
    return value


def _filled(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "The text must not be empty")
    return value


def _null_is_empty(value: object) -> object:
    return {} if value is None else value


Id = Annotated[str, Field(pattern=ID_PATTERN)]
Text = Annotated[str, AfterValidator(_bounded)]
"""At most `MAX_TEXT` bytes."""
FilledText = Annotated[Text, AfterValidator(_filled)]
Name = Annotated[str, Field(max_length=128, pattern=_NAME_PATTERN)]
"""1 to 128 characters, no control characters, no blanks around it."""
Flag = Annotated[bool, Field(strict=True)]
"""`true` or `false`; neither `"false"` nor `0`."""
JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_null_is_empty)]
"""Any JSON object; `null` counts as an empty one."""


class RegistryModel(BaseModel):
    """Base of all that stands in a registry. Immutable; unknown keys are in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    open_ended: ClassVar[bool] = False
    """Keys that AOS does not know belong here, and are not worth a warning."""

    def faults(self) -> Iterator[Finding]:
        """What types alone cannot say; each one makes the entry bad."""
        return iter(())

    def cautions(self) -> Iterator[Finding]:
        """What is probably a mistake, but does no harm."""
        return iter(())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the entry's canonical JSON: the same for entries that mean the same.

        Keys are sorted and defaults left out, so that neither spelling a default out nor a later AOS with more
        optional keys changes it. Unknown keys count.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


M = TypeVar("M", bound=RegistryModel)


@dataclass(slots=True)
class Parsed(Generic[M]):
    """Entries that are right in themselves, each with its JSON pointer, in the order of the document."""

    good: list[tuple[str, M]]
    problems: list[RegistryProblem]
    warnings: list[RegistryProblem]


def parse_entries(raw: RawRegistry, model: type[M], id_key: IdKey) -> Parsed[M]:
    """Reads each entry on its own; nothing that stands in one raises."""
    parsed: Parsed[M] = Parsed([], [], list(raw.warnings))
    for index, entry in enumerate(raw.entries):
        where = json_pointer(raw.key, index)
        found, faults = _parse_entry(entry, model)
        if found is None:
            parsed.problems.extend(_reports(where, id_key, entry, faults))
            continue
        parsed.good.append((where, found))
        cautions = [*_unknown_keys(found, ()), *found.cautions()]
        parsed.warnings.extend(_reports(where, id_key, entry, cautions))
    return parsed


def _parse_entry(entry: object, model: type[M]) -> tuple[M | None, Sequence[Finding]]:
    if not isinstance(entry, dict):
        return None, [((), f"An entry must be an object; it is {kind(entry)}.")]
    if (unusable := _unusable(entry)) is not None:
        return None, [unusable]
    try:
        found = model.model_validate(entry)
    except ValidationError as error:
        return None, [_explain(details) for details in error.errors(include_url=False)]
    faults = list(found.faults())
    return (None if faults else found), faults


def _reports(where: str, id_key: IdKey, entry: object, findings: Sequence[Finding]) -> Iterator[RegistryProblem]:
    if not findings:
        return
    entry_id = entry.get(id_key) if isinstance(entry, dict) else None
    known = entry_id if isinstance(entry_id, str) and _ID.match(entry_id) else None
    agent_id, server_id = (known, None) if id_key == "agent_id" else (None, known)
    for at, detail in findings[:MAX_REPORTS]:
        yield RegistryProblem(where + json_pointer(*at), detail, agent_id, server_id)
    if len(findings) > MAX_REPORTS:
        yield RegistryProblem(where, f"There are {len(findings) - MAX_REPORTS} more.", agent_id, server_id)


def _unusable(entry: dict[str, object]) -> Finding | None:
    """What JSON allows and others downstream choke on: deep nesting, lone surrogates, numbers beyond a double."""
    todo: list[tuple[Location, object]] = [((), entry)]
    while todo:
        at, value = todo.pop()
        if isinstance(value, str):
            if not value.isascii() and not _encodable(value):
                return at, "The text contains half of a surrogate pair, which is not valid Unicode."
        elif isinstance(value, float):
            if not math.isfinite(value):
                return at, "The number is out of range."
        elif isinstance(value, dict | list):
            if len(at) >= MAX_DEPTH:
                return at, f"Objects and lists may be nested at most {MAX_DEPTH} levels deep."
            if isinstance(value, list):
                todo.extend(((*at, index), child) for index, child in enumerate(value))
                continue
            for name, child in value.items():
                if not name.isascii() and not _encodable(name):
                    return at, "A key contains half of a surrogate pair, which is not valid Unicode."
                todo.append(((*at, name), child))
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# Values that are safe and useful to repeat in a message.
_SHOWN = frozenset({"agent_id", "server_id", "domain", "agent_type", "server_type", "server_name", "tool_name"})


def _explain(details: ErrorDetails) -> Finding:
    at: Location = details["loc"]
    if at and at[-1] == "[key]":  # how pydantic says that a key is meant and not its value
        at = at[:-1]
    value, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "missing":
            return at, "It is required."
        case "string_pattern_mismatch":
            text = f"It must match the pattern {context['pattern']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            text = "It must be an object"
        case "tuple_type":
            text = "It must be a list"
        case _:
            text = details["msg"].replace("Input", "It", 1)
    if isinstance(value, str) and at and at[-1] in _SHOWN:
        return at, f"{text}; it is {value[:100]!r}."
    wrong_type = details["type"].endswith("_type")
    return at, f"{text}; it is {kind(value)}." if wrong_type else f"{text}."


def _unknown_keys(model: RegistryModel, at: Location) -> Iterator[Finding]:
    fields = type(model).model_fields
    if not model.open_ended:
        for name in model.model_extra or ():
            yield (*at, name), f"AOS does not know this key.{suggest(name, fields)}"
    for name in fields:
        value = getattr(model, name)
        if isinstance(value, RegistryModel):
            yield from _unknown_keys(value, (*at, name))
        elif isinstance(value, tuple):
            for index, child in enumerate(value):
                if isinstance(child, RegistryModel):
                    yield from _unknown_keys(child, (*at, name, index))
