"""Filling a tool's arguments from a message."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import IntEnum

from pydantic import JsonValue

from emulators.foundry.model import JsonObject
from emulators.foundry.offline.evidence import Evidence, Number, Period
from emulators.foundry.offline.schema import SchemaReader, examples, required, type_of
from emulators.foundry.offline.strings import enum_matches, free_text, named_value, period_texts
from emulators.foundry.offline.words import concept, concepts, plain_words

MAX_DEPTH = 8
MAX_VALUES = 2000
"""Values that are looked for in one schema: one that contains itself several times has more than can be counted."""
MAX_PADDING = 10_000
"""Items or characters that a value is padded to."""

_LIMIT = frozenset(("limit", "count", "top", "max", "size", "n", "number", "last", "results"))
_AMOUNT = frozenset(("amount", "price", "cost", "budget", "total", "value", "sum", "salary", "fee", "payment"))
_PERCENT = frozenset(("percent", "percentage", "rate", "share", "ratio"))
_COUNTING = frozenset(("last", "top", "first", "latest", "limit", "most", "recent", "newest", "biggest", "largest"))
_START = frozenset(("from", "start", "since", "after", "begin", "begins", "min"))
_END = frozenset(("to", "end", "until", "before", "till", "through", "max"))
_NEGATIONS = r"(?:no|not|without|exclude|excluding|don't|dont|never|disable|disabled|skip)"


class Ground(IntEnum):
    """What a value rests on."""

    GUESSED = 0
    """Nothing: it is merely valid."""
    LIKELY = 1
    """A phrase of the message that may be meant, or an example that the schema gives."""
    SCHEMA = 2
    """The schema: its default, or the only value that it allows."""
    MESSAGE = 3
    """The message states it."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and what it rests on."""

    value: JsonValue
    ground: Ground


@dataclass(frozen=True, slots=True)
class Filled:
    """Arguments; of the required ones, ``likely`` and ``guessed`` rest on that ground, ``missing`` found no value."""

    arguments: JsonObject
    likely: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def text(self) -> str:
        """The arguments as the JSON text of a function call."""
        return json.dumps(self.arguments, ensure_ascii=False)


def fill(schema: JsonObject, evidence: Evidence, subject: frozenset[str] = frozenset()) -> Filled:
    """Arguments for a schema of type object; ``subject`` are concepts that name the tool rather than an argument.

    Unless something is missing, the arguments are valid.
    """
    return _Filler(schema, evidence, subject).object(schema, "", 0)


class _Filler:
    def __init__(self, root: JsonObject, evidence: Evidence, subject: frozenset[str]) -> None:
        self._reader = SchemaReader(root)
        self._evidence = evidence
        self._subject = subject
        self._used_numbers: set[int] = set()
        self._used_texts: set[str] = set()
        self._values = 0

    def object(self, schema: JsonObject, path: str, depth: int) -> Filled:
        resolved = self._reader.resolve(schema)
        properties = self._reader.properties(resolved)
        needed = required(resolved)
        arguments: JsonObject = {}
        shaky: dict[Ground, list[str]] = {Ground.LIKELY: [], Ground.GUESSED: []}
        missing: list[str] = []
        # required ones choose first from numbers and quotes, in the schema's order
        for name in sorted(properties, key=lambda key: key not in needed):
            where = f"{path}.{name}" if path else name
            value = self._value(properties[name], name, depth + 1, needed=name in needed)
            if value is not None and not self._reader.accepts(properties[name], value.value):
                value = None
            if name in needed and value is None:
                missing.append(where)
            elif name in needed and value is not None and value.ground in shaky:
                shaky[value.ground].append(where)
            if value is not None and (name in needed or value.ground is Ground.MESSAGE):
                arguments[name] = value.value
        missing.extend(f"{path}.{name}" if path else name for name in sorted(needed - properties.keys()))
        ordered = {name: arguments[name] for name in properties if name in arguments}
        if not missing and not self._reader.accepts(resolved, ordered):
            missing.append(path or "arguments")
        return Filled(ordered, tuple(shaky[Ground.LIKELY]), tuple(shaky[Ground.GUESSED]), tuple(missing))

    def _value(self, schema: JsonObject, name: str, depth: int, *, needed: bool) -> Value | None:
        self._values += 1
        if self._values > MAX_VALUES:
            return None
        if "const" in schema:
            return Value(schema["const"], Ground.SCHEMA)
        options = schema.get("enum")
        if isinstance(options, list):
            return self._option(schema, options, name)
        alternatives = self._reader.alternatives(schema)
        if alternatives and depth <= MAX_DEPTH:
            found = [self._value(alternative, name, depth + 1, needed=needed) for alternative in alternatives]
            real = [value for value in found if value is not None and self._reader.accepts(schema, value.value)]
            typed = [value for value in real if value.value is not None] or real
            return self._default(schema, max(typed, key=lambda value: value.ground, default=None))
        found_value = self._typed(schema, name, depth, needed=needed)
        if found_value is not None and not self._reader.accepts(schema, found_value.value):
            found_value = None
        if found_value is None or found_value.ground < Ground.LIKELY:
            for example in examples(schema):
                if self._reader.accepts(schema, example):
                    return self._default(schema, Value(example, Ground.LIKELY))
        return self._default(schema, found_value)

    @staticmethod
    def _default(schema: JsonObject, value: Value | None) -> Value | None:
        if "default" in schema and (value is None or value.ground is not Ground.MESSAGE):
            return Value(schema["default"], Ground.SCHEMA)
        return value

    def _typed(self, schema: JsonObject, name: str, depth: int, *, needed: bool) -> Value | None:
        match type_of(schema):
            case "string":
                return self._string(schema, name, needed=needed)
            case "integer":
                return self._number(schema, name, whole=True, needed=needed)
            case "number":
                return self._number(schema, name, whole=False, needed=needed)
            case "boolean":
                return self._boolean(name)
            case "array":
                return self._array(schema, name, depth, needed=needed)
            case "object" if depth <= MAX_DEPTH:
                filled = self.object(schema, "", depth)
                if filled.missing:
                    return None
                if filled.guessed or not filled.arguments:
                    return Value(filled.arguments, Ground.GUESSED)
                return Value(filled.arguments, Ground.LIKELY if filled.likely else Ground.MESSAGE)
            case "null":
                return Value(None, Ground.SCHEMA)
        return None

    def _option(self, schema: JsonObject, options: list[JsonValue], name: str) -> Value | None:
        usable = [option for option in options if self._reader.accepts(schema, option)]
        candidates = [
            self._evidence.chosen.get(name),
            *self._period_candidates(name, schema),
            *enum_matches(usable, self._evidence.text),
        ]
        for candidate in candidates:
            if candidate is not None and candidate in usable:
                self._spend(candidate)
                return Value(candidate, Ground.MESSAGE)
        for number in self._evidence.numbers:
            if number.value in usable:
                return Value(number.value, Ground.MESSAGE)
        if "default" in schema:
            return Value(schema["default"], Ground.SCHEMA)
        if not usable:
            return None
        return Value(usable[0], Ground.SCHEMA if len(usable) == 1 else Ground.GUESSED)

    def _spend(self, value: JsonValue) -> None:
        """A number that was read as a code is no amount any more."""
        for position, number in enumerate(self._evidence.numbers):
            if str(number.value) == value:
                self._used_numbers.add(position)

    def _period_candidates(self, name: str, schema: JsonObject) -> list[JsonValue]:
        words = set(plain_words(name))
        periods = self._evidence.periods
        found: list[JsonValue] = []
        if words & {"quarter", "period"}:
            found += [text for period in periods if period.quarter for text in period_texts(period)]
            found += [period.quarter for period in periods if period.quarter]
        if "month" in words or "period" in words:
            for period in (*periods, *(Period(int(d[:4]), month=int(d[5:7])) for d in self._evidence.dates)):
                if period.month:
                    found += [*period_texts(period), period.month]
        if "year" in words or "period" in words:
            for year in (*(int(date[:4]) for date in self._evidence.dates), *self._evidence.years):
                found += [year, str(year)]
        return found

    def _string(self, schema: JsonObject, name: str, *, needed: bool) -> Value | None:
        evidence, words = self._evidence, set(plain_words(name))
        candidates: list[str] = [c for c in self._period_candidates(name, schema) if isinstance(c, str)]
        form = schema.get("format")
        dated = form in ("date", "date-time") or "date" in words
        pattern = schema.get("pattern")
        if dated:
            candidates += self._dates(words, with_time=form == "date-time")
        elif form in ("uri", "url") or words & {"url", "uri", "link"}:
            candidates += evidence.urls
        elif form == "email" or "email" in words:
            candidates += evidence.emails
        else:
            candidates += named_value(name, evidence)
            candidates += [text for text in evidence.quoted if text not in self._used_texts] if needed else []
            if words & {"id", "code", "number", "reference", "ref", "key"}:
                candidates += evidence.codes
        if isinstance(pattern, str):
            candidates += _matching(pattern, evidence.text)
        for candidate in candidates:
            if self._reader.accepts(schema, candidate):
                self._used_texts.add(candidate)
                self._spend(candidate)
                return Value(candidate, Ground.MESSAGE)
        text = free_text(name, evidence, self._subject | set(concepts(name)), self._used_texts)
        if text is not None and not dated and self._reader.accepts(schema, text.text):
            self._used_texts.add(text.text)
            return Value(text.text, Ground.MESSAGE if text.stated else Ground.LIKELY)
        guess = _fit(text.text if text is not None else evidence.text, schema)
        return Value(guess, Ground.GUESSED) if self._reader.accepts(schema, guess) else None

    def _dates(self, words: set[str], *, with_time: bool) -> list[str]:
        evidence = self._evidence
        periods = evidence.periods or tuple(Period(year) for year in evidence.years)
        bounds = [bound for period in periods if (bound := period.bounds())]
        days: list[str] = []
        if words & _END:
            days += [evidence.dates[-1]] if len(evidence.dates) > 1 or _says(evidence.text, _END) else []
            days += [max(end for _, end in bounds)] if bounds and not evidence.dates else []
        elif words & _START:
            only_end = len(evidence.dates) == 1 and _says(evidence.text, _END) and not _says(evidence.text, _START)
            days += evidence.dates[:1] if not only_end else []
            days += [min(start for start, _ in bounds)] if bounds and not evidence.dates else []
        else:
            days += evidence.dates
        return [f"{day}T00:00:00Z" if with_time else day for day in days]

    def _number(self, schema: JsonObject, name: str, *, whole: bool, needed: bool) -> Value | None:
        for candidate in self._period_candidates(name, schema):
            if isinstance(candidate, int) and self._reader.accepts(schema, candidate):
                return Value(candidate, Ground.MESSAGE)
        words = set(plain_words(name))
        numbers = [pair for pair in enumerate(self._evidence.numbers) if pair[0] not in self._used_numbers]
        ranked = [(_fitness(number, words), -position, number) for position, number in numbers]
        for fitness, position, number in sorted(ranked, key=lambda entry: entry[:2], reverse=True):
            if fitness == 0 and (not needed or words & {"year", "quarter", "month"}):
                continue
            value = int(number.value) if whole and number.value == int(number.value) else number.value
            if not self._reader.accepts(schema, value) and fitness > 1:
                value = _clamp(value, schema)
            if self._reader.accepts(schema, value):
                self._used_numbers.add(-position)
                return Value(value, Ground.MESSAGE)
        smallest = _smallest(schema, whole=whole)
        return Value(smallest, Ground.GUESSED) if self._reader.accepts(schema, smallest) else None

    def _boolean(self, name: str) -> Value:
        text = self._evidence.text.lower()
        words = [word for word in plain_words(name) if word not in ("is", "include", "with", "has", "only", "enable")]
        spoken = re.escape(" ".join(words or plain_words(name)))
        if re.search(rf"\b{_NEGATIONS}\b[\w\s]{{0,12}}\b{spoken}", text):
            return Value(False, Ground.MESSAGE)
        stated = re.search(rf"\b{spoken}\w*(?:\s*(?:is|=|:)\s*(true|false|yes|no|on|off)\b)?", text)
        if stated and spoken:
            return Value(stated[1] not in ("false", "no", "off"), Ground.MESSAGE)
        return Value(False, Ground.GUESSED)

    def _array(self, schema: JsonObject, name: str, depth: int, *, needed: bool) -> Value | None:
        inner = self._reader.resolve(schema.get("items"))
        values: list[JsonValue] = []
        options = inner.get("enum")
        kind = type_of(inner)
        if isinstance(options, list):
            values += enum_matches(options, self._evidence.text)
        elif kind == "string" and (needed or set(concepts(name)) & set(concepts(self._evidence.text))):
            values += self._evidence.quoted or named_value(name, self._evidence)
            values += self._evidence.emails if inner.get("format") == "email" else ()
        elif kind in ("integer", "number") and (needed or set(concepts(name)) & set(concepts(self._evidence.text))):
            values += [number.value for number in self._evidence.numbers]
        values = [value for value in values if self._reader.accepts(inner, value)]
        if schema.get("uniqueItems"):
            values = [value for position, value in enumerate(values) if value not in values[:position]]
        most, least = schema.get("maxItems"), schema.get("minItems")
        if isinstance(most, int):
            values = values[:most]
        ground = Ground.MESSAGE if values else Ground.GUESSED
        if isinstance(least, int) and len(values) < least:
            if least > MAX_PADDING:
                return None
            ground = Ground.GUESSED
            values += self._padding(inner, least - len(values), values, name, depth)
        return Value(values, ground) if needed or values else None

    def _padding(self, inner: JsonObject, count: int, have: list[JsonValue], name: str, depth: int) -> list[JsonValue]:
        options = inner.get("enum")
        if isinstance(options, list):
            fresh = [option for option in options if option not in have]
            return (fresh + [*options] * count)[:count]
        made = self._value(inner, name, depth + 1, needed=True)
        if made is None:
            return []
        first = made.value
        series: list[JsonValue] = [first] * count
        if isinstance(first, str):
            series = [first, *(f"{first} {number}" for number in range(2, count + 1))]
        elif isinstance(first, int | float) and not isinstance(first, bool):
            series = [first + number * _step(inner) for number in range(count)]
        return [value if self._reader.accepts(inner, value) else first for value in series]


def _fitness(number: Number, words: set[str]) -> int:
    named = {concept(word) for word in words}
    around = {concept(word) for word in (*number.before[-3:], *number.after[:2])}
    if number.before and concept(number.before[-1]) in named:
        return 5
    if number.money and words & _AMOUNT:
        return 4
    if number.percent and words & _PERCENT:
        return 4
    if words & _LIMIT and (set(number.before[-2:]) | set(number.after[:1])) & _COUNTING:
        return 3
    if named & around:
        return 2
    if words & _AMOUNT and not number.percent:
        return 1
    return 0


def _says(text: str, words: frozenset[str]) -> bool:
    return bool(words & set(plain_words(text)))


def _matching(pattern: str, text: str) -> list[str]:
    try:
        compiled = re.compile(pattern.removeprefix("^").removesuffix("$"))
    except re.error:
        return []
    return [match.group() for match in compiled.finditer(text) if match.group()]


def _fit(text: str, schema: JsonObject) -> str:
    least, most = schema.get("minLength"), schema.get("maxLength")
    fitted = text or "unspecified"
    if isinstance(least, int) and len(fitted) < least <= MAX_PADDING:
        fitted = (fitted + " ") * math.ceil(least / (len(fitted) + 1))
        fitted = fitted.ljust(least, ".")
    return fitted[:most] if isinstance(most, int) else fitted


def _bound(schema: JsonObject, key: str) -> float | int | None:
    value = schema.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _step(schema: JsonObject) -> float | int:
    return _bound(schema, "multipleOf") or 1


def _clamp(value: float | int, schema: JsonObject) -> float | int:
    low, high = _bound(schema, "minimum"), _bound(schema, "maximum")
    if low is not None and value < low:
        return low
    return high if high is not None and value > high else value


def _smallest(schema: JsonObject, *, whole: bool) -> float | int:
    low, high = _bound(schema, "minimum"), _bound(schema, "maximum")
    above, below = _bound(schema, "exclusiveMinimum"), _bound(schema, "exclusiveMaximum")
    step = _step(schema)
    if low is None and above is None:
        top = min((bound for bound in (high, below) if bound is not None), default=None)
        if top is None or top > 0:
            return 0
        value = math.floor(top / step) * step
        return value - step if value == below else value
    floor = max(bound for bound in (low, above) if bound is not None)
    if not whole and "multipleOf" not in schema:
        ceiling = min((bound for bound in (high, below) if bound is not None), default=floor + 1)
        return floor if floor != above else (floor + ceiling) / 2
    value = math.ceil(floor / step) * step
    return value + step if value == above else value
