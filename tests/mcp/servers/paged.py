"""A server on the SDK's low level: it lists its tools on two pages, and one has a schema that is no JSON Schema."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

SIMPLE: dict[str, Any] = {"type": "object"}
PROMISED: dict[str, Any] = {"type": "object", "required": ["total"]}
PAGES = {
    None: ListToolsResult(
        tools=[
            Tool(name="first", input_schema=SIMPLE, annotations=ToolAnnotations(idempotent_hint=True)),
            Tool(name="broken_schema", input_schema={"type": "object", "properties": {"n": {"type": "count"}}}),
        ],
        next_cursor="2",
    ),
    "2": ListToolsResult(
        tools=[
            Tool(name="second", input_schema=SIMPLE),
            Tool(name="liar", input_schema=SIMPLE, output_schema=PROMISED),
            Tool(
                name="reading_liar",
                input_schema=SIMPLE,
                output_schema=PROMISED,
                annotations=ToolAnnotations(read_only_hint=True),
            ),
            Tool(name="remote_schema", input_schema={"type": "object", "$ref": "http://127.0.0.1:9/schema.json"}),
        ]
    ),
}


async def list_tools(_: object, params: PaginatedRequestParams | None) -> ListToolsResult:
    return PAGES[params.cursor if params else None]


async def call_tool(_: object, params: CallToolRequestParams) -> CallToolResult:
    if params.name == "second":
        raise ValueError("the second tool never works")
    if "liar" in params.name:
        return CallToolResult(content=[], structured_content={"sum": 1})
    return CallToolResult(content=[TextContent(text=params.name)])


async def main() -> None:
    server: Server[Any] = Server("paged", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
