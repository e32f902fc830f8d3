"""A server whose tool describes itself with what stands in a file when the server starts."""

from __future__ import annotations

import sys
from pathlib import Path

from mcp.server import MCPServer

server = MCPServer("shifty", version="1.0", log_level="WARNING")


def find(word: str) -> str:
    return f"found {word}"


@server.tool()
def steady() -> str:
    """Stays as it is."""
    return "steady"


if __name__ == "__main__":
    server.add_tool(find, description=Path(sys.argv[1]).read_text())
    server.run()
