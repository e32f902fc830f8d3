from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos.registry.agents import parse_agents
from aos.registry.errors import RegistryInvalid
from aos.registry.mcp_servers import parse_servers
from aos.registry.tools import check_tools

Json = Any  # what stands in a document is arbitrary on purpose

ROOT = Path(__file__).parents[2]


def server(**changes: Json) -> dict[str, Json]:
    return {"server_id": "ledger", "server_name": "company-ledger", "command": "python", **changes}


def remote(**changes: Json) -> dict[str, Json]:
    entry = {"server_id": "web", "server_name": "web", "server_type": "streamable_http", "url": "https://x.example/mcp"}
    return {**entry, **changes}


def tool(name: str = "get_kpis", **schema: Json) -> dict[str, Json]:
    return {"name": name, "description": "", "input_schema": {"type": "object", **schema}}


def document(*entries: Json) -> bytes:
    return json.dumps({"version": "1.0", "servers": entries}).encode()


def test_the_smallest_entry_gets_the_defaults() -> None:
    registry = parse_servers(document(server()))
    assert (registry.problems, registry.warnings) == ((), ())
    entry = registry.entries["ledger"]
    assert (entry.server_type, entry.args, entry.env, entry.url, entry.headers) == ("stdio", (), {}, None, {})
    assert (entry.enabled, entry.auto_start, entry.timeout_seconds, entry.max_retries) == (True, True, 30.0, 3)
    assert (entry.tools, entry.resources, entry.metadata) == ((), (), {})


def test_every_key_arrives() -> None:
    local = server(
        args=["-m", "x"],
        env={"TOKEN": "${GITHUB_TOKEN}"},
        tools=[tool(properties={"year": {"type": "integer"}})],
        resources=[{"uri": "ledger://accounts", "name": "accounts", "mime_type": "application/json"}],
        enabled=False,
        auto_start=False,
        timeout_seconds=0.5,
        max_retries=0,
        metadata={"a": 1},
    )
    web = remote(headers={"Authorization": "Bearer ${TOKEN}"}, timeout_seconds=3600, max_retries=10)
    registry = parse_servers(document(local, web))
    assert (registry.problems, registry.warnings) == ((), ())
    first, second = registry.entries.values()
    assert first.env == {"TOKEN": "${GITHUB_TOKEN}"}
    assert (first.timeout_seconds, first.max_retries, first.enabled, first.auto_start) == (0.5, 0, False, False)
    assert first.resources[0].mime_type == "application/json"
    declared = first.tool("get_kpis")
    assert declared is not None
    assert declared.input_schema["properties"] == {"year": {"type": "integer"}}
    assert first.tool("nothing") is None
    assert (second.url, second.headers) == ("https://x.example/mcp", {"Authorization": "Bearer ${TOKEN}"})
    assert registry.enabled == (second,)


BAD: list[tuple[str, Json, str, str]] = [
    ("not an object", "x", "", "must be an object"),
    ("bad id", server(server_id="A B"), "/server_id", "pattern"),
    ("no name", {"server_id": "a", "command": "x"}, "/server_name", "required"),
    ("stdio without a command", server(command=None), "/command", "required for server_type stdio"),
    ("stdio with a blank command", server(command=" "), "/command", "required for server_type stdio"),
    ("unknown type", server(server_type="http"), "/server_type", "'streamable_http' or 'websocket'; it is 'http'"),
    ("websocket", remote(server_type="websocket"), "/server_type", "use streamable_http"),
    ("sse without url", remote(server_type="sse", url=None), "/url", "required for this server_type"),
    ("http without url", remote(url=""), "/url", "required for this server_type"),
    ("url of another scheme", remote(url="ftp://x.example"), "/url", "not an http or https address"),
    ("url without a host", remote(url="https:///mcp"), "/url", "not an http or https address"),
    ("url with a bad port", remote(url="https://x.example:99999/"), "/url", "not an http or https address"),
    ("url with a bad bracket", remote(url="https://[::1/"), "/url", "not an http or https address"),
    ("url with blanks", remote(url="https://x.example/a b"), "/url", "blanks"),
    ("url with credentials", remote(url="https://me:secret@x.example/"), "/url", "headers"),
    ("args are text", server(args="-m x"), "/args", "must be a list"),
    ("an argument is a number", server(args=["a", 1]), "/args/1", "valid string"),
    ("an argument with a NUL", server(args=["a\0"]), "/args/0", "pattern"),
    ("a variable is a number", server(env={"A": 1}), "/env/A", "valid string"),
    ("a variable's name", server(env={"A B": "x"}), "/env/A B", "pattern"),
    ("a header's name", remote(headers={"A:": "x"}), "/headers/A:", "pattern"),
    ("a header's value", remote(headers={"A": "x\r\nB: y"}), "/headers/A", "pattern"),
    ("no time", server(timeout_seconds=0), "/timeout_seconds", "greater than 0"),
    ("too much time", server(timeout_seconds=3600.5), "/timeout_seconds", "less than or equal to 3600"),
    ("time as text", server(timeout_seconds="30"), "/timeout_seconds", "valid number; it is a string"),
    ("negative retries", server(max_retries=-1), "/max_retries", "greater than or equal to 0"),
    ("too many retries", server(max_retries=11), "/max_retries", "less than or equal to 10"),
    ("retries and a half", server(max_retries=2.5), "/max_retries", "integer"),
    ("auto_start as text", server(auto_start="yes"), "/auto_start", "valid boolean"),
    ("a tool without a name", server(tools=[{"input_schema": {"type": "object"}}]), "/tools/0/name", "required"),
    ("a tool without a schema", server(tools=[{"name": "a"}]), "/tools/0/input_schema", "required"),
    ("a tool twice", server(tools=[tool(), tool()]), "/tools/1/name", "'get_kpis' is declared at /tools/0"),
    ("a schema of a list", server(tools=[tool(type="array")]), "/tools/0/input_schema/type", "it is 'array'"),
    (
        "a schema without type",
        server(tools=[{"name": "a", "input_schema": {}}]),
        "/tools/0/input_schema/type",
        "missing",
    ),
    (
        "a schema that is none",
        server(tools=[tool(), tool("b", properties={"a/b": {"type": "strin"}})]),
        "/tools/1/input_schema/properties/a~1b/type",
        "not valid",
    ),
    (
        "a pattern that is none",
        server(tools=[tool(properties={"a": {"pattern": "("}})]),
        "/tools/0/input_schema/properties/a/pattern",
        "regex",
    ),
    (
        "a reference outside",
        server(tools=[tool(**{"$ref": "http://127.0.0.1:9/x"})]),
        "/tools/0/input_schema",
        "outside",
    ),
    ("a file as reference", server(tools=[tool(**{"$ref": "file:///etc/hosts"})]), "/tools/0/input_schema", "outside"),
    ("a reference to nothing", server(tools=[tool(**{"$ref": "#/a"})]), "/tools/0/input_schema", "not exist"),
    ("an unknown dialect", server(tools=[tool(**{"$schema": "http://x/y"})]), "/tools/0/input_schema", "http://x/y"),
]


@pytest.mark.parametrize(("entry", "pointer", "detail"), [pytest.param(*b[1:], id=b[0]) for b in BAD])
def test_a_bad_entry_is_a_problem_and_its_neighbours_stay(entry: Json, pointer: str, detail: str) -> None:
    neighbours = server(server_id="first", server_name="first"), server(server_id="last", server_name="last")
    registry = parse_servers(document(neighbours[0], entry, neighbours[1]))
    assert list(registry.entries) == ["first", "last"]
    (problem,) = registry.problems
    assert problem.pointer == "/servers/1" + pointer
    assert detail in problem.detail
    assert "secret" not in problem.detail
    assert problem.agent_id is None
    good_id = isinstance(entry, dict) and entry["server_id"] in ("ledger", "web", "a")
    assert problem.server_id == (entry["server_id"] if good_id else None)


def test_older_dialects_of_json_schema_are_understood() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "definitions": {"x": {"type": "string"}},
        "properties": {"a": {"$ref": "#/definitions/x"}},
    }
    draft7 = {"name": "a", "input_schema": schema}
    assert parse_servers(document(server(tools=[draft7]))).problems == ()


def test_a_value_that_may_be_secret_is_not_repeated() -> None:
    registry = parse_servers(
        document(server(env={"TOKEN": "hunter2\0"}), remote(headers={"Authorization": "hunter2\n"}))
    )
    assert len(registry.problems) == 2
    assert "hunter2" not in repr(registry.problems)


def test_a_server_is_found_by_name_and_by_id() -> None:
    registry = parse_servers(document(server(), remote()))
    assert registry.find("ledger") is registry.find("company-ledger") is registry.entries["ledger"]
    assert registry.find("web") is registry.entries["web"]
    assert registry.find("nothing") is None


@pytest.mark.parametrize(
    ("second", "pointers"),
    [
        pytest.param(server(server_name="other"), ["/server_id"], id="id"),
        pytest.param(server(server_id="other"), ["/server_name"], id="name"),
        pytest.param(server(), ["/server_id", "/server_name"], id="both"),
        pytest.param(server(server_id="company-ledger", server_name="other"), ["/server_id"], id="id is a name"),
        pytest.param(server(server_id="other", server_name="ledger"), ["/server_name"], id="name is an id"),
    ],
)
def test_names_and_ids_are_taken_once(second: Json, pointers: list[str]) -> None:
    registry = parse_servers(document(server(args=["first"]), second, remote()))
    assert [p.pointer for p in registry.problems] == ["/servers/1" + pointer for pointer in pointers]
    assert all("is taken by /servers/0" in p.detail for p in registry.problems)
    assert [entry.args for entry in registry.entries.values()] == [("first",), ()]
    assert registry.find("other") is None


def test_unknown_keys_are_kept_and_warned_about() -> None:
    entry = server(timeout=5, tools=[{**tool(), "inputSchema": {}}], resources=[{"uri": "a:b", "name": "a", "x": 1}])
    registry = parse_servers(document(entry))
    assert [w.pointer for w in registry.warnings] == [
        "/servers/0/timeout",
        "/servers/0/tools/0/inputSchema",
        "/servers/0/resources/0/x",
    ]
    assert {w.server_id for w in registry.warnings} == {"ledger"}
    assert "Did you mean 'input_schema'?" in registry.warnings[1].detail
    assert registry.entries["ledger"].model_extra == {"timeout": 5}


def test_a_document_without_servers_is_refused() -> None:
    with pytest.raises(RegistryInvalid, match=r"/servers is missing"):
        parse_servers(b'{"mcp_servers": []}')


def test_the_samples_are_without_fault() -> None:
    servers = parse_servers((ROOT / "mcp_server_registry.json").read_bytes())
    agents = check_tools(parse_agents((ROOT / "agent_registry.json").read_bytes()), servers)
    assert (servers.problems, servers.warnings, agents.problems, agents.warnings) == ((), (), (), ())
    assert servers.find("company-ledger") is not None
    assert {"ceo", "cfo", "cto", "cmo", "coo"} <= set(agents.entries)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=10,
)
keywords = st.sampled_from(
    [
        "type",
        "properties",
        "$ref",
        "$id",
        "$schema",
        "$defs",
        "allOf",
        "pattern",
        "enum",
        "minimum",
        "required",
        "format",
    ]
)
schemas = st.dictionaries(keywords, anything | st.dictionaries(keywords, anything, max_size=3), max_size=4).map(
    lambda schema: {"type": "object", **schema}
)
near_servers = st.fixed_dictionaries(
    {"server_id": st.just("ledger") | anything, "server_name": st.just("company-ledger") | anything},
    optional={
        "server_type": st.sampled_from(["stdio", "sse", "streamable_http", "websocket"]) | anything,
        "command": st.just("python") | anything,
        "args": anything,
        "env": anything,
        "url": st.just("https://x.example/") | st.text() | anything,
        "headers": anything,
        "tools": st.lists(st.fixed_dictionaries({"name": st.just("a") | anything, "input_schema": schemas}), max_size=2)
        | anything,
        "resources": anything,
        "enabled": anything,
        "timeout_seconds": anything,
        "max_retries": anything,
    },
)


@given(st.lists(near_servers | anything, max_size=3))
def test_good_entries_survive_whatever_stands_beside_them(others: list[Json]) -> None:
    good = server(server_id="good", server_name="good"), remote(server_id="also-good", server_name="also-good")
    registry = parse_servers(document(good[0], *others, good[1]))
    assert {"good", "also-good"} <= set(registry.entries)
    reported = {p.pointer.split("/")[2] for p in registry.problems}
    assert len(registry.entries) + len(reported) == len(others) + 2


@given(schemas)
def test_no_schema_breaks_the_parser(schema: Json) -> None:
    registry = parse_servers(document(server(tools=[{"name": "a", "input_schema": schema}])))
    assert ("ledger" in registry.entries) != bool(registry.problems)
