"""MCP tools as the functions that a model may call.

The model sees each tool of the agent's registry entry as a function with the tool's true input schema; a call comes
back as a function name and arguments, which are looked up and checked here before anything leaves the process.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from aos.errors import AgentNotReady, AosError
from aos.kernel.events import PlannedCall
from aos.kernel.ports import FunctionDefinition
from aos.kernel.types import FunctionCall
from aos.mcp.parameters import parameters
from aos.mcp.tools import ToolInfo
from aos.registry.schemas import schema_fault

if TYPE_CHECKING:
    import jsonschema_rs

MOST_FUNCTIONS = 128
"""Functions of one agent; the service refuses more (`tool_limit_exceeded`)."""
LONGEST_NAME = 64
LONGEST_DESCRIPTION = 1024
"""Characters of a function's description that Azure OpenAI takes."""
LONGEST_ARGUMENTS = 1024 * 1024
DEEPEST_ARGUMENTS = 64
"""Levels of objects and lists in the arguments of a call: what is much deeper cannot be written or read on the way."""
KEPT_SCHEMAS = 1024
"""Input schemas that stay prepared: agents share tools."""
MOST_PROBLEMS = 5
LONGEST_PROBLEM = 500


class TooManyTools(AosError):
    code = "too_many_tools"
    title = "The agent has more tools than the service takes."


class ToolNamesCollide(AosError):
    """Two tools would be one function: neither may stand in for the other."""

    code = "tool_names_collide"
    title = "Two tools of the agent have the same name for the model."


@dataclass(frozen=True, slots=True)
class ToolSource:
    """A tool that an agent may use.

    Attributes:
        server: Id of its MCP server.
        time_limit: Seconds after which a call's result is given up.
        approval: Whether a person has to approve each call.
        defaults: Arguments that a call has unless the model gives them.
        fixed: Arguments that every call has.
        locked: Arguments, among them the fixed ones, that the model neither sees nor may give.
        agent: Id of the connected agent that is asked instead of a server.
        function: Its name for the model, if that is not made from server and tool.
    """

    server: str
    info: ToolInfo
    time_limit: float
    approval: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    locked: frozenset[str] = frozenset()
    agent: str = ""
    function: str | None = None


@dataclass(frozen=True, slots=True)
class _Function:
    source: ToolSource
    validator: jsonschema_rs.Validator


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A tool's input schema, ready for use. `shown` is what the model sees where no arguments are set for it."""

    schema: Mapping[str, Any]
    validator: jsonschema_rs.Validator
    shown: Mapping[str, Any]


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
        if taken := sorted(arguments.keys() & source.locked):
            return _refuse(call, f"not yours to give: {', '.join(taken)}; leave it out", source)
        if source.defaults or source.fixed:
            arguments = {**source.defaults, **arguments, **source.fixed}
            call = replace(call, arguments=json.dumps(arguments, ensure_ascii=False))
        problems = [
            f"/{'/'.join(map(str, error.instance_path))}: {error.message}"[:LONGEST_PROBLEM]
            for error in islice(function.validator.iter_errors(arguments), MOST_PROBLEMS)
        ]
        if problems:
            return _refuse(call, "the arguments do not fit the tool's schema: " + "; ".join(problems), source)
        return PlannedCall(
            call,
            "" if source.agent else source.server,
            source.info.name,
            source.time_limit,
            approval=source.approval,
            agent=source.agent,
        )


def convert_mcp_tools_to_function_tools(tools: Iterable[ToolSource]) -> FunctionTools:
    """Makes the functions of an agent from its MCP tools.

    A function is named `{server}_{tool}` in the characters that the service takes (`[A-Za-z0-9_-]`, at most 64); a name
    that had to be changed, or is taken, ends in a piece of its hash. The order of `tools` does not matter. Its
    parameters are the tool's input schema as `aos.mcp.parameters` shows it, without the arguments that are set for the
    model; a call is compared with the input schema itself once those are in it.

    Raises:
        TooManyTools: There are more than 128.
        ToolNamesCollide: Two tools have the same name even with a hash.
        AgentNotReady: A server lists a tool whose input schema cannot be used (code `invalid_tool_schema`), or the
            entry's configuration sets arguments that the tool does not take (`invalid_tool_configuration`).
    """
    sources = sorted(tools, key=lambda source: (source.server, source.info.name))
    if len(sources) > MOST_FUNCTIONS:
        raise TooManyTools(f"The agent has {len(sources)} tools; the service takes {MOST_FUNCTIONS}. Remove some.")
    definitions: list[FunctionDefinition] = []
    functions: dict[str, _Function] = {}
    for source in sources:
        name = source.function or function_name(source.server, source.info.name)
        if name in functions:
            name = _hashed(name, source.server, source.info.name)
        if name in functions:
            raise ToolNamesCollide(
                f"{_said(source)} and {_said(functions[name].source)} are both {name!r} for the model: rename one."
            )
        functions[name], definition = _function(name, source)
        definitions.append(definition)
    return FunctionTools(tuple(definitions), functions)


def function_name(server: str, tool: str) -> str:
    """The name of a tool for the model; see `convert_mcp_tools_to_function_tools`."""
    plain = f"{server}_{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", plain)
    return name if name == plain and len(name) <= LONGEST_NAME else _hashed(name, server, tool)


def _hashed(name: str, server: str, tool: str) -> str:
    piece = hashlib.sha256(f"{server}\0{tool}".encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}_{piece}"


def _function(name: str, source: ToolSource) -> tuple[_Function, FunctionDefinition]:
    try:
        prepared = _prepared(json.dumps(source.info.input_schema))
        shown = prepared.shown
        if source.defaults or source.locked:
            if (wrong := _misconfigured(source, prepared)) is not None:
                raise AgentNotReady(f"The configuration of {_said(source)}: {wrong}", code="invalid_tool_configuration")
            shown = parameters(prepared.schema, source.defaults, source.locked)
    except RecursionError:
        raise _unusable(source, "it is nested too deep") from None
    except ValueError as error:
        raise _unusable(source, str(error)) from None
    description = source.info.description
    if len(description) > LONGEST_DESCRIPTION:
        # The service refuses longer ones; the whole of it stands where it takes more.
        shown = {**shown, "description": "\n".join(filter(None, (description, shown.get("description"))))}
        description = f"{description[: LONGEST_DESCRIPTION - 3]}..."
    return _Function(source, prepared.validator), FunctionDefinition(name, description, shown)


@lru_cache(maxsize=KEPT_SCHEMAS)
def _prepared(text: str) -> _Prepared:
    """Of an input schema in JSON, what all agents with the tool share.

    Raises:
        ValueError: It cannot be used.
    """
    import jsonschema_rs

    schema: dict[str, Any] = {"type": "object", "properties": {}, **json.loads(text)}
    if (fault := schema_fault(schema)) is not None:
        raise ValueError(f"/{'/'.join(map(str, fault[0]))}: {fault[1]}")
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    return _Prepared(schema, validator, parameters(schema, {}, frozenset()))


def _misconfigured(source: ToolSource, prepared: _Prepared) -> str | None:
    """What is wrong with the arguments that the entry sets, if anything."""
    schema = prepared.schema
    takes_any = schema.get("additionalProperties", True) is not False or "patternProperties" in schema
    names = {*source.defaults, *source.locked}
    known = schema["properties"].keys()
    if not takes_any and (strange := sorted(names - known)):
        return f"the tool has no argument {strange[0]!r}; it has: {', '.join(sorted(known)) or 'none'}."
    values = {**source.defaults, **source.fixed}
    missing = sorted((source.locked - values.keys()) & set(schema.get("required", ())))
    if missing:
        return f"{missing[0]!r} is hidden, but required: give it a value in `defaults` or `fixed`."
    for error in prepared.validator.iter_errors(values):
        if error.instance_path and error.instance_path[0] in names:
            return f"/{'/'.join(map(str, error.instance_path))}: {error.message}"[:LONGEST_PROBLEM]
    return None


def _unusable(source: ToolSource, why: str) -> AgentNotReady:
    return AgentNotReady(
        f"MCP server {source.server!r} lists tool {source.info.name!r} with an input schema of no use: {why}",
        code="invalid_tool_schema",
    )


def _said(source: ToolSource) -> str:
    if source.agent:
        return f"connected agent {source.agent!r}"
    return f"tool {source.info.name!r} of MCP server {source.server!r}"


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
    server = "" if source.agent else source.server
    return PlannedCall(call, server, source.info.name, source.time_limit, refusal, agent=source.agent)
