"""Characters that a person who reads a tool's definition does not see, and a model does."""

from __future__ import annotations

import unicodedata
from typing import Any

from aos.mcp.tools import ToolInfo

_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols without ink: the Hangul fillers, the empty Braille pattern."""
_TEXT = frozenset({"description", "title"})
"""Keywords of JSON Schema whose value is prose."""


def visible(text: str) -> str:
    """The text without control, format (zero-width, bidirectional, tags) and unassigned characters.

    Line feeds and tabs stay. So do variation selectors 1 to 16, which choose how an emoji looks; the 240 others, which
    can carry hidden text, do not.
    """
    return text if text.isascii() and text.isprintable() else "".join(filter(_shown, text))


def revealed(text: str) -> str:
    """The text with what `visible` would remove as escapes, for somebody who has to judge it."""
    return "".join(c if _shown(c) else c.encode("unicode-escape").decode() for c in text)


def cleaned(tool: ToolInfo) -> ToolInfo:
    """The tool with its name and prose made visible; `wire_name` keeps a name that had to be changed."""
    name, description = visible(tool.name), visible(tool.description)
    schema = _cleaned(tool.input_schema, prose=False)
    if (name, description, schema) == (tool.name, tool.description, tool.input_schema):
        return tool
    wire_name = tool.name if name != tool.name else None
    return tool.model_copy(
        update={"name": name, "description": description, "input_schema": schema, "wire_name": wire_name}
    )


def _shown(character: str) -> bool:
    if character in "\n\t":
        return True
    if character in _BLANK or "\U000e0100" <= character <= "\U000e01ef":
        return False
    return unicodedata.category(character) not in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


def _cleaned(value: Any, *, prose: bool) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(child, prose=key in _TEXT) for key, child in value.items()}
    if isinstance(value, list):
        return [_cleaned(child, prose=False) for child in value]
    return visible(value) if prose and isinstance(value, str) else value
