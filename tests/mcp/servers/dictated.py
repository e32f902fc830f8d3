"""An MCP server over stdio that answers each call as its arguments say, in the protocol version that it is given."""

from __future__ import annotations

import json
import sys
from typing import Any

VERSION = sys.argv[1]
MODERN = VERSION >= "2026"
MORE = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if MODERN else {}
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOLS = [
    {"name": "plain", "inputSchema": {"type": "object"}},
    {"name": "count", "inputSchema": {"type": "object"}, "outputSchema": COUNT},
]


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    match method:
        case "server/discover" if MODERN:
            return {"result": {"supportedVersions": [VERSION], "capabilities": {"tools": {}}, **MORE}}
        case "initialize":
            me = {"serverInfo": {"name": "dictated", "version": "1"}, "capabilities": {"tools": {}}}
            return {"result": {"protocolVersion": VERSION, **me}}
        case "tools/list":
            return {"result": {"tools": TOOLS, **MORE}}
        case "tools/call":
            dictated: dict[str, Any] = params["arguments"]
            return dictated
    return {"error": {"code": -32601, "message": "Method not found"}}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        said = answer(message["method"], message.get("params") or {})
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}), flush=True)
