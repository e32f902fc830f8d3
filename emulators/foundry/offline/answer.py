"""Answers from what tools returned: the values that were asked for first, compactly, with their source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue, TypeAdapter, ValidationError

from emulators.foundry.model import JsonObject
from emulators.foundry.offline.words import concept, concepts, is_stop, plain_words, stem

MAX_ROWS = 10
MAX_FIELDS = 12
MAX_TEXT = 2000
MAX_ASKED_FIELDS = 8
MAX_COMPARED = 3
Leaf = tuple[tuple[str, ...], JsonValue]
_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A call that was made and what came back; ``arguments`` and ``output`` are as they travelled."""

    name: str
    arguments: str
    output: str


def answer_from(message: str, outcomes: Sequence[Outcome]) -> str:
    """One paragraph per call; results of one tool for several arguments are compared."""
    wanted = frozenset((*concepts(message), *(stem(word) for word in plain_words(message) if not is_stop(word))))
    paragraphs: list[str] = []
    results: dict[str, list[tuple[Outcome, JsonValue]]] = {}
    for outcome in outcomes:
        value = parse_result(outcome.output)
        failure = failure_of(value)
        if failure is not None:
            paragraphs.append(f"{_source(outcome)} failed: {failure}")
            continue
        paragraphs.append(f"According to {_source(outcome)}: {_render(value, wanted)}")
        results.setdefault(outcome.name, []).append((outcome, value))
    for same in results.values():
        compared = _compare(same, wanted)
        if compared:
            paragraphs.append(compared)
    return "\n\n".join(paragraphs)


def parse_result(output: str) -> JsonValue:
    """The value in a tool's output; MCP's result object is unwrapped, a text that is no JSON stays a text."""
    try:
        value = _JSON.validate_json(output)
    except ValidationError:
        return output
    return _unwrap(value)


def _unwrap(value: JsonValue) -> JsonValue:
    if not isinstance(value, dict) or value.get("isError"):
        return value
    for key in ("structuredContent", "structured_content"):
        if isinstance(value.get(key), dict):
            return _only(value[key])
    content = value.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content):
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return parse_result("\n".join(str(text) for text in texts))
    return _only(value)


def _only(value: JsonValue) -> JsonValue:
    # {"result": ...} is how MCP wraps a bare value
    return value["result"] if isinstance(value, dict) and value.keys() == {"result"} else value


def failure_of(value: JsonValue) -> str | None:
    """What went wrong, if a result reports an error."""
    if not isinstance(value, dict):
        return None
    if value.get("isError"):
        content = value.get("content")
        parts = content if isinstance(content, list) else []
        texts = [str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part]
        return " ".join(texts) or "no reason given"
    error = value.get("error")
    match error:
        case None | False | "":
            return None
        case {"message": str(text), "code": str(code)}:
            return f"{text} ({code})"
        case {"message": str(text)} | {"detail": str(text)} | str(text):
            return text
        case _:
            return json.dumps(error, ensure_ascii=False)


def _source(outcome: Outcome) -> str:
    arguments = _JSON.validate_json(outcome.arguments) if _is_json(outcome.arguments) else None
    if not isinstance(arguments, dict) or not arguments:
        return outcome.name
    return f"{outcome.name} ({', '.join(f'{key} {_scalar(value)}' for key, value in arguments.items())})"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def _render(value: JsonValue, wanted: frozenset[str]) -> str:
    match value:
        case dict():
            tables = [(path, leaf) for path, leaf in _leaves(value) if _is_table(leaf)]
            plain = [(path, leaf) for path, leaf in _leaves(value) if not _is_table(leaf)]
            parts = [_joined(plain, wanted) + "."] if plain or not tables else []
            parts += [f"{_label(path)}: {_rows(leaf, wanted)}" for path, leaf in tables if isinstance(leaf, list)]
            return "\n".join(parts)
        case list():
            return _rows(value, wanted)
        case str():
            return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
        case _:
            return f"{_scalar(value)}."


def _is_table(value: JsonValue) -> bool:
    return isinstance(value, list) and any(isinstance(row, dict) for row in value)


def _fields(value: JsonObject, wanted: frozenset[str]) -> str:
    return _joined(_leaves(value), wanted)


def _joined(leaves: list[Leaf], wanted: frozenset[str]) -> str:
    if not leaves:
        return "an empty result"
    ordered = sorted(leaves, key=lambda leaf: -_relevance(leaf[0], wanted))
    asked = any(_relevance(path, wanted) for path, _ in leaves)
    shown = [f"{_label(path)} {_scalar(leaf)}" for path, leaf in ordered[: MAX_ASKED_FIELDS if asked else MAX_FIELDS]]
    more = len(ordered) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _rows(value: list[JsonValue], wanted: frozenset[str]) -> str:
    if not value:
        return "nothing was found."
    if not any(isinstance(row, dict | list) for row in value):
        shown = ", ".join(_scalar(row) for row in value[: MAX_ROWS * 2])
        more = len(value) - MAX_ROWS * 2
        return shown + (f" and {more} more." if more > 0 else ".")
    lines = [f"- {_fields(row, wanted) if isinstance(row, dict) else _scalar(row)}" for row in value[:MAX_ROWS]]
    count = f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    if len(value) > MAX_ROWS:
        lines.append(f"- and {len(value) - MAX_ROWS} more")
    return f"{count}\n" + "\n".join(lines)


def _leaves(value: JsonObject, prefix: tuple[str, ...] = ()) -> list[Leaf]:
    found: list[Leaf] = []
    for key, inner in value.items():
        path = (*prefix, key)
        if isinstance(inner, dict) and len(path) < 4:
            found.extend(_leaves(inner, path))
        else:
            found.append((path, inner))
    return found


def _relevance(path: tuple[str, ...], wanted: frozenset[str]) -> float:
    """How well a field fits a question: the words in its own name count, those that it adds count against it."""
    words = [word for part in path for word in plain_words(part)]
    named = sum(stem(word) in wanted for word in words)
    meant = sum(concept(word) in wanted for word in words)
    return (2 * named + meant) / (1 + len(words)) if meant or named else 0.0


def _label(path: tuple[str, ...]) -> str:
    return " ".join(word for part in path for word in part.replace("_", " ").replace("-", " ").split())


def _scalar(value: JsonValue) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:,.2f}".removesuffix(".00") if abs(value) >= 0.01 or value == 0 else repr(value)
        case None:
            return "none"
        case str():
            return value
        case list() if all(not isinstance(inner, dict | list) for inner in value):
            shown = ", ".join(_scalar(inner) for inner in value[:MAX_ROWS])
            return shown + (f" and {len(value) - MAX_ROWS} more" if len(value) > MAX_ROWS else "")
        case list():
            rows = [_fields(inner, frozenset()) if isinstance(inner, dict) else _scalar(inner) for inner in value]
            shown = " | ".join(rows[:MAX_ROWS])
            return f"[{shown}]" + (f" and {len(rows) - MAX_ROWS} more" if len(rows) > MAX_ROWS else "")
        case dict():
            return _fields(value, frozenset())


def _compare(results: Sequence[tuple[Outcome, JsonValue]], wanted: frozenset[str]) -> str | None:
    tables = [
        (outcome, {path: leaf for path, leaf in _leaves(value) if _is_number(leaf)})
        for outcome, value in results
        if isinstance(value, dict)
    ]
    if len(tables) < 2:
        return None
    (first, base), *others = tables
    sentences: list[str] = []
    for other, table in others:
        given = _arguments_that_differ(first, other)
        shared = [path for path in base if path in table and path[-1] not in given]
        ranked = sorted(shared, key=lambda path: -_relevance(path, wanted))
        best = _relevance(ranked[0], wanted) if ranked else 0.0
        for path in [path for path in ranked if _relevance(path, wanted) == best][:MAX_COMPARED]:
            here, there = base[path], table[path]
            if _is_number(here) and _is_number(there):
                sentences.append(_difference(_label(path), _shown(first, given), here, _shown(other, given), there))
    return "Compared: " + " ".join(sentences) if sentences else None


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arguments_that_differ(first: Outcome, other: Outcome) -> list[str]:
    left, right = parse_result(first.arguments), parse_result(other.arguments)
    if not isinstance(left, dict) or not isinstance(right, dict):
        return []
    return [key for key in left if left.get(key) != right.get(key)]


def _shown(outcome: Outcome, keys: Sequence[str]) -> str:
    arguments = parse_result(outcome.arguments)
    values = [f"{key} {_scalar(arguments.get(key))}" for key in keys] if isinstance(arguments, dict) else []
    return ", ".join(values) or outcome.name


def _difference(label: str, here_name: str, here: JsonValue, there_name: str, there: JsonValue) -> str:
    if not isinstance(here, int | float) or not isinstance(there, int | float):
        raise TypeError(f"{label}: only numbers are compared")
    change = here - there
    text = f"{label} {_scalar(here)} ({here_name}) against {_scalar(there)} ({there_name})"
    if change == 0:
        return f"{text}: no difference."
    share = f", {abs(change) / abs(there) * 100:.1f} %" if there else ""
    amount = abs(change) if isinstance(change, int) else round(abs(change), 10)
    return f"{text}: {'up' if change > 0 else 'down'} by {_scalar(amount)}{share}."
