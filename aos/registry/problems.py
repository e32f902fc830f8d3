"""How faults in a registry document are reported: a JSON pointer (RFC 6901) and a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegistryProblem:
    """An error or a warning about a place in a registry document.

    Attributes:
        pointer: JSON pointer into the document; empty for the document itself.
        detail: What is wrong and what to do about it; never the value of a secret.
        agent_id: The agent that it concerns, where its id is known and well-formed.
        server_id: The MCP server that it concerns, likewise.
    """

    pointer: str
    detail: str
    agent_id: str | None = None
    server_id: str | None = None

    def __str__(self) -> str:
        return f"{self.pointer or 'the document'}: {self.detail}"


def json_pointer(*parts: str | int) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def suggest(name: str, known: Collection[str]) -> str:
    """` Did you mean ...?` when something known is close to `name`, else nothing."""
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def kind(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
