"""An MCP server with one tool of each temper, for the tests of the MCP side."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

READS = ToolAnnotations(read_only_hint=True)
server = MCPServer("workshop", version="1.0", log_level="WARNING")


def note(file: str, line: str) -> None:
    with Path(file).open("a") as stream:
        stream.write(line + "\n")


@server.tool(annotations=READS)
def add(a: Annotated[int, Field(ge=0)], b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def append(file: str, line: str) -> str:
    """Appends a line to a file."""
    note(file, line)
    return "written"


@server.tool()
async def append_slowly(file: str, line: str, seconds: float) -> str:
    """Appends a line to a file and then takes its time."""
    note(file, line)
    await asyncio.sleep(seconds)
    return "written"


@server.tool()
async def append_until(file: str, line: str) -> str:
    """Appends a line to a file and then waits until the file `<file>.done` is there."""
    note(file, line)
    while not await asyncio.to_thread(Path(f"{file}.done").exists):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    return "written"


@server.tool(annotations=READS)
async def slow(seconds: float) -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return "done"


@server.tool()
def crash() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool(annotations=READS)
def crash_once(file: str) -> str:
    """Ends the server the first time it is called."""
    if not Path(file).exists():
        note(file, "crashed")
        os._exit(3)
    return "survived"


@server.tool()
def fail(reason: str) -> str:
    """Fails and says why."""
    raise ToolError(reason)


@server.tool(annotations=READS)
def huge(size: int) -> str:
    """A text of this many characters."""
    return "x" * size


@server.tool(annotations=READS)
def environment() -> list[str]:
    """The names of the environment variables that the server sees."""
    return sorted(os.environ)


@server.tool(annotations=READS)
def variable(name: str) -> str:
    """An environment variable; it is also said on standard error."""
    print("the value is", os.environ[name], file=sys.stderr, flush=True)
    return os.environ[name]


@server.tool(annotations=READS)
def pid() -> int:
    """The server's process id."""
    return os.getpid()


@server.tool()
def start_child() -> int:
    """Starts a process that stays; its process id."""
    return subprocess.Popen(["sleep", "600"]).pid


@server.resource("workshop://motto", name="motto", mime_type="text/plain")
def motto() -> str:
    return "measure twice"


def main(arguments: list[str]) -> None:
    if "--garbage" in arguments:
        print("this line is not JSON-RPC", flush=True)
    if "--babble" in arguments:
        # Before the SDK takes standard output for itself.
        os.write(1, b"not JSON-RPC\n" * 1000)
    if "--slow-start" in arguments:
        time.sleep(1.0)
    if arguments and arguments[0] in ("streamable_http", "sse"):
        import uvicorn

        port = int(arguments[1])
        app = server.streamable_http_app() if arguments[0] == "streamable_http" else server.sse_app()
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
    else:
        server.run()


if __name__ == "__main__":
    main(sys.argv[1:])
