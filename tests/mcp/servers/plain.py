"""An MCP server of the protocols with a handshake, on the standard library, that answers tools in odd ways."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

OBJECT = {"type": "object"}
TOOLS = ("echo", "held", "silent", "cancelled", "text_id", "wrong", "refused", "long", "die", "meta")
held: list[object] = []
cancelled: list[dict[str, Any]] = []


def send(**message: object) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def tell(request_id: object, text: str) -> None:
    send(id=request_id, result={"content": [{"type": "text", "text": text}], "isError": False})


def call(request_id: Any, name: str, params: dict[str, Any]) -> None:
    match name:
        case "echo":
            tell(request_id, params["arguments"]["text"])
            while held:
                tell(held.pop(), "held")
        case "held":
            held.append(request_id)
        case "silent":
            return
        case "cancelled":
            tell(request_id, json.dumps(cancelled))
        case "text_id":
            tell(str(request_id), "as text")
        case "wrong":
            send(id=request_id, result={"content": 5})
        case "structured":
            send(id=request_id, result={"content": [], "structuredContent": {"count": "many"}})
        case "refused":
            send(id=request_id, error={"code": -32602, "message": "not like this"})
        case "long":
            tell(request_id, "x" * 300_000)
        case "die":
            os._exit(3)
        case "meta":
            tell(request_id, json.dumps(params.get("_meta")))


def listed() -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}}
    tools = [{"name": name, "inputSchema": OBJECT} for name in TOOLS]
    return [*tools, {"name": "structured", "inputSchema": OBJECT, "outputSchema": schema}]


for line in sys.stdin:
    message = json.loads(line)
    match message["method"]:
        case "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
            send(id=message["id"], result={**result, "serverInfo": {"name": "plain", "version": "1"}})
        case "notifications/cancelled":
            cancelled.append(message["params"])
        case "tools/list":
            send(id=message["id"], result={"tools": listed()})
        case "tools/call":
            call(message["id"], message["params"]["name"], message["params"])
        case "ping":
            send(id=message["id"], result={})
        case _ if "id" in message:
            send(id=message["id"], error={"code": -32601, "message": "no such method"})
