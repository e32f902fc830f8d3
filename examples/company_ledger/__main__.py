"""`python -m examples.company_ledger`: the server on stdio, or on `http://127.0.0.1:PORT/mcp` with `--http PORT`."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from typing import TYPE_CHECKING

from examples.company_ledger.database import Ledger, LedgerUnusable, default_path
from examples.company_ledger.server import SERVER_NAME, build_server

if TYPE_CHECKING:
    from mcp.server import MCPServer


async def serve_http(server: MCPServer, port: int) -> None:
    """Serves streamable HTTP on the loopback address and says where on standard output; port 0 is a free one."""
    import uvicorn

    with socket.create_server(("127.0.0.1", port)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        config = uvicorn.Config(server.streamable_http_app(), log_level="warning")
        await uvicorn.Server(config).serve(sockets=[listener])


async def registry_entry(server: MCPServer) -> dict[str, object]:
    """The server's entry for `mcp_server_registry.json`, as its own lists have it."""
    tools, resources = await server.list_tools(), await server.list_resources()
    return {
        "server_id": SERVER_NAME,
        "server_name": SERVER_NAME,
        "server_type": "stdio",
        "command": "python",
        "args": ["-m", "examples.company_ledger"],
        "env": {},
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema} for tool in tools
        ],
        "resources": [
            {"uri": str(found.uri), "name": found.name, "description": found.description, "mime_type": found.mime_type}
            for found in resources
        ],
        "enabled": True,
        "auto_start": True,
        "timeout_seconds": 30,
        "max_retries": 3,
        "metadata": {"title": server.title, "version": server.version},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.company_ledger", description="A company's ledger over MCP."
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--http", metavar="PORT", type=int, help="serve streamable HTTP on 127.0.0.1:PORT (0: a free port)"
    )
    how.add_argument("--registry-entry", action="store_true", help="print the entry for mcp_server_registry.json")
    options = parser.parse_args(arguments)
    try:
        server = build_server(Ledger(default_path()))
        if options.registry_entry:
            print(json.dumps(asyncio.run(registry_entry(server)), indent=2))
        elif options.http is not None:
            asyncio.run(serve_http(server, options.http))
        else:
            server.run()
    except (LedgerUnusable, OSError) as error:
        print(f"company-ledger: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
