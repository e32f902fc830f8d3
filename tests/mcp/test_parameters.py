"""The schema that the model is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aos.mcp.parameters import MOST_NODES, inlined, parameters
from aos.registry.schemas import schema_fault

Schema = dict[str, Any]


def shown(schema: Schema) -> Schema:
    assert schema_fault({"type": "object", **schema}) is None
    return parameters({"type": "object", **schema}, {}, ())


def test_references_are_put_in_place() -> None:
    made = shown(
        {
            "properties": {
                "from": {"$ref": "#/$defs/place", "description": "Where it begins."},
                "stops": {"type": "array", "items": {"$ref": "#/$defs/place"}},
                "kind": {"anyOf": [{"$ref": "#/$defs/a~1b"}, {"type": "null"}]},
            },
            "$defs": {
                "place": {"type": "object", "properties": {"country": {"$ref": "#/$defs/country"}}},
                "country": {"type": "string", "enum": ["de", "fr"]},
                "a/b": {"const": {"$ref": "data, not a reference"}},
            },
        }
    )
    place = {"type": "object", "properties": {"country": {"type": "string", "enum": ["de", "fr"]}}}
    assert made == {
        "type": "object",
        "properties": {
            "from": {**place, "description": "Where it begins."},
            "stops": {"type": "array", "items": place},
            "kind": {"anyOf": [{"const": {"$ref": "data, not a reference"}}, {"type": "null"}]},
        },
    }
    assert schema_fault(made) is None


def test_what_stands_beside_a_reference_holds_too() -> None:
    made = shown(
        {"properties": {"n": {"$ref": "#/$defs/n", "maximum": 5}}, "$defs": {"n": {"type": "integer", "maximum": 9}}}
    )
    assert made["properties"]["n"] == {"maximum": 5, "allOf": [{"type": "integer", "maximum": 9}]}


def test_a_recursive_definition_is_written_out_twice_and_then_described() -> None:
    node = {
        "type": "object",
        "title": "Node",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    }
    made = shown({"properties": {"root": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}})
    inner = made["properties"]["root"]["properties"]["kids"]["items"]
    assert inner["title"] == "Node"
    assert inner["properties"]["kids"]["items"] == {
        "type": "object",
        "description": "Again Node, in the same form as above.",
    }
    assert "$ref" not in json.dumps(made)


def test_a_schema_that_refers_to_its_whole() -> None:
    made = shown({"properties": {"not_it": {"$ref": "#"}}})
    assert made["properties"]["not_it"]["properties"]["not_it"]["type"] == "object"
    assert "$ref" not in json.dumps(made)


def test_definitions_that_multiply_stay_bounded() -> None:
    levels = {
        f"l{n}": {"type": "object", "properties": {k: {"$ref": f"#/$defs/l{n + 1}"} for k in "abcdefgh"}}
        for n in range(20)
    }
    made = shown({"properties": {"v": {"$ref": "#/$defs/l0"}}, "$defs": {**levels, "l20": {"type": "string"}}})
    assert json.dumps(made).count("{") < 4 * MOST_NODES


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"i": {"$anchor": "int", "type": "integer"}}, "properties": {"v": {"$ref": "#int"}}},
        {"$dynamicAnchor": "tree", "properties": {"kids": {"items": {"$dynamicRef": "#tree"}}}},
        {
            "$defs": {"a": {"$id": "urn:a", "properties": {"b": {"$ref": "#/$defs/c"}}, "$defs": {"c": {}}}},
            "properties": {"v": {"$ref": "urn:a"}},
        },
    ],
)
def test_references_of_other_kinds_stay_as_they_are(schema: Schema) -> None:
    assert inlined(schema) == schema
    assert schema_fault({"type": "object", **schema}) is None


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema: Schema = {"properties": {"$ref": {"type": "string"}, "$defs": {"type": "string"}, "enum": {"type": "null"}}}
    assert inlined(schema) == schema


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_what_the_service_refuses_at_the_top_is_said_in_words(keyword: str) -> None:
    schema: Schema = {
        "description": "A payment.",
        "properties": {"iban": {"type": "string"}, "card": {"type": "string"}},
        keyword: [{"required": ["iban"]}],
        "if": {"required": ["card"]},
    }
    made = shown(schema)
    assert keyword not in made
    assert made["description"].startswith("A payment.\nThe arguments as a whole must also fit")
    assert json.dumps({keyword: schema[keyword]}, separators=(",", ":")) in made["description"]
    assert made["if"] == schema["if"], "what the service takes stays"


def test_nothing_is_changed_in_the_schema_that_was_given() -> None:
    schema: Schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"type": "string"}},
        "required": ["a", "b"],
        "$defs": {"a": {"type": "integer"}},
    }
    before = json.dumps(schema)
    made = parameters(schema, {"a": 1}, ["b"])
    assert json.dumps(schema) == before
    assert made == {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}, "required": []}
