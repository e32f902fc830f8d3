from __future__ import annotations

import json

import pytest

from aos.errors import SettingError
from aos.functions.route import FunctionRoute, route_of
from aos.functions.sources import function_source
from aos.kernel.types import FunctionCall
from aos.mcp.functions import ToolSource, convert_mcp_tools_to_function_tools
from aos.mcp.tools import ToolInfo
from aos.registry.azure_functions import AzureFunction

FOO = AzureFunction(
    name="foo",
    description="Get answers from the foo bot.",
    parameters={
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "The question to ask."},
            "outputqueueuri": {"type": "string", "description": "The full output queue URI."},
        },
        "required": ["query", "outputqueueuri"],
    },
)


def uri(queue: str) -> str:
    return f"https://books.queue.core.windows.net/{queue}"


def test_the_model_sees_the_function_under_its_own_name_and_without_the_queue() -> None:
    tools = convert_mcp_tools_to_function_tools([function_source(FOO, uri)])
    (definition,) = tools.definitions
    assert (definition.name, definition.description) == ("foo", "Get answers from the foo bot.")
    assert list(definition.parameters["properties"]) == ["query"]
    assert definition.parameters["required"] == ["query"]


def test_a_call_is_given_the_queue_s_address_and_carries_its_route() -> None:
    tools = convert_mcp_tools_to_function_tools([function_source(FOO, uri)])
    planned = tools.plan(FunctionCall("call_1", "foo", '{"query": "why"}'))
    assert planned.refusal is None
    assert json.loads(planned.call.arguments) == {"query": "why", "outputqueueuri": uri("azure-function-foo-output")}
    assert route_of(planned.server) == FunctionRoute("azure-function-foo-input", "azure-function-foo-output")
    assert (planned.tool, planned.time_limit, planned.approval) == ("foo", 300, False)


def test_the_model_may_not_send_the_reply_elsewhere() -> None:
    tools = convert_mcp_tools_to_function_tools([function_source(FOO, uri)])
    planned = tools.plan(FunctionCall("call_1", "foo", '{"query": "why", "outputqueueuri": "https://evil.test/q"}'))
    assert planned.refusal is not None
    assert "not yours to give: outputqueueuri" in planned.refusal


def test_a_function_and_a_tool_of_the_same_name_stay_apart() -> None:
    tool = ToolSource("fo", ToolInfo(name="o", input_schema={"type": "object"}), 1.0)
    function = function_source(FOO.model_copy(update={"name": "fo_o"}), uri)
    names = convert_mcp_tools_to_function_tools([tool, function]).names
    assert len(set(names)) == 2
    assert "fo_o" in names


def test_without_a_queue_service_the_missing_setting_is_named() -> None:
    with pytest.raises(SettingError, match="Missing STORAGE_SERVICE_ENDPOINT"):
        function_source(FOO, None)


def test_servers_of_mcp_have_no_queues() -> None:
    assert route_of("workshop") is None
