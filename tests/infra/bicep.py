"""Bicep files as trees (pycep), and what a compiler would see in them: symbols, resources, module calls.

There is no Bicep compiler to be had without the .NET tools, so types and API shapes stay unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pycep import BicepParser

INFRA = Path(__file__).parents[2] / "infra"
MAIN = INFRA / "main.bicep"
FILES = sorted(INFRA.rglob("*.bicep"))

Tree = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """A resource of a file. `body` is the object between its braces; `loop`: what it is repeated for."""

    symbol: str
    type: str
    api_version: str
    existing: bool
    body: Tree
    loop: object = None


@dataclass(frozen=True)
class Module:
    """A call of a module: its file and what it is given."""

    symbol: str
    file: Path
    given: Tree


@dataclass(frozen=True)
class Bicep:
    """One file, parsed."""

    path: Path
    text: str
    tree: Tree

    @property
    def parameters(self) -> Tree:
        found: Tree = self.tree.get("parameters", {})
        return found

    @property
    def required(self) -> set[str]:
        """Parameters without a default."""
        return {name for name, declared in self.parameters.items() if declared["default"] is None}

    @property
    def variables(self) -> Tree:
        return {name: declared["value"] for name, declared in self.tree.get("variables", {}).items()}

    @property
    def outputs(self) -> Tree:
        return {name: declared["value"] for name, declared in self.tree.get("outputs", {}).items()}

    @property
    def resources(self) -> list[Resource]:
        found = []
        for symbol, declared in self.tree.get("resources", {}).items():
            body, loop = _unwrapped(declared["config"])
            found.append(Resource(symbol, declared["type"], declared["api_version"], declared["existing"], body, loop))
        return found

    @property
    def modules(self) -> list[Module]:
        return [
            Module(symbol, self.path.parent / declared["detail"]["path"], _unwrapped(declared["config"])[0]["params"])
            for symbol, declared in self.tree.get("modules", {}).items()
        ]

    def resource(self, kind: str) -> Resource:
        """The only resource of a type."""
        (found,) = [resource for resource in self.resources if resource.type == kind]
        return found


@cache
def parse(path: Path) -> Bicep:
    """A file as a tree; raises what the parser raises."""
    text = path.read_text(encoding="utf-8")
    tree: Tree = {**BicepParser().parse(text=text)}
    return Bicep(path, text, tree)


def _unwrapped(config: Tree) -> tuple[Tree, object]:
    """The object inside a loop or a condition."""
    loop = config.get("loop_type")
    while isinstance(config.get("config"), dict) and ("loop_type" in config or "condition" in config):
        config = config["config"]
    return config, loop


# --- symbols, which the tree does not tell from strings

_TOKEN = re.compile(
    r"(?P<space>\s+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<text>'''.*?'''|'(?:\\.|\$\{(?:[^{}']|'[^']*')*\}|[^'\\])*')"
    r"|(?P<word>@?[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<mark>=>|.)",
    re.S,
)
_HOLE = re.compile(r"(?<!\\)\$\{((?:[^{}']|'[^']*')*)\}")
_KEYWORDS = {
    *("param", "var", "output", "resource", "module", "existing", "targetScope", "for", "in", "if"),
    *("true", "false", "null", "string", "int", "bool", "object", "array"),
}


def words(text: str) -> Iterator[tuple[str, str, str]]:
    """Every identifier outside of strings and comments, also in `${...}`, with the marks before and after it."""
    tokens = [match for match in _TOKEN.finditer(text) if match.lastgroup != "space"]
    for number, match in enumerate(tokens):
        if match.lastgroup == "text" and not match[0].startswith("'''"):
            for hole in _HOLE.findall(match[0]):
                yield from words(hole)
        elif match.lastgroup == "word":
            before = tokens[number - 1][0] if number else ""
            after = tokens[number + 1][0] if number + 1 < len(tokens) else ""
            yield match[0], before, after


def is_key(before: str, after: str) -> bool:
    """Whether a word is the key of an object: not so in `in names:` and `a ? b : c`."""
    return after == ":" and before not in ("in", "?")


def called(file: Bicep) -> set[str]:
    """Functions and decorators that a file calls."""
    return {word for word, before, after in words(file.text) if after == "(" and before != "."} - _KEYWORDS


def unknown_symbols(file: Bicep) -> set[str]:
    """Names that are used but not declared in the file."""
    tree = file.tree
    declared = {name for kind in ("parameters", "variables", "resources", "modules") for name in tree.get(kind, {})}
    declared |= set(re.findall(r"(\w+)\s*=>", file.text))  # lambdas
    for loop in re.findall(r"\[for\s+\(?([\w\s,]+?)\)?\s+in\b", file.text):
        declared |= {name.strip() for name in loop.split(",")}
    return (
        {
            word
            for word, before, after in words(file.text)
            if before not in (".", "output")
            and after not in ("(", "=>")
            and not is_key(before, after)
            and word[0] != "@"
        }
        - declared
        - _KEYWORDS
    )
