"""Tool definitions as the service checks them, and the functions among them as a model sees them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from emulators.foundry.azure_functions import AzureFunction, azure_functions
from emulators.foundry.connected_agents import ConnectedAgent, connected_agents
from emulators.foundry.errors import ApiError
from emulators.foundry.model import FunctionSpec, JsonObject

MAX_TOOLS = 128


class FunctionDefinition(BaseModel):
    """A tool of type ``function``."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class _Named(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1)


_NAMED = TypeAdapter(_Named)
_NESTED = TypeAdapter(JsonObject)


def _flat(function: JsonObject) -> JsonObject:
    return {**function, "type": "function"}


def check_tools(tools: list[JsonObject], param: str, *, nested: bool = False) -> None:
    """Refuse what the service refuses: too many tools, bad function names or schemas, a name given twice.

    ``nested``: the threads protocol wraps a function, as ``{"type": "function", "function": {...}}``.

    Raises:
        ApiError: 400; ``param`` points to the tool.
    """
    if len(tools) > MAX_TOOLS:
        message = f"An agent may have {MAX_TOOLS} tools at most; {len(tools)} were given."
        raise ApiError(400, "tool_limit_exceeded", message, param=param)
    names: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"{param}[{index}]"
        try:
            kind = _NAMED.validate_python(tool).type
            if kind == "azure_function":
                where = f"{where}.azure_function"
                tool = _flat(AzureFunction.model_validate(tool.get("azure_function")).function.model_dump())
            elif kind == "connected_agent":
                if not nested:
                    raise ApiError(400, "invalid_payload", f"{where}.type: unknown tool type.", param=f"{where}.type")
                where = f"{where}.connected_agent"
                agent = ConnectedAgent.model_validate(tool.get("connected_agent")).as_function()
                tool = _flat({"name": agent.name, "description": agent.description})
            elif kind != "function":
                continue
            elif nested:
                where = f"{where}.function"
                tool = _flat(_NESTED.validate_python(tool.get("function")))
            function = FunctionDefinition.model_validate(tool)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join((where, *(str(part) for part in first["loc"])))
            raise ApiError(400, "invalid_payload", f"{field}: {first['msg']}.", param=field) from error
        if function.name in names:
            raise ApiError(400, "invalid_payload", f"{where}.name: '{function.name}' occurs twice.", param=where)
        names.add(function.name)
        parameters = function.parameters or {}
        if parameters.get("type", "object") != "object":
            raise _bad_schema(function.name, where, "schema must be of type object")
        if function.strict:
            _check_strict(function.name, parameters, where)


def _check_strict(name: str, schema: JsonObject, where: str) -> None:
    # strict mode: every object closed, every property required (OpenAI, structured outputs, supported schemas)
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        known = properties if isinstance(properties, dict) else {}
        if schema.get("additionalProperties") is not False:
            raise _bad_schema(name, where, "'additionalProperties' is required to be supplied and to be false")
        required = schema.get("required")
        if not isinstance(required, list) or set(known) - {str(key) for key in required}:
            raise _bad_schema(name, where, "'required' must list every key in properties")
    for value in schema.values():
        nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for child in (value, *nested):
            if isinstance(child, dict) and ("properties" in child or child.get("type") == "object"):
                _check_strict(name, child, where)


def _bad_schema(name: str, where: str, why: str) -> ApiError:
    message = f"Invalid schema for function '{name}': {why}."
    return ApiError(400, "invalid_function_parameters", message, param=f"{where}.parameters")


def functions(tools: JsonValue) -> tuple[FunctionSpec, ...]:
    """The functions among checked tool definitions, and what the service calls itself: Azure Functions and agents."""
    found: list[FunctionSpec] = []
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type") == "function":
            wrapped = tool.get("function")
            function = FunctionDefinition.model_validate(_flat(wrapped) if isinstance(wrapped, dict) else tool)
            found.append(FunctionSpec(function.name, function.description or "", function.parameters or {}))
    for name, served in azure_functions(tools).items():
        found.append(FunctionSpec(name, served.function.description or "", served.function.parameters or {}))
    found += (agent.as_function() for agent in connected_agents(tools).values())
    return tuple(found)
