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
from typing import TYPE_CHECKING, Any

from aos.errors import AosError
from aos.kernel.ports import FunctionDefinition
from aos.kernel.turn import PlannedCall
from aos.kernel.types import FunctionCall
from aos.mcp.tools import ToolInfo

if TYPE_CHECKING:
    import jsonschema_rs

MOST_FUNCTIONS = 128
"""Functions of one agent; the service refuses more (`tool_limit_exceeded`)."""
LONGEST_NAME = 64
LONGEST_ARGUMENTS = 1024 * 1024


class TooManyTools(AosError):
    code = "too_many_tools"
    title = "The agent has more tools than the service takes."


@dataclass(frozen=True, slots=True)
class ToolSource:
    """A tool that an agent may use.

    Attributes:
        server: Id of its MCP server.
        time_limit: Seconds after which a call's result is given up.
    """

    server: str
    info: ToolInfo
    time_limit: float


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
            return _refuse(call, f"there is no tool {call.name!r}; the tools are: {', '.join(self._functions)}")
        source = function.source
        if len(call.arguments) > LONGEST_ARGUMENTS:
            return _refuse(call, f"the arguments are longer than {LONGEST_ARGUMENTS} characters", source)
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError as error:
            return _refuse(call, f"the arguments are not JSON: {error}", source)
        if not isinstance(arguments, dict):
            return _refuse(call, "the arguments are not a JSON object", source)
        problems = [
            f"/{'/'.join(map(str, error.instance_path))}: {error.message}"
            for error in function.validator.iter_errors(arguments)
        ]
        if problems:
            return _refuse(call, "the arguments do not fit the tool's schema: " + "; ".join(problems[:5]), source)
        return PlannedCall(call, source.server, source.info.name, source.time_limit)


def convert_mcp_tools_to_function_tools(tools: Iterable[ToolSource]) -> FunctionTools:
    """Makes the functions of an agent from its MCP tools.

    A function is named `{server}_{tool}` in the characters that the service takes (`[A-Za-z0-9_-]`, at most 64); a name
    that had to be changed, or is taken, ends in a piece of its hash. The order of `tools` does not matter.

    Raises:
        TooManyTools: There are more than 128.
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


def _refuse(call: FunctionCall, why: str, source: ToolSource | None = None) -> PlannedCall:
    refusal = json.dumps({"error": f"invalid_call: {why}"})
    if source is None:
        return PlannedCall(call, refusal=refusal)
    return PlannedCall(call, source.server, source.info.name, source.time_limit, refusal)
