"""A server whose tools work, but cannot be listed; the call of one leaves a file behind.

The second argument says how listing them ends: `refuses`, `dies`, `hangs`, or `raves`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent

MADE = Path(sys.argv[1])
ENDS = sys.argv[2]


async def list_tools(_: object, params: PaginatedRequestParams | None) -> ListToolsResult:
    match ENDS:
        case "dies":
            os._exit(1)
        case "hangs":
            await asyncio.sleep(600)
        case "raves":
            return ListToolsResult(tools=[], next_cursor="on and on")
    raise ValueError("the list is lost")


async def call_tool(_: object, params: CallToolRequestParams) -> CallToolResult:
    await asyncio.to_thread(MADE.touch)
    return CallToolResult(content=[TextContent(text="done")])


async def main() -> None:
    server: Server[Any] = Server("unlistable", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
