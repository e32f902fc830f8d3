"""Functions of an agent's entry as the functions that its model may call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aos.errors import SettingError
from aos.functions.route import FunctionRoute
from aos.mcp.functions import ToolSource
from aos.mcp.tools import ToolInfo
from aos.registry.azure_functions import OUTPUT_URI, AzureFunction


def function_source(function: AzureFunction, queue_uri: Callable[[str], str] | None) -> ToolSource:
    """The tool of a function. A parameter `outputqueueuri` is set to the address of its output queue.

    Raises:
        SettingError: There is no storage account whose queues it could be called over.
    """
    if queue_uri is None:
        raise SettingError(
            "Missing STORAGE_SERVICE_ENDPOINT: Azure Functions are called over the queues of a storage account, as in "
            "https://<account>.queue.core.windows.net."
        )
    address = queue_uri(function.queue_out)
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
