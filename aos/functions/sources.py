"""Functions of an agent's entry as the functions that its model may call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aos.errors import SettingError
from aos.functions.route import FunctionRoute
from aos.kernel.ports import ServiceFunction
from aos.mcp.functions import ToolSource, convert_mcp_tools_to_function_tools
from aos.mcp.tools import ToolInfo
from aos.registry.azure_functions import OUTPUT_URI, AzureFunction


def function_source(function: AzureFunction, queue_uri: Callable[[str], str] | None) -> ToolSource:
    """The tool of a function. A parameter `outputqueueuri` is set to the address of its output queue.

    Raises:
        SettingError: There is no storage account whose queues it could be called over.
    """
    address = _address(function.queue_out, queue_uri)
    properties = function.parameters.get("properties")
    fixed: Mapping[str, Any] = (
        {OUTPUT_URI: address} if isinstance(properties, dict) and OUTPUT_URI in properties else {}
    )
    return ToolSource(
        server=str(FunctionRoute(function.queue_in, function.queue_out)),
        info=ToolInfo(name=function.name, description=function.description, input_schema=dict(function.parameters)),
        time_limit=function.timeout_seconds,
        approval=function.approval == "always",
        fixed=fixed,
        locked=frozenset(fixed),
        function=function.name,
    )


def service_function(function: AzureFunction, queue_uri: Callable[[str], str] | None) -> ServiceFunction:
    """The same for the service, which calls the function itself.

    Nobody can set a parameter `outputqueueuri` for the model then: it is shown the one value that it may have.

    Raises:
        SettingError: As `function_source`.
    """
    address = _address(function.queue_out, queue_uri)
    schema = dict(function.parameters)
    properties = schema.get("properties")
    if isinstance(properties, dict) and OUTPUT_URI in properties:
        schema["properties"] = {**properties, OUTPUT_URI: {"type": "string", "enum": [address]}}
    info = ToolInfo(name=function.name, description=function.description, input_schema=schema)
    source = ToolSource(function.queue_in, info, function.timeout_seconds, function=function.name)
    (definition,) = convert_mcp_tools_to_function_tools([source]).definitions
    return ServiceFunction(definition, function.queue_in, function.queue_out, address.rpartition("/")[0])


def _address(queue: str, queue_uri: Callable[[str], str] | None) -> str:
    if queue_uri is None:
        raise SettingError(
            "Missing STORAGE_SERVICE_ENDPOINT: Azure Functions are called over the queues of a storage account, as in "
            "https://<account>.queue.core.windows.net."
        )
    return queue_uri(queue)
