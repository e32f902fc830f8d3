"""MCP tools as the functions that a model may call.

The model sees each tool of the agent's registry entry as a function with the tool's true input schema; a call comes
back as a function name and arguments, which are looked up and checked here before anything leaves the process.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from aos.errors import AgentNotReady, AosError
from aos.kernel.events import PlannedCall
from aos.kernel.ports import FunctionDefinition
from aos.kernel.types import FunctionCall
from aos.mcp.tools import ToolInfo
from aos.registry.schemas import schema_fault

if TYPE_CHECKING:
    import jsonschema_rs

MOST_FUNCTIONS = 128
"""Functions of one agent; the service refuses more (`tool_limit_exceeded`)."""
LONGEST_NAME = 64
LONGEST_ARGUMENTS = 1024 * 1024
DEEPEST_ARGUMENTS = 64
"""Levels of objects and lists in the arguments of a call: what is much deeper cannot be written or read on the way."""
MOST_PROBLEMS = 5
LONGEST_PROBLEM = 500


class TooManyTools(AosError):
    code = "too_many_tools"
    title = "The agent has more tools than the service takes."


@dataclass(frozen=True, slots=True)
class ToolSource:
    """A tool that an agent may use.

    Attributes:
        server: Id of its MCP server.
        time_limit: Seconds after which a call's result is given up.
        approval: Whether a person has to approve each call.
    """

    server: str
    info: ToolInfo
    time_limit: float
    approval: bool = False


@dataclass(frozen=True, slots=True)
class _Function:
    source: ToolSource
    validator: jsonschema_rs.Validator


class FunctionTools:
    """The functions of one agent."""

    def __init__(self, definitions: tuple[FunctionDefinition, ...], functions: Mapping[str, _Function]) -> None:
        self.definitions = definitions
        self._functions = functions

    @property
    def names(self) -> list[str]:
        """The functions' names, as the model sees them."""
        return list(self._functions)

    def plan(self, call: FunctionCall) -> PlannedCall:
        """Looks a call up and checks its arguments; what must not be made carries the refusal that the model reads."""
        function = self._functions.get(call.name)
        if function is None:
            return _refuse(call, f"there is no tool {call.name[:200]!r}; the tools are: {', '.join(self._functions)}")
        source = function.source
        if len(call.arguments) > LONGEST_ARGUMENTS:
            return _refuse(call, f"the arguments are longer than {LONGEST_ARGUMENTS} characters", source)
        try:
            arguments = _read(call.arguments)
        except ValueError as error:
            return _refuse(call, f"the arguments are not JSON: {error}", source)
        if not isinstance(arguments, dict):
            return _refuse(call, "the arguments are not a JSON object", source)
        problems = [
            f"/{'/'.join(map(str, error.instance_path))}: {error.message}"[:LONGEST_PROBLEM]
            for error in islice(function.validator.iter_errors(arguments), MOST_PROBLEMS)
        ]
        if problems:
            return _refuse(call, "the arguments do not fit the tool's schema: " + "; ".join(problems), source)
        return PlannedCall(call, source.server, source.info.name, source.time_limit, approval=source.approval)


def convert_mcp_tools_to_function_tools(tools: Iterable[ToolSource]) -> FunctionTools:
    """Makes the functions of an agent from its MCP tools.

    A function is named `{server}_{tool}` in the characters that the service takes (`[A-Za-z0-9_-]`, at most 64); a name
    that had to be changed, or is taken, ends in a piece of its hash. The order of `tools` does not matter.

    Raises:
        TooManyTools: There are more than 128.
        AgentNotReady: A server lists a tool whose input schema cannot be used.
    """
    import jsonschema_rs

    sources = sorted(tools, key=lambda source: (source.server, source.info.name))
    if len(sources) > MOST_FUNCTIONS:
        raise TooManyTools(f"The agent has {len(sources)} tools; the service takes {MOST_FUNCTIONS}. Remove some.")
    definitions: list[FunctionDefinition] = []
    functions: dict[str, _Function] = {}
    for source in sources:
        name = function_name(source.server, source.info.name)
        if name in functions:
            name = _hashed(name, source.server, source.info.name)
        schema = _parameters(source.info.input_schema)
        if (fault := schema_fault(schema)) is not None:
            raise AgentNotReady(
                f"MCP server {source.server!r} lists tool {source.info.name!r} with an input schema of no use: "
                f"/{'/'.join(map(str, fault[0]))}: {fault[1]}",
                code="invalid_tool_schema",
            )
        functions[name] = _Function(source, jsonschema_rs.validator_for(schema, validate_formats=True))
        definitions.append(FunctionDefinition(name, source.info.description, schema))
    return FunctionTools(tuple(definitions), functions)


def function_name(server: str, tool: str) -> str:
    """The name of a tool for the model; see `convert_mcp_tools_to_function_tools`."""
    plain = f"{server}_{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", plain)
    return name if name == plain and len(name) <= LONGEST_NAME else _hashed(name, server, tool)


def _hashed(name: str, server: str, tool: str) -> str:
    piece = hashlib.sha256(f"{server}\0{tool}".encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}_{piece}"


def _parameters(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {}, **schema}


def _read(text: str) -> object:
    """The JSON value of a call's arguments, if it can be written and read again on the way to the tool.

    Raises:
        ValueError: It is not JSON, or holds half a character, a number that is none, or too many levels.
    """
    try:
        value: object = json.loads(text or "{}")
        # Python reads more than JSON may hold (NaN, 1e999, half a character): what cannot be written is not sent.
        _STRICT.encode(value).encode()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") <= DEEPEST_ARGUMENTS:
        return value
    level: list[object] = [value]
    for _ in range(DEEPEST_ARGUMENTS):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    if any(isinstance(inner, dict | list) for inner in level):
        raise ValueError(_TOO_DEEP)
    return value


_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_TOO_DEEP = f"more than {DEEPEST_ARGUMENTS} levels of objects and lists"


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse(call: FunctionCall, why: str, source: ToolSource | None = None) -> PlannedCall:
    refusal = json.dumps({"error": f"invalid_call: {why}"})
    if source is None:
        return PlannedCall(call, refusal=refusal)
    return PlannedCall(call, source.server, source.info.name, source.time_limit, refusal)
