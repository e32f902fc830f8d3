"""Lines in a message that tell the offline model exactly what to do, for tests.

``@tool NAME {json arguments}`` calls that tool, as often as such lines occur; ``@say TEXT`` answers exactly TEXT;
``@fail content_filter | context_length_exceeded | rate_limit_exceeded | server_error`` ends the response or run in that
way. Calls come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^\s*@(tool|say|fail)\s+(\S.*?)\s*$", re.MULTILINE)
FAILURES = ("content_filter", "context_length_exceeded", "rate_limit_exceeded", "server_error")


@dataclass(frozen=True, slots=True)
class Directives:
    """``calls`` are pairs of a tool's name and the JSON text of its arguments."""

    calls: tuple[tuple[str, str], ...] = ()
    say: str | None = None
    fail: str | None = None

    def __bool__(self) -> bool:
        return bool(self.calls) or self.say is not None or self.fail is not None


def parse_directives(message: str) -> Directives:
    """The directives of a message; arguments are passed on as written, valid JSON or not."""
    calls: list[tuple[str, str]] = []
    said: list[str] = []
    fail: str | None = None
    for kind, rest in _LINE.findall(message):
        if kind == "tool":
            name, _, arguments = rest.partition(" ")
            calls.append((name, arguments.strip() or "{}"))
        elif kind == "say":
            said.append(rest)
        elif rest in FAILURES:
            fail = rest
    return Directives(tuple(calls), "\n".join(said) if said else None, fail)
