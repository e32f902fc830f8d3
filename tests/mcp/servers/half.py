"""An MCP server over stdio whose responses have the id last; it answers with half a character, or with too much."""

from __future__ import annotations

import json
import sys

TEXTS = {"half": "cut \ud83d", "much": "x" * 300_000, "whole": "cut"}

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer: dict[str, object] = {}
    if message["method"] == "initialize":
        answer["result"] = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "half", "version": "1"},
        }
    elif message["method"] == "tools/list":
        answer["result"] = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TEXTS]}
    elif message["method"] == "tools/call":
        answer["result"] = {"content": [{"type": "text", "text": TEXTS[message["params"]["name"]]}]}
    else:
        answer["error"] = {"code": -32601, "message": "Method not found"}
    print(json.dumps({**answer, "jsonrpc": "2.0", "id": message["id"]}), flush=True)
