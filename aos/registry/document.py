"""The outer shape of a registry document: UTF-8 JSON, `{"version": "1.0", <key>: [...]}`.

Only what makes the document as a whole unreadable is refused here; its entries are a matter of `aos.registry.entries`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NoReturn

from aos.registry.errors import RegistryInvalid
from aos.registry.problems import RegistryProblem, json_pointer, kind, suggest

MAX_DOCUMENT = 10 * 1024 * 1024
"""Bytes of a registry document."""
MAX_ENTRIES = 10_000
_MAX_WARNINGS = 20

Key = Literal["agents", "servers"]
_Repeated = list[tuple[dict[str, object], str]]
"""Objects in which a key stands twice, and the key."""


@dataclass(slots=True)
class RawRegistry:
    """A registry document before its entries are looked at."""

    key: Key
    version: str
    entries: list[object]
    warnings: list[RegistryProblem] = field(default_factory=list)


def decode(document: bytes, key: Key) -> RawRegistry:
    """Reads the outer shape of a registry.

    Raises:
        RegistryInvalid: Not UTF-8, not JSON, too large, not an object, or without the list; the detail says where.
    """
    repeated: _Repeated = []
    top = _loads(document, repeated)
    if not isinstance(top, dict):
        raise RegistryInvalid(f"The document must be a JSON object with the list `{key}`; it is {kind(top)}.")
    if key not in top:
        raise RegistryInvalid(f"/{key} is missing: it must be the list of entries.{suggest(key, top)}")
    entries = top[key]
    if not isinstance(entries, list):
        raise RegistryInvalid(f"/{key} must be a list of entries; it is {kind(entries)}.")
    if len(entries) > MAX_ENTRIES:
        raise RegistryInvalid(f"/{key} has {len(entries)} entries; at most {MAX_ENTRIES} are allowed.")
    registry = RawRegistry(key, _version(top), entries)
    registry.warnings.extend(islice(_oddities(top, key, repeated), _MAX_WARNINGS))
    return registry


def too_large(size: int) -> RegistryInvalid:
    return RegistryInvalid(f"The document has {size} bytes or more; at most {MAX_DOCUMENT} are allowed.")


def _loads(document: bytes, repeated: _Repeated) -> object:
    if len(document) > MAX_DOCUMENT:
        raise too_large(len(document))

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        built = dict(pairs)
        if len(built) != len(pairs):
            times = Counter(name for name, _ in pairs)
            repeated.extend((built, name) for name in built if times[name] > 1)
        return built

    try:
        # Editors on Windows like to begin a file with a byte order mark.
        text = document.decode("utf-8-sig")
        value: object = json.loads(text, object_pairs_hook=build, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RegistryInvalid(f"The document is not UTF-8: {error.reason} at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise RegistryInvalid(
            f"The document is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise RegistryInvalid("The document is not usable: its objects and lists are nested too deeply.") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise RegistryInvalid(f"The document is not usable: {error}.") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise RegistryInvalid(f"The document is not JSON: it contains {name}, which JSON does not have.")


def _version(top: dict[str, object]) -> str:
    version = top.get("version", "1.0")
    return version[:20] if isinstance(version, str) else "1.0"


def _oddities(top: dict[str, object], key: Key, repeated: _Repeated) -> Iterator[RegistryProblem]:
    version = top.get("version", "1.0")
    if not isinstance(version, str):
        yield RegistryProblem("/version", f'It must be a string such as "1.0"; it is {kind(version)}.')
    elif version.partition(".")[0] != "1":
        yield RegistryProblem("/version", f"It is {version[:20]!r}; the document is read as version 1.")
    for name in top:
        if name not in ("version", key):
            yield RegistryProblem(json_pointer(name), f"AOS does not know this key.{suggest(name, ('version', key))}")
    if repeated:
        names: dict[int, list[str]] = {}
        for built, name in repeated:
            names.setdefault(id(built), []).append(name)
        yield from _pointers(top, names)


def _pointers(top: dict[str, object], names: dict[int, list[str]]) -> Iterator[RegistryProblem]:
    """Where the objects with repeated keys stand in the document."""
    todo: list[tuple[str, object]] = [("", top)]
    while todo:
        where, value = todo.pop()
        if isinstance(value, dict):
            for name in names.get(id(value), ()):
                yield RegistryProblem(where + json_pointer(name), "This key stands twice; the last one counts.")
            todo.extend((where + json_pointer(name), child) for name, child in value.items())
        elif isinstance(value, list):
            todo.extend((where + json_pointer(index), child) for index, child in enumerate(value))
