from __future__ import annotations

import json

import jsonschema  # type: ignore[import-untyped]  # the package carries no types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from emulators.foundry.model import JsonObject, ModelError
from emulators.foundry.offline.arguments import MAX_VALUES, fill
from emulators.foundry.offline.evidence import Evidence, Period, gather
from emulators.foundry.offline.schema import SchemaReader


def one(schema: JsonObject, message: str, name: str = "value") -> JsonValue:
    """The value of a single required property, or None when there is none."""
    filled = fill({"type": "object", "properties": {name: schema}, "required": [name]}, gather(message))
    return filled.arguments.get(name)


STRING: JsonObject = {"type": "string"}
DATE: JsonObject = {"type": "string", "format": "date"}


@pytest.mark.parametrize(
    ("name", "schema", "message", "expected"),
    [
        ("quarter", {"type": "string", "enum": ["Q1", "Q2", "Q3", "Q4"]}, "in Q3 please", "Q3"),
        ("quarter", {"type": "integer", "minimum": 1, "maximum": 4}, "the second quarter", 2),
        ("quarter", {"enum": [1, 2, 3, 4]}, "Q4 2024", 4),
        ("period", {"type": "string", "pattern": r"^\d{4}-Q[1-4]$"}, "revenue of Q1 2024", "2024-Q1"),
        ("period", {"type": "string", "pattern": r"^\d{4}-\d{2}$"}, "costs in May 2024", "2024-05"),
        ("month", {"type": "integer", "minimum": 1, "maximum": 12}, "costs in May 2024", 5),
        ("year", {"type": "integer"}, "in 2024 we had 12 shops", 2024),
        ("year", STRING, "in 2024", "2024"),
        ("date", DATE, "on 3 March 2025", "2025-03-03"),
        ("start_date", DATE, "in 2024", "2024-01-01"),
        ("end_date", DATE, "from 2024-02-01 until 2024-03-01", "2024-03-01"),
        ("when", {"type": "string", "format": "date-time"}, "no date at all", None),
        ("amount", {"type": "number"}, "pay 3 people €1,250.75", 1250.75),
        ("amount", {"type": "number"}, "a budget of 2.5 million", 2_500_000),
        ("amount", {"type": "integer"}, "raise it by 12k", 12_000),
        ("rate", {"type": "number", "maximum": 100}, "500 units at 7.5 %", 7.5),
        ("limit", {"type": "integer", "maximum": 50}, "the last 80 entries", 50),
        ("count", {"type": "integer", "multipleOf": 5}, "roughly 12 or 15", 15),
        ("days", {"type": "integer"}, "in 3 weeks or 20 days", 20),
        ("urgent", {"type": "boolean"}, "this is urgent", True),
        ("include_drafts", {"type": "boolean"}, "without drafts", False),
        ("archived", {"type": "boolean"}, "archived: no", False),
        ("email", {"type": "string", "format": "email"}, "tell bob@example.com about it", "bob@example.com"),
        ("url", {"type": "string", "format": "uri"}, "look at https://example.com/a?b=1.", "https://example.com/a?b=1"),
        ("title", STRING, "create a page called 'Road map'", "Road map"),
        ("subject", STRING, "send a mail about the annual report.", "annual report"),
        ("query", STRING, "find the largest customers", "find the largest customers"),
        ("invoice_id", STRING, "show invoice INV-1001", "INV-1001"),
        ("city", STRING, "the weather in New York", "New York"),
        ("department", STRING, "the marketing department", "marketing"),
        ("customer", STRING, "customer: Acme", "Acme"),
        ("color", {"enum": ["light blue", "blue"]}, "a light blue one", "light blue"),
        ("tags", {"type": "array", "items": {"enum": ["red", "green", "blue"]}}, "blue and red", ["blue", "red"]),
        ("names", {"type": "array", "items": STRING}, 'add "Ann" and "Bob"', ["Ann", "Bob"]),
        ("numbers", {"type": "array", "items": {"type": "number"}, "maxItems": 2}, "sum 1, 2.5 and 3", [1, 2.5]),
        ("kind", {"const": "fixed"}, "anything", "fixed"),
        ("size", {"type": "integer", "default": 7}, "anything", 7),
        ("year", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "in 2023", 2023),
        ("year", {"type": ["integer", "null"]}, "in 2023", 2023),
    ],
)
def test_a_value_is_taken_from_the_message(name: str, schema: JsonObject, message: str, expected: JsonValue) -> None:
    assert one(schema, message, name) == expected


def test_references_and_nested_objects_are_followed() -> None:
    schema: JsonObject = {
        "$defs": {
            "Money": {
                "type": "object",
                "properties": {"amount": {"type": "number"}, "currency": {"enum": ["EUR", "USD"]}},
                "required": ["amount", "currency"],
            }
        },
        "type": "object",
        "properties": {"total": {"$ref": "#/$defs/Money"}, "note": {"allOf": [STRING, {"maxLength": 9}]}},
        "required": ["total"],
    }
    filled = fill(schema, gather('pay 99.50 USD, note: "for tea"'))
    assert filled.arguments == {"total": {"amount": 99.5, "currency": "USD"}, "note": "for tea"}
    assert (filled.guessed, filled.likely, filled.missing) == ((), (), ())


def test_a_recursive_schema_ends() -> None:
    node: JsonObject = {"type": "object", "properties": {"child": {"$ref": "#/$defs/Node"}}, "required": ["child"]}
    filled = fill({"$defs": {"Node": node}, **node}, gather("go"))
    assert filled.missing == ("child",)


def test_optional_arguments_need_evidence() -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": {
            "year": {"type": "integer"},
            "limit": {"type": "integer"},
            "account": STRING,
            "flag": {"type": "boolean"},
        },
    }
    assert fill(schema, gather("show everything, please")).arguments == {}


def test_no_number_is_used_twice() -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    }
    assert fill(schema, gather("add 2 and 3")).arguments == {"a": 2, "b": 3}


def test_what_rests_on_nothing_is_told() -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": {
            "amount": {"type": "number", "minimum": 5},
            "code": {"type": "string", "pattern": "^Z[0-9]+$"},
            "team": STRING,
            "year": {"type": "integer", "description": "Calendar year, such as 2025."},
        },
        "required": ["amount", "code", "team", "year"],
    }
    filled = fill(schema, gather("for the blue whales"))
    assert filled.arguments == {"amount": 5, "team": "blue whales", "year": 2025}
    assert (filled.guessed, filled.likely, filled.missing) == (("amount",), ("team", "year"), ("code",))


def test_a_quarter_without_a_year_is_of_the_year_named() -> None:
    found = gather("Q3 2025 against Q2")
    assert found.periods == (Period(2025, quarter=3), Period(2025, quarter=2))
    assert (found.years, found.numbers) == ((2025,), ())
    assert gather("And Q1?", earlier="It was 2023, then 2024.").periods == (Period(2024, quarter=1),)


SCALARS = st.one_of(
    st.fixed_dictionaries({"type": st.just("boolean")}),
    st.tuples(st.integers(-50, 50), st.integers(0, 50)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    ),
    st.tuples(st.integers(-50, 50), st.integers(1, 50)).map(
        lambda pair: {"type": "number", "exclusiveMinimum": pair[0], "exclusiveMaximum": pair[0] + pair[1]}
    ),
    st.integers(1, 9).map(lambda step: {"type": "integer", "multipleOf": step, "minimum": 1}),
    st.tuples(st.integers(0, 20), st.integers(0, 30)).map(
        lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[0] + pair[1]}
    ),
    st.lists(st.sampled_from(["red", "green", "Q3", 4, None, True]), min_size=1, max_size=4).map(
        lambda options: {"enum": options}
    ),
    st.sampled_from(["a", 1, None, False]).map(lambda value: {"const": value}),
)
NAMES = st.sampled_from(["year", "quarter", "amount", "title", "account", "limit", "tags", "city", "flag", "x"])


def composed(inner: st.SearchStrategy[JsonObject]) -> st.SearchStrategy[JsonObject]:
    objects = st.tuples(st.dictionaries(NAMES, inner, max_size=3), st.booleans()).map(
        lambda pair: {
            "type": "object",
            "properties": pair[0],
            "required": list(pair[0]) if pair[1] else [],
            "additionalProperties": False,
        }
    )
    arrays = st.tuples(inner, st.integers(0, 3)).map(
        lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1], "maxItems": pair[1] + 2}
    )
    return st.one_of(objects, arrays, inner.map(lambda schema: {"anyOf": [schema, {"type": "null"}]}))


SCHEMAS = st.dictionaries(NAMES, st.recursive(SCALARS, composed, max_leaves=5), max_size=4)
MESSAGES = st.lists(
    st.sampled_from(
        [
            "Q3 2025",
            "red",
            "$1,200",
            "the last 5",
            '"quoted text"',
            "account Travel",
            "in May 2024",
            "7.5 %",
            "-3",
            "not flag",
            "x",
        ]
    ),
    max_size=6,
).map(" ".join)


@given(properties=SCHEMAS, message=MESSAGES | st.text(max_size=40), every=st.booleans())
def test_arguments_are_valid_whatever_the_schema(properties: JsonObject, message: str, every: bool) -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": properties,
        "required": [*properties] if every else [],
        "additionalProperties": False,
    }
    filled = fill(schema, gather(message))
    assert filled.missing == ()
    jsonschema.Draft202012Validator(schema).validate(json.loads(filled.text()))
    assert fill(schema, gather(message)) == filled


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(gather(text), Evidence)


def test_a_schema_that_contains_itself_often_is_filled_in_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = 0
    accepts = SchemaReader.accepts

    def counted(reader: SchemaReader, schema: JsonObject, value: JsonValue) -> bool:
        nonlocal checked
        checked += 1
        return accepts(reader, schema, value)

    monkeypatch.setattr(SchemaReader, "accepts", counted)
    node: JsonObject = {"type": "object", "properties": {"name": STRING}, "required": ["name"]}
    assert isinstance(node["properties"], dict)
    node["properties"] |= {name: {"$ref": "#/$defs/node"} for name in ("all", "any", "none", "next")}
    schema: JsonObject = {"type": "object", "properties": {"tree": {"$ref": "#/$defs/node"}}, "required": ["tree"]}
    filled = fill({**schema, "$defs": {"node": node}}, gather("plant a tree"))
    assert filled.missing == ()
    assert checked < 5 * MAX_VALUES


def test_references_that_double_with_every_level_are_followed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[str] = []
    target = SchemaReader._target

    def counted(reader: SchemaReader, reference: str) -> JsonValue:
        followed.append(reference)
        return target(reader, reference)

    monkeypatch.setattr(SchemaReader, "_target", counted)
    defs: JsonObject = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    defs["d40"] = STRING
    schema: JsonObject = {"type": "object", "properties": {"value": {"$ref": "#/$defs/d0"}}, "$defs": defs}
    assert fill(schema, gather("anything")).missing == ()
    assert 0 < len(followed) < 1000


@pytest.mark.parametrize("schema", [{"type": "array", "minItems": 10**12}, {"type": "string", "minLength": 10**12}])
def test_nothing_is_padded_beyond_reason(schema: JsonObject) -> None:
    assert one(schema, "do it") is None


@pytest.mark.parametrize("reference", ["http://127.0.0.1:1/schema.json", "file:///etc/hostname", "#/$defs/nowhere"])
def test_references_to_elsewhere_are_an_error_and_not_fetched(reference: str) -> None:
    with pytest.raises(ModelError, match="A schema cannot be used") as caught:
        one({"type": "array", "items": {"$ref": reference}}, "do it")
    assert (caught.value.code, caught.value.status) == ("invalid_function_parameters", 400)
