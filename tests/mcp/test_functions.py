from __future__ import annotations

import json
import re
import socket
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos.errors import AgentNotReady
from aos.kernel.events import PlannedCall
from aos.kernel.types import FunctionCall, SendTool
from aos.mcp import functions
from aos.mcp.bridge import tool_request
from aos.mcp.functions import (
    FunctionTools,
    ToolNamesCollide,
    ToolSource,
    TooManyTools,
    convert_mcp_tools_to_function_tools,
    function_name,
)
from aos.mcp.tools import ToolInfo
from aos.registry.policies import ToolConfiguration
from aos.registry.schemas import schema_fault

Schema = dict[str, Any]
YEAR: Schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}


def source(server: str = "ledger", tool: str = "lookup", schema: Schema | None = None) -> ToolSource:
    return ToolSource(server, ToolInfo(name=tool, description="Does it.", input_schema=schema or YEAR), 120.0)


def tools(*sources: ToolSource) -> FunctionTools:
    return convert_mcp_tools_to_function_tools(sources or [source()])


def call(arguments: str, name: str = "ledger_lookup") -> FunctionCall:
    return FunctionCall("call_1", name, arguments)


def refusal(planned: PlannedCall) -> str:
    assert planned.refusal is not None
    error = json.loads(planned.refusal)["error"]
    assert isinstance(error, str)
    return error


# --- names and definitions


def test_a_tool_is_a_function_with_its_own_schema() -> None:
    (definition,) = tools().definitions
    assert (definition.name, definition.description, definition.parameters) == (
        "ledger_lookup",
        "Does it.",
        {**YEAR, "properties": {"year": {"type": "integer"}}},
    )


def test_a_schema_without_properties_gets_what_the_service_wants() -> None:
    (definition,) = tools(source(schema={"description": "nothing to say"})).definitions
    assert definition.parameters == {"type": "object", "properties": {}, "description": "nothing to say"}


@pytest.mark.parametrize(
    ("server", "tool", "name"),
    [
        ("ledger", "lookup", r"ledger_lookup"),
        ("ledger-2", "look-up", r"ledger-2_look-up"),
        ("ledger", "look.up", r"ledger_look_up_[0-9a-f]{8}"),
        ("ledger", "größe", r"ledger_gr__e_[0-9a-f]{8}"),
        ("ledger", "x" * 80, r"ledger_x{48}_[0-9a-f]{8}"),
        ("l" * 32, "x" * 31, r"l{32}_x{31}"),
        ("l" * 32, "x" * 32, r"l{32}_x{22}_[0-9a-f]{8}"),
    ],
)
def test_names(server: str, tool: str, name: str) -> None:
    made = function_name(server, tool)
    assert re.fullmatch(name, made)
    assert len(made) <= 64


def test_names_that_look_alike_stay_apart() -> None:
    alike = [("a", "b_c"), ("a_b", "c"), ("a", "b.c"), ("a", "b c"), ("a_b", "ü"), ("a", "b_ü"), ("a", "x" * 70)]
    alike.append(("a", "x" * 71))
    made = tools(*(source(server, tool) for server, tool in alike))
    assert len(made.names) == len(set(made.names)) == len(made.definitions) == len(alike)
    planned = {(p.server, p.tool) for p in (made.plan(call('{"year": 1}', name)) for name in made.names)}
    assert planned == set(alike), "each name leads to its own tool"


def test_the_order_of_the_tools_does_not_matter() -> None:
    sources = [source("a", "b_c"), source("a_b", "c"), source("b", "d")]
    assert tools(*sources).definitions == tools(*reversed(sources)).definitions


parts = st.text(st.sampled_from("ab_-. ü"), min_size=1, max_size=40)


@given(st.sets(st.tuples(parts, parts), max_size=12))
def test_every_tool_has_a_valid_name_of_its_own(pairs: set[tuple[str, str]]) -> None:
    made = tools(*(source(server, tool) for server, tool in pairs)) if pairs else tools()
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in made.names)
    assert len(made.names) == max(len(pairs), 1)


def test_the_service_takes_128_tools() -> None:
    assert len(tools(*(source(tool=f"t{number}") for number in range(128))).names) == 128
    with pytest.raises(TooManyTools, match="129"):
        tools(*(source(tool=f"t{number}") for number in range(129)))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, "/type"),
        ({"type": "string"}, "/type"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "/properties/a/pattern"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}, "missing"),
    ],
)
def test_a_schema_that_cannot_be_used_names_the_tool(schema: Schema, said: str) -> None:
    with pytest.raises(AgentNotReady, match=r"'ledger'.*'lookup'") as refused:
        tools(source(schema=schema))
    assert refused.value.code == "invalid_tool_schema"
    assert said in refused.value.detail


def test_nothing_is_fetched_from_an_address_in_a_schema() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.05)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/schema"
        with pytest.raises(AgentNotReady, match="only references within"):
            tools(source(schema={"type": "object", "properties": {"a": {"$ref": address}}}))
        with pytest.raises(TimeoutError):
            listener.accept()


# --- what the entry sets


PAGED: Schema = {
    "type": "object",
    "properties": {
        "query": {"type": "string"},
        "limit": {"type": "integer", "maximum": 100},
        "tenant": {"type": "string"},
        "debug": {"type": "boolean"},
    },
    "required": ["query", "limit", "tenant"],
    "additionalProperties": False,
}


def configured(schema: Schema | None = None, **given: Any) -> FunctionTools:
    how = ToolConfiguration.model_validate(given)
    info = ToolInfo(name="lookup", input_schema=schema or PAGED)
    return tools(ToolSource("ledger", info, 120.0, False, how.defaults, how.fixed, how.locked))


def test_arguments_that_are_set_are_not_shown_and_are_in_the_call() -> None:
    made = configured(defaults={"limit": 10}, fixed={"tenant": "eu"}, hidden=["debug"])
    (definition,) = made.definitions
    assert definition.parameters["properties"] == {
        "query": {"type": "string"},
        "limit": {"type": "integer", "maximum": 100, "default": 10},
    }
    assert definition.parameters["required"] == ["query"]
    planned = made.plan(call('{"query": "ü"}'))
    assert planned.refusal is None
    assert json.loads(planned.call.arguments) == {"limit": 10, "query": "ü", "tenant": "eu"}
    assert json.loads(made.plan(call('{"query": "x", "limit": 7}')).call.arguments)["limit"] == 7


@pytest.mark.parametrize("name", ["tenant", "debug"])
def test_the_model_cannot_give_what_is_set(name: str) -> None:
    made = configured(defaults={"limit": 10}, fixed={"tenant": "eu"}, hidden=["debug"])
    assert name in refusal(made.plan(call(json.dumps({"query": "x", name: "us"}))))


def test_what_the_model_gives_is_checked_with_what_is_set() -> None:
    rule: Schema = {**PAGED, "if": {"properties": {"tenant": {"const": "eu"}}}, "then": {"required": ["debug"]}}
    told = refusal(configured(rule, fixed={"tenant": "eu", "limit": 1}).plan(call('{"query": "x"}')))
    assert "debug" in told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fixed": {"region": 1}}, "no argument 'region'; it has: debug, limit, query, tenant"),
        ({"hidden": ["tenant"]}, "'tenant' is hidden, but required"),
        ({"defaults": {"limit": 500}}, "/limit: "),
        ({"fixed": {"tenant": 7}}, "/tenant: "),
    ],
)
def test_a_configuration_that_the_tool_does_not_take_names_the_argument(given: Schema, said: str) -> None:
    with pytest.raises(AgentNotReady, match="'lookup' of MCP server 'ledger'") as refused:
        configured(**given)
    assert refused.value.code == "invalid_tool_configuration"
    assert said in refused.value.detail


def test_a_description_that_is_too_long_stands_with_the_parameters() -> None:
    text = "word " * 500
    (definition,) = tools(ToolSource("a", ToolInfo(name="b", description=text, input_schema=YEAR), 1.0)).definitions
    assert (len(definition.description), definition.description[-3:]) == (1024, "...")
    assert definition.parameters["description"] == text


def test_a_name_that_is_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "function_name", lambda server, tool: "same")
    monkeypatch.setattr(functions, "_hashed", lambda name, server, tool: "same")
    with pytest.raises(ToolNamesCollide, match=r"'b' of MCP server 'a' and tool 'a' of MCP server 'a'"):
        tools(source("a", "a"), source("a", "b"))


# --- calls


def test_a_good_call_is_planned() -> None:
    asked = call('{"year": 2024}')
    assert tools().plan(asked) == PlannedCall(asked, "ledger", "lookup", 120.0, None)


def test_no_arguments_are_an_empty_object() -> None:
    made = tools(source(schema={"type": "object"}))
    assert made.plan(call("")).refusal is None
    assert made.plan(call("{}")).refusal is None


def test_an_unknown_tool_is_told_which_there_are() -> None:
    planned = tools().plan(call("{}", "ledger_erase"))
    assert refusal(planned) == "invalid_call: there is no tool 'ledger_erase'; the tools are: ledger_lookup"
    assert (planned.server, planned.tool) == ("", "")
    assert len(refusal(tools().plan(call("{}", "x" * 100_000)))) < 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{", "not JSON"),
        ("nonsense", "not JSON"),
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"year"', "not a JSON object"),
        ("{}", '"year" is a required property'),
        ('{"year": "2024"}', "/year: "),
        ('{"year": NaN}', "not JSON"),
        ('{"year": -Infinity}', "not JSON"),
        ('{"year": 1, "x": 1e999}', "not JSON"),
        ('{"year": 1, "x": "\\ud800"}', "not JSON"),
        ('{"year": 1, "x": "\ud800"}', "not JSON"),
        ('{"year": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 500_000, "more than 64 levels"),
        ('{"year": 1, "x": ' + "[" * 64 + "]" * 64 + "}", "more than 64 levels"),
        ('{"year": "' + "x" * 1_048_576 + '"}', "longer than 1048576"),
    ],
)
def test_a_bad_call_is_refused_with_the_reason(arguments: str, said: str) -> None:
    planned = tools().plan(call(arguments))
    assert refusal(planned).startswith("invalid_call: ")
    assert said in refusal(planned)
    assert len(refusal(planned)) < 4000
    assert (planned.server, planned.tool, planned.time_limit) == ("ledger", "lookup", 120.0)


def test_only_the_first_problems_are_told() -> None:
    schema: Schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    arguments = json.dumps({f"key{number}": "x" * 10_000 for number in range(100)})
    told = refusal(tools(source(schema=schema)).plan(call(arguments)))
    assert told.count("; ") == 4
    assert len(told) < 4000


WIDE = {"year": 1, "more": [{"a": [1.5, None, True, "ü", 10**30]}] * 10}
NESTED: Any = 1
for _ in range(61):
    NESTED = [NESTED]


@pytest.mark.parametrize("value", [WIDE, {"year": 1, "deep": NESTED}])
def test_what_is_planned_can_be_sent_and_read(value: Schema) -> None:
    planned = tools().plan(call(json.dumps(value)))
    assert planned.refusal is None
    body = tool_request(SendTool("op_1.1.0", planned.server, planned.tool, planned.call.arguments)).body
    assert json.loads(body)["params"]["tool_params"] == value


# --- the schema, compared with the reference implementation

SCHEMAS: dict[str, tuple[Schema, list[Any]]] = {
    "types": (
        {"properties": {"v": {"type": ["integer", "null"]}}},
        [{"v": 1}, {"v": 1.0}, {"v": 1.5}, {"v": None}, {"v": True}, {"v": "1"}, {}],
    ),
    "numbers": (
        {"properties": {"v": {"type": "number", "exclusiveMinimum": 0, "maximum": 10, "multipleOf": 0.5}}},
        [{"v": 0}, {"v": 0.5}, {"v": 10}, {"v": 10.5}, {"v": 0.3}, {"v": -1}, {"v": False}],
    ),
    "strings": (
        {"properties": {"v": {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^[a-zü]+$"}}},
        [{"v": "a"}, {"v": "ab"}, {"v": "üü"}, {"v": "abcd"}, {"v": "A2"}, {"v": "👋👋"}, {"v": 5}],
    ),
    "enum": (
        {"properties": {"v": {"enum": ["a", 1, None, {"x": [1]}]}, "c": {"const": 1}}},
        [{"v": "a"}, {"v": 1.0}, {"v": None}, {"v": {"x": [1]}}, {"v": {"x": [2]}}, {"v": True}, {"c": 1}, {"c": "1"}],
    ),
    "objects": (
        {
            "properties": {"a": {"type": "integer"}},
            "patternProperties": {"^x-": {"type": "string"}},
            "additionalProperties": False,
            "minProperties": 1,
            "propertyNames": {"maxLength": 5},
        },
        [{}, {"a": 1}, {"x-y": "s"}, {"x-y": 1}, {"b": 1}, {"x-toolong": "s"}, {"a": "1"}],
    ),
    "arrays": (
        {"properties": {"v": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True}}},
        [{"v": []}, {"v": [1]}, {"v": [1, 1]}, {"v": [1, 1.0]}, {"v": [1, "2"]}, {"v": {}}],
    ),
    "prefixItems": (
        {"properties": {"v": {"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False}}},
        [{"v": ["a"]}, {"v": ["a", 1]}, {"v": ["a", 1, 2]}, {"v": [1]}, {"v": "text"}],
    ),
    "contains": (
        {"properties": {"v": {"contains": {"type": "integer"}, "minContains": 2, "maxContains": 3}}},
        [{"v": [1]}, {"v": [1, 2]}, {"v": ["a", 1, 2, 3]}, {"v": [1, 2, 3, 4]}],
    ),
    "dependentRequired": (
        {"dependentRequired": {"card": ["address"]}},
        [{"card": 1}, {"card": 1, "address": "x"}, {"address": "x"}],
    ),
    "dependentSchemas": (
        {"dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}, "required": ["b"]}}},
        [{"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": "2"}, {"b": "2"}],
    ),
    "unevaluatedProperties": (
        {
            "allOf": [{"properties": {"a": {"type": "integer"}}}],
            "anyOf": [{"properties": {"b": {"const": 1}}, "required": ["b"]}, True],
            "unevaluatedProperties": False,
        },
        [{"a": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 2}, {"c": 1}],
    ),
    "unevaluatedItems": (
        {"properties": {"v": {"prefixItems": [{"type": "integer"}], "unevaluatedItems": {"type": "string"}}}},
        [{"v": [1]}, {"v": [1, "a"]}, {"v": [1, 2]}],
    ),
    "if": (
        {
            "if": {"properties": {"kind": {"const": "card"}}, "required": ["kind"]},
            "then": {"required": ["number"]},
            "else": {"required": ["iban"]},
        },
        [{"kind": "card"}, {"kind": "card", "number": 1}, {"kind": "bank"}, {"iban": "x"}, {}],
    ),
    "combined": (
        {"properties": {"v": {"oneOf": [{"type": "integer"}, {"minimum": 2}], "not": {"const": 7}}}},
        [{"v": 1}, {"v": 2}, {"v": 2.5}, {"v": "text"}, {"v": 7}, {"v": 7.5}],
    ),
    "refs": (
        {
            "$defs": {
                "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "n": {"type": "null"}}}
            },
            "properties": {"v": {"$ref": "#/$defs/node", "maxProperties": 1}},
        },
        [{"v": {}}, {"v": {"next": {"next": {}}}}, {"v": {"next": {"n": 1}}}, {"v": {"next": {}, "n": None}}, {"v": 1}],
    ),
    "anchors": (
        {"$defs": {"i": {"$anchor": "int", "type": "integer"}}, "properties": {"v": {"$ref": "#int"}}},
        [{"v": 1}, {"v": "1"}],
    ),
    "dynamicRef": (
        {
            "$dynamicAnchor": "tree",
            "properties": {"kids": {"type": "array", "items": {"$dynamicRef": "#tree"}}, "n": {"type": "integer"}},
        },
        [{"kids": []}, {"kids": [{"n": 1}]}, {"kids": [{"n": "1"}]}, {"kids": [{"kids": 1}]}],
    ),
    "false": ({"properties": {"v": False}}, [{}, {"v": 1}]),
    "draft 7": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"i": {"type": "integer"}},
            "properties": {"v": {"items": [{"$ref": "#/definitions/i"}], "additionalItems": False}},
        },
        [{"v": [1]}, {"v": ["1"]}, {"v": [1, 2]}],
    ),
}
CASES = [
    pytest.param(schema, value, id=f"{name}-{json.dumps(value)}")
    for name, (schema, values) in SCHEMAS.items()
    for value in values
]


@pytest.mark.parametrize(("schema", "value"), CASES)
def test_arguments_fit_as_the_specification_says(schema: Schema, value: Any) -> None:
    made = tools(source(schema=schema))
    whole = {"type": "object", "properties": {}, **schema}
    oracle = jsonschema.validators.validator_for(whole, default=jsonschema.Draft202012Validator)(whole)
    assert (made.plan(call(json.dumps(value))).refusal is None) is oracle.is_valid(value)
    shown = made.definitions[0].parameters
    assert schema_fault(shown) is None
    if oracle.is_valid(value):
        # What is shown may say less than what holds, never more.
        assert jsonschema.validators.validator_for(shown, default=jsonschema.Draft202012Validator)(shown).is_valid(
            value
        )


@pytest.mark.parametrize(
    ("format_", "good", "bad"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("date-time", "2024-02-29T12:00:00Z", "yesterday"),
        ("email", "a@example.com", "a"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("uri", "https://example.com/a", "no uri"),
    ],
)
def test_formats_are_checked(format_: str, good: str, bad: str) -> None:
    made = tools(source(schema={"type": "object", "properties": {"v": {"type": "string", "format": format_}}}))
    assert made.plan(call(json.dumps({"v": good}))).refusal is None
    assert "/v: " in refusal(made.plan(call(json.dumps({"v": bad}))))
