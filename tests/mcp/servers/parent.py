"""Not a server: a process that holds a connection to one, prints the server's process id, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from aos.kernel.clock import SystemClock
from aos.mcp.connections import McpConnection
from aos.mcp.secrets import EnvironmentSecrets
from aos.registry.mcp_servers import ServerEntry


async def main() -> None:
    script = str(Path(__file__).parent / "workshop.py")
    entry = ServerEntry.model_validate(
        {"server_id": "workshop", "server_name": "Workshop", "command": "python", "args": (script,)}
    )
    connection = McpConnection(entry, EnvironmentSecrets(), SystemClock())
    result = await connection.call_tool("pid", {}, 10)
    print(result["structuredContent"]["result"], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
