"""What a server lists, made visible and compared with what was declared and approved."""

from __future__ import annotations

from typing import Any

import pytest

from aos.mcp.drift import LONGEST, MOST, Drift, bounded, compared, tidied
from aos.mcp.invisible import revealed, visible
from aos.mcp.tools import ServerTools, ToolInfo
from tests.mcp.conftest import server_entry

OBJECT: dict[str, Any] = {"type": "object"}


def tool(name: str = "find", **changes: Any) -> ToolInfo:
    return ToolInfo.model_validate({"name": name, "input_schema": OBJECT, **changes})


def listing(*tools: ToolInfo) -> ServerTools:
    return ServerTools(server_id="workshop", tools=tools, listed_at=1.0)


def kinds(*tools: ToolInfo, declared: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    entry = server_entry(tools=[{"name": name, "description": "Does.", "input_schema": OBJECT} for name in declared])
    return [(found.kind, found.tool) for found in compared(entry, listing(*tools))]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain text,\n\twith lines", "plain text,\n\twith lines"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("\u2066isolated\u2069", "isolated"),
        ("tag" + "".join(chr(0xE0000 + ord(c)) for c in "obey"), "tag"),
        ("vs\U000e0100\U000e01ef", "vs"),
        ("bell\x07 nul\x00", "bell nul"),
        ("filler\u3164\u2800", "filler"),
        ("größe 日本語 ☎️", "größe 日本語 ☎️"),
    ],
)
def test_what_nobody_sees_is_removed(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_what_nobody_sees_is_shown_to_who_judges_it() -> None:
    assert revealed("a\u200bö\n\x1b[31m\U000e0041") == "a\\u200bö\n\\x1b[31m\\U000e0041"


def test_names_descriptions_and_the_prose_of_schemas_are_made_visible() -> None:
    schema = {
        "type": "object",
        "description": "a\u200b",
        "properties": {"description": {"type": "string", "title": "\u202eb", "enum": ["kept\u200b"]}},
    }
    tidy, found = tidied(listing(tool("fi\u200bnd", description="Fi\u2060nds.", input_schema=schema), tool("clean")))
    made = tidy.tools[0]
    assert (made.name, made.wire_name, made.description) == ("find", "fi\u200bnd", "Finds.")
    assert made.input_schema == {
        "type": "object",
        "description": "a",
        "properties": {"description": {"type": "string", "title": "b", "enum": ["kept\u200b"]}},
    }
    assert tidy.tools[1] == tool("clean")
    assert [(each.kind, each.tool) for each in found] == [("invisible", "find")]


def test_a_tool_cannot_take_the_place_of_another_one_of_its_server() -> None:
    real = tool("find", description="the real one")
    tidy, found = tidied(listing(real, tool("find", description="again"), tool("fi\u200bnd", description="hidden")))
    assert tidy.tools == (real,)
    assert [each.kind for each in found] == ["duplicate", "invisible", "duplicate"]


def test_a_schema_that_cannot_be_used_is_said() -> None:
    _, (found,) = tidied(listing(tool(input_schema={"type": "object", "properties": {"n": {"type": "count"}}})))
    assert (found.kind, found.tool) == ("unusable", "find")
    assert found.detail.startswith("/properties/n/type")


def test_what_is_as_declared_is_no_drift() -> None:
    assert kinds(tool(description="Does."), declared=("find",)) == []
    assert kinds(tool(), tool("save")) == [], "an entry that declares nothing is not compared"


def test_differences_from_the_declaration() -> None:
    other = {"type": "object", "properties": {"a": {}}}
    assert kinds(tool("b", input_schema=other, description="Does."), tool("c"), declared=("a", "b")) == [
        ("missing", "a"),
        ("schema", "b"),
        ("undeclared", "c"),
    ]
    assert kinds(tool("a", description="Does it."), declared=("a",)) == [("description", "a")]


def test_a_changed_definition_names_the_command() -> None:
    (found,) = compared(server_entry(), listing(tool(changed=True), tool("save")))
    assert (found.kind, found.tool) == ("changed", "find")
    assert "python -m aos tools diff workshop find" in found.detail


def test_findings_are_bounded() -> None:
    many = [Drift(kind="missing", tool="x" * 999, detail="y" * 999) for _ in range(MOST + 5)]
    made = bounded(many)
    assert (len(made), len(made[0].detail)) == (MOST, LONGEST)
    assert made[-1].detail == "There are 6 more findings."
    assert bounded(many[:MOST])[-1].detail == "y" * LONGEST
