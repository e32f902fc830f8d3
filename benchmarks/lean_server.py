"""An MCP server on the standard library alone (protocol 2025-06-18), which is up in some 20 ms and needs 10 MB.

It is what a server of another make looks like: no SDK of ours on its side, answers in order, unknown methods refused.
"""

from __future__ import annotations

import json
import os
import sys

READS = {"readOnlyHint": True}
TOOLS = [
    {
        "name": "echo",
        "description": "Gives the text back.",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "annotations": READS,
    },
    {"name": "pid", "description": "The process id.", "inputSchema": {"type": "object"}, "annotations": READS},
]


def answer(method: str, params: dict[str, object]) -> dict[str, object] | None:
    match method:
        case "initialize":
            return {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "lean", "version": "1.0"},
            }
        case "ping":
            return {}
        case "tools/list":
            return {"tools": TOOLS}
        case "tools/call":
            arguments = params.get("arguments")
            text = str(arguments["text"]) if isinstance(arguments, dict) and "text" in arguments else str(os.getpid())
            return {"content": [{"type": "text", "text": text}], "isError": False}
    return None


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue
        result = answer(request["method"], request.get("params") or {})
        outcome: dict[str, object] = {"result": result}
        if result is None:
            outcome = {"error": {"code": -32601, "message": f"no method {request['method']}"}}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **outcome}), flush=True)


if __name__ == "__main__":
    main()
