"""`python -m examples.business_calendar --port PORT`: the server over streamable HTTP, at `http://HOST:PORT/mcp`.

In Azure it runs as a container app or a web app of its own, with `--host 0.0.0.0 --port 8000` as its command, ingress
limited to the virtual network, and its public name in `--allow-host`. It keeps no state: any number of instances may
run side by side. AOS finds it by the app setting `BUSINESS_CALENDAR_URL`, which its entry in
`mcp_server_registry.json` names; inside a virtual network AOS needs `AOS_MCP_PRIVATE_NETWORKS=true`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from typing import TYPE_CHECKING

from examples.business_calendar.server import SERVER_NAME, build_server

if TYPE_CHECKING:
    from mcp.server import MCPServer

LOCAL_HOSTS = ["127.0.0.1:*", "localhost:*", "[::1]:*"]


async def serve(server: MCPServer, host: str, port: int, allowed: list[str]) -> None:
    """Serves and says where on standard output; port 0 is a free one.

    Args:
        allowed: Host headers that are answered besides the local ones, against DNS rebinding.
    """
    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True, allowed_hosts=[*LOCAL_HOSTS, *allowed], allowed_origins=[]
    )
    app = server.streamable_http_app(stateless_http=True, json_response=True, transport_security=security)
    with socket.create_server((host, port)) as listener:
        print(f"http://{host}:{listener.getsockname()[1]}/mcp", flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


async def registry_entry(server: MCPServer) -> dict[str, object]:
    """The server's entry for `mcp_server_registry.json`, as its own list has it."""
    return {
        "server_id": SERVER_NAME,
        "server_name": SERVER_NAME,
        "server_type": "streamable_http",
        "url": "${BUSINESS_CALENDAR_URL}",
        "headers": {},
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in await server.list_tools()
        ],
        "resources": [],
        "enabled": True,
        "auto_start": True,
        "timeout_seconds": 15,
        "max_retries": 3,
        "metadata": {"title": server.title, "version": server.version},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.business_calendar", description="A business calendar over MCP."
    )
    parser.add_argument("--port", type=int, default=8770, help="port to serve on (0: a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="Host header to answer besides local ones"
    )
    parser.add_argument("--registry-entry", action="store_true", help="print the entry for mcp_server_registry.json")
    options = parser.parse_args(arguments)
    server = build_server()
    try:
        if options.registry_entry:
            print(json.dumps(asyncio.run(registry_entry(server)), indent=2))
        else:
            asyncio.run(serve(server, options.host, options.port, options.allow_host))
    except OSError as error:
        print(f"{SERVER_NAME}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
