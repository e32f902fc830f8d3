from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aos.registry.agents import AgentEntry, parse_agents
from aos.registry.document import MAX_DOCUMENT, MAX_ENTRIES, decode
from aos.registry.entries import ID_PATTERN, MAX_DEPTH, MAX_REPORTS, MAX_TEXT
from aos.registry.errors import RegistryInvalid

Json = Any  # what stands in a document is arbitrary on purpose


def agent(**changes: Json) -> dict[str, Json]:
    entry: dict[str, Json] = {"agent_id": "ceo", "purpose": "Lead", "domain_knowledge": {"domain": "ceo"}}
    return {**entry, **changes}


def tool(server: str = "ledger", name: str = "get_kpis", **more: Json) -> dict[str, Json]:
    return {"server_name": server, "tool_name": name, **more}


def document(*entries: Json, **top: Json) -> bytes:
    return json.dumps({"version": "1.0", "agents": entries, **top}).encode()


def nested(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = [value]
    return value


def test_the_smallest_entry_gets_the_defaults() -> None:
    registry = parse_agents(document(agent()))
    assert (registry.problems, registry.warnings, registry.version) == ((), (), "1.0")
    entry = registry.entries["ceo"]
    assert (entry.agent_type, entry.enabled, entry.mcp_tools, entry.success_criteria) == (
        "purpose_driven",
        True,
        (),
        (),
    )
    assert (entry.purpose_scope, entry.system_message, entry.metadata) == (None, None, {})
    adapter = entry.domain_knowledge.adapter_config
    assert adapter.model_dump() == {
        "task_type": "causal_lm",
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ("q_proj", "v_proj"),
    }


def test_every_key_arrives() -> None:
    full = agent(
        agent_type="leadership",
        purpose_scope="All of it",
        success_criteria=["Grows"],
        mcp_tools=[tool(configuration={"approval": "always"}), tool(name="post", configuration=None)],
        system_message="You lead.",
        enabled=False,
        metadata={"a": {"b": [1, None]}},
        domain_knowledge={
            "domain": "Board.v2",
            "training_data_path": "training-data/ceo.jsonl",
            "adapter_config": {"r": 8, "target_modules": ["k_proj"], "lora_dropout": 0.1},
        },
    )
    registry = parse_agents(document(full))
    assert (registry.problems, registry.warnings) == ((), ())
    entry = registry.entries["ceo"]
    assert not entry.enabled
    assert registry.enabled == ()
    assert [(t.tool_name, t.configuration) for t in entry.mcp_tools] == [
        ("get_kpis", {"approval": "always"}),
        ("post", {}),
    ]
    assert entry.domain_knowledge.domain == "Board.v2"
    assert entry.domain_knowledge.adapter_config.r == 8
    assert entry.domain_knowledge.adapter_config.model_extra == {"lora_dropout": 0.1}
    assert entry.metadata == {"a": {"b": [1, None]}}


BAD: list[tuple[str, Json, str, str]] = [
    ("not an object", 5, "", "must be an object; it is a number"),
    ("a list", [], "", "must be an object; it is a list"),
    ("no id", {k: v for k, v in agent().items() if k != "agent_id"}, "/agent_id", "required"),
    ("capital id", agent(agent_id="CEO"), "/agent_id", f"{ID_PATTERN}; it is 'CEO'"),
    ("empty id", agent(agent_id=""), "/agent_id", "pattern"),
    ("long id", agent(agent_id="a" * 49), "/agent_id", "pattern"),
    ("id with a newline", agent(agent_id="ceo\n"), "/agent_id", "pattern"),
    ("id begins with a dash", agent(agent_id="-ceo"), "/agent_id", "pattern"),
    ("id of another type", agent(agent_id=7), "/agent_id", "valid string; it is a number"),
    ("no purpose", agent(purpose=None), "/purpose", "it is null"),
    ("blank purpose", agent(purpose=" \n"), "/purpose", "must not be empty"),
    ("long purpose", agent(purpose="é" * (MAX_TEXT // 2 + 1)), "/purpose", f"at most {MAX_TEXT}"),
    ("long message", agent(system_message="x" * (MAX_TEXT + 1)), "/system_message", f"at most {MAX_TEXT}"),
    ("no domain knowledge", agent(domain_knowledge=None), "/domain_knowledge", "must be an object; it is null"),
    ("no domain", agent(domain_knowledge={}), "/domain_knowledge/domain", "required"),
    ("domain with a slash", agent(domain_knowledge={"domain": "a/b"}), "/domain_knowledge/domain", "'a/b'"),
    (
        "rank is text",
        agent(domain_knowledge={"domain": "a", "adapter_config": {"r": "16"}}),
        "/domain_knowledge/adapter_config/r",
        "valid integer; it is a string",
    ),
    (
        "rank is true",
        agent(domain_knowledge={"domain": "a", "adapter_config": {"r": True}}),
        "/domain_knowledge/adapter_config/r",
        "it is a boolean",
    ),
    (
        "no modules",
        agent(domain_knowledge={"domain": "a", "adapter_config": {"target_modules": []}}),
        "/domain_knowledge/adapter_config/target_modules",
        "at least 1",
    ),
    ("unknown type", agent(agent_type="boss"), "/agent_type", "'perpetual' or 'leadership'; it is 'boss'"),
    ("enabled is text", agent(enabled="false"), "/enabled", "valid boolean; it is a string"),
    ("enabled is a number", agent(enabled=0), "/enabled", "valid boolean; it is a number"),
    ("criteria are text", agent(success_criteria="grow"), "/success_criteria", "must be a list; it is a string"),
    ("a criterion is a number", agent(success_criteria=["a", 1]), "/success_criteria/1", "valid string"),
    ("a tool is text", agent(mcp_tools=["get_kpis"]), "/mcp_tools/0", "must be an object; it is a string"),
    ("a tool without a name", agent(mcp_tools=[tool(), {"server_name": "a"}]), "/mcp_tools/1/tool_name", "required"),
    ("a tool with an empty name", agent(mcp_tools=[tool(name="")]), "/mcp_tools/0/tool_name", "pattern"),
    ("a server name with blanks", agent(mcp_tools=[tool(" a")]), "/mcp_tools/0/server_name", "pattern"),
    ("too many tools", agent(mcp_tools=[tool(name=f"t{i}") for i in range(129)]), "/mcp_tools", "at most 128"),
    ("configuration is text", agent(mcp_tools=[tool(configuration="x")]), "/mcp_tools/0/configuration", "an object"),
    ("metadata is a list", agent(metadata=[]), "/metadata", "must be an object; it is a list"),
    ("nested too deeply", agent(metadata={"a": nested(MAX_DEPTH)}), "/metadata/a" + "/0" * (MAX_DEPTH - 2), "nested"),
    ("half a surrogate pair", agent(metadata={"a/b": "\ud800"}), "/metadata/a~1b", "surrogate"),
    ("half a surrogate pair in a key", agent(metadata={"\ud800": 1}), "/metadata", "surrogate"),
]


@pytest.mark.parametrize(("entry", "pointer", "detail"), [pytest.param(*b[1:], id=b[0]) for b in BAD])
def test_a_bad_entry_is_a_problem_and_its_neighbours_stay(entry: Json, pointer: str, detail: str) -> None:
    registry = parse_agents(document(agent(agent_id="first"), entry, agent(agent_id="last")))
    assert list(registry.entries) == ["first", "last"]
    assert registry.pointers == {"first": "/agents/0", "last": "/agents/2"}
    (problem,) = registry.problems
    assert problem.pointer == "/agents/1" + pointer
    assert detail in problem.detail
    assert problem.detail.endswith(".")
    good_id = isinstance(entry, dict) and entry.get("agent_id") == "ceo"
    assert problem.agent_id == ("ceo" if good_id else None)


def test_bounds_are_inclusive() -> None:
    at_the_bound = agent(
        agent_id="a" * 48,
        purpose="é" * (MAX_TEXT // 2),
        mcp_tools=[tool(name=f"t{i}") for i in range(128)],
        metadata={"a": nested(MAX_DEPTH - 2)},
    )
    assert parse_agents(document(at_the_bound)).problems == ()


def test_all_faults_of_an_entry_are_reported_at_once_up_to_a_bound() -> None:
    entry = agent(enabled="yes", agent_type="x", success_criteria=[1] * 100)
    problems = parse_agents(document(entry)).problems
    assert len(problems) == MAX_REPORTS + 1
    assert problems[-1].pointer == "/agents/0"
    assert problems[-1].detail == f"There are {102 - MAX_REPORTS} more."


def test_numbers_beyond_a_double_are_refused() -> None:
    registry = parse_agents(
        b'{"agents": [' + json.dumps(agent(metadata={"n": 7})).encode().replace(b"7", b"1e999") + b"]}"
    )
    assert [p.pointer for p in registry.problems] == ["/agents/0/metadata/n"]


def test_of_several_entries_with_one_id_the_first_good_one_stays() -> None:
    registry = parse_agents(document(agent(purpose=5), agent(purpose="second"), agent(purpose="third"), agent()))
    assert registry.entries["ceo"].purpose == "second"
    assert [p.pointer for p in registry.problems] == ["/agents/0/purpose", "/agents/2/agent_id", "/agents/3/agent_id"]
    assert "'ceo' is taken by /agents/1" in registry.problems[1].detail
    assert {p.agent_id for p in registry.problems} == {"ceo"}


def test_unknown_keys_are_kept_and_warned_about() -> None:
    entry = agent(
        purposes="x",
        fingerprint="mine",
        domain_knowledge={"domain": "ceo", "trainin_data_path": "y"},
        mcp_tools=[tool(), tool(name="b", config={"approval": "always"})],
    )
    registry = parse_agents(document(entry, note="hello", agnets=[]))
    assert registry.problems == ()
    assert {w.pointer for w in registry.warnings} == {
        "/note",
        "/agnets",
        "/agents/0/purposes",
        "/agents/0/fingerprint",
        "/agents/0/domain_knowledge/trainin_data_path",
        "/agents/0/mcp_tools/1/config",
    }
    details = {w.pointer: w.detail for w in registry.warnings}
    assert "Did you mean 'purpose'?" in details["/agents/0/purposes"]
    assert "Did you mean 'agents'?" in details["/agnets"]
    kept = registry.entries["ceo"]
    assert kept.model_extra == {"purposes": "x", "fingerprint": "mine"}
    assert len(kept.fingerprint) == 64
    assert kept.mcp_tools[1].model_extra == {"config": {"approval": "always"}}


def test_a_tool_named_twice_counts_once() -> None:
    registry = parse_agents(
        document(agent(mcp_tools=[tool(), tool(name="b"), tool(configuration={"approval": "always"})]))
    )
    assert [w.pointer for w in registry.warnings] == ["/agents/0/mcp_tools/2"]
    assert registry.warnings[0].agent_id == "ceo"
    distinct = registry.entries["ceo"].distinct_tools
    assert [(t.tool_name, t.configuration) for t in distinct] == [("get_kpis", {}), ("b", {})]


def test_a_key_that_stands_twice_is_warned_about_where_it_stands() -> None:
    text = '{"agents": [{"agent_id": "a", "purpose": "x", "purpose": "y", "domain_knowledge": {"domain": "d"}}]}'
    registry = parse_agents(text.encode())
    assert registry.entries["a"].purpose == "y"
    assert [w.pointer for w in registry.warnings] == ["/agents/0/purpose"]


def test_many_keys_of_which_one_stands_twice_are_soon_read() -> None:
    keys = "".join(f', "k{number}": 1' for number in range(100_000))
    text = f'{{"agents": [{{"agent_id": "a", "agent_id": "b"{keys}}}]}}'
    started = time.process_time()
    raw = decode(text.encode(), "agents")
    # Comparing each key with all others takes minutes.
    assert time.process_time() - started < 10
    assert [warning.pointer for warning in raw.warnings] == ["/agents/0/agent_id"]


@pytest.mark.parametrize(
    ("version", "read", "warned"),
    [("1.0", "1.0", False), ("1.7", "1.7", False), ("2.0", "2.0", True), (1, "1.0", True), (None, "1.0", True)],
)
def test_versions(version: Json, read: str, warned: bool) -> None:
    registry = parse_agents(document(agent(), version=version))
    assert registry.version == read
    assert [w.pointer for w in registry.warnings] == (["/version"] if warned else [])
    assert "ceo" in registry.entries


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        pytest.param(b"", "line 1, column 1", id="empty"),
        pytest.param(b'{\n  "agents": [\n  // none\n]}', "line 3, column 3", id="comment"),
        pytest.param(b'{"agents": [\xff]}', "not UTF-8: invalid start byte at byte 12", id="not UTF-8"),
        pytest.param('{"agents": []}'.encode("utf-16"), "not UTF-8", id="UTF-16"),
        pytest.param(b"[]", "it is a list", id="list"),
        pytest.param(b"null", "it is null", id="null"),
        pytest.param(b"{}", "/agents is missing", id="no list"),
        pytest.param(b'{"agent": []}', "Did you mean 'agent'?", id="misspelt"),
        pytest.param(b'{"agents": {}}', "/agents must be a list of entries; it is an object", id="agents is an object"),
        pytest.param(b'{"agents": null}', "it is null", id="agents is null"),
        pytest.param(b'{"agents": [NaN]}', "NaN", id="NaN"),
        pytest.param(b'{"agents": ' + b"[" * 100_000, "nested too deeply", id="bomb"),
        pytest.param(b'{"agents": [' + b"9" * 5000 + b"]}", "digits", id="huge integer"),
        pytest.param(b" " * (MAX_DOCUMENT + 1), f"at most {MAX_DOCUMENT}", id="too large"),
        pytest.param(b'{"agents": [' + b"0," * MAX_ENTRIES + b"0]}", f"at most {MAX_ENTRIES}", id="too many"),
    ],
)
def test_a_document_that_is_wrong_as_a_whole(data: bytes, detail: str) -> None:
    with pytest.raises(RegistryInvalid) as caught:
        parse_agents(data)
    assert caught.value.code == "registry_invalid"
    assert detail in caught.value.detail


def test_a_byte_order_mark_is_no_reason_to_refuse() -> None:
    assert "ceo" in parse_agents(b"\xef\xbb\xbf" + document(agent())).entries


def test_no_agents_is_a_registry_too() -> None:
    assert parse_agents(b'{"agents": []}').entries == {}


def test_entries_do_not_change() -> None:
    entry = parse_agents(document(agent())).entries["ceo"]
    with pytest.raises(ValidationError, match="frozen"):
        entry.purpose = "other"  # type: ignore[misc]  # the point of the test


def test_fingerprint_is_the_meaning_not_the_spelling() -> None:
    spelt_out = {
        "metadata": {},
        "enabled": True,
        "mcp_tools": [],
        "system_message": None,
        "domain_knowledge": {"training_data_path": "", "adapter_config": {"r": 16}, "domain": "ceo"},
        "purpose": "Lead",
        "agent_id": "ceo",
    }
    reference = AgentEntry.model_validate(agent()).fingerprint
    assert AgentEntry.model_validate(spelt_out).fingerprint == reference
    changed = [
        agent(purpose="Follow"),
        agent(enabled=False),
        agent(unknown=1),
        agent(mcp_tools=[tool()]),
        agent(domain_knowledge={"domain": "ceo", "adapter_config": {"lora_dropout": 0.1}}),
    ]
    assert len({reference, *(AgentEntry.model_validate(entry).fingerprint for entry in changed)}) == 6


def test_fingerprint_covers_what_stands_in_the_entry_and_no_defaults() -> None:
    canonical = b'{"agent_id":"ceo","domain_knowledge":{"domain":"ceo"},"purpose":"Lead"}'
    assert AgentEntry.model_validate(agent()).fingerprint == hashlib.sha256(canonical).hexdigest()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
near_agents = st.fixed_dictionaries(
    {},
    optional={
        "agent_id": st.sampled_from(["ceo", "first", "last", "X", ""]) | anything,
        "purpose": st.just("p") | anything,
        "domain_knowledge": st.fixed_dictionaries({"domain": st.just("d") | anything, "adapter_config": anything})
        | anything,
        "agent_type": anything,
        "success_criteria": anything,
        "mcp_tools": st.lists(
            st.fixed_dictionaries({"server_name": st.just("s") | anything, "tool_name": st.just("t") | anything})
            | anything,
            max_size=3,
        )
        | anything,
        "system_message": anything,
        "enabled": anything,
        "metadata": anything,
    },
)


@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_document_only_registry_invalid_is_raised(data: bytes) -> None:
    try:
        parse_agents(data)
    except RegistryInvalid:
        return
    assert isinstance(json.loads(data.decode("utf-8-sig"))["agents"], list)


@given(st.lists(near_agents | anything, max_size=4), st.integers(0, 4))
def test_good_entries_survive_whatever_stands_beside_them(others: list[Json], place: int) -> None:
    entries = [agent(agent_id="good"), *others[:place], agent(agent_id="also-good"), *others[place:]]
    registry = parse_agents(_dump({"agents": entries}))
    assert {"good", "also-good"} <= set(registry.entries)
    assert all(p.pointer.startswith("/agents/") for p in registry.problems)
    reported = {p.pointer.split("/")[2] for p in registry.problems}
    assert len(registry.entries) + len(reported) == len(entries)
    for entry in registry.entries.values():
        assert entry.fingerprint


def _dump(value: Json) -> bytes:
    """Numbers that are not finite become 1e999, which JSON allows and Python reads as infinity."""
    return json.dumps(value).replace("-Infinity", "1e999").replace("Infinity", "1e999").replace("NaN", "1e999").encode()


def test_a_thousand_entries_parse_fast() -> None:
    tools = [tool(name=f"tool_{i}") for i in range(5)]
    entries = [agent(agent_id=f"a{i}", mcp_tools=tools, success_criteria=["x"] * 4) for i in range(1000)]
    data = document(*entries)
    # Some 30 times what reading its JSON takes, however fast the machine is.
    assert _timed(lambda: parse_agents(data)) < 120 * _timed(lambda: json.loads(data))
    assert len(parse_agents(data).entries) == 1000


def _timed(work: Callable[[], object]) -> float:
    """The least time that some work takes of the processor: neighbours and the garbage of others are none of it."""
    took = []
    for _ in range(5):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return min(took)
