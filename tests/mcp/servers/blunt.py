"""An MCP server over stdio that answers as a server may, if not as most do; keeps what it reads in a file.

With `--modern` it speaks the protocol of 2026-07-28, in which a server may ask back before it answers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

NAMES = (
    *("plain", "as_text", "twice", "stray", "in_pieces", "with_news", "no_answer", "asks_back"),
    *("refused", "full", "never", "late", "patient", "asks_somebody"),
)
MODERN = "--modern" in sys.argv
READ = Path(sys.argv[1])
held: list[Any] = []


def say(**message: object) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def result(text: str) -> dict[str, Any]:
    content: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
    return {**content, "resultType": "complete"} if MODERN else content


def done(request_id: object, text: str) -> None:
    say(id=request_id, result=result(text))


def call(request_id: int, params: dict[str, Any]) -> None:
    name = params["name"]
    match name:
        case "as_text":
            done(str(request_id), name)
        case "twice":
            done(request_id, name)
            done(request_id, "again")
        case "stray":
            done(request_id + 5, "for nobody")
            done(request_id, name)
        case "in_pieces":
            answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result(name)})
            for piece in (answer[:30], answer[30:60], answer[60:] + "\n"):
                print(piece, end="", flush=True)
                time.sleep(0.05)
        case "with_news":
            told = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "news"}}
            answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result(name)})
            print(json.dumps(told), answer, sep="\n", flush=True)
        case "no_answer":
            # Neither is one: the first is not JSON-RPC, the second names nobody.
            print(json.dumps({"jsonrpc": "1.0", "id": request_id, "result": {}}), flush=True)
            say(id=None, error={"code": -32600, "message": "what?"})
            done(request_id, name)
        case "refused":
            say(id=request_id, error={"code": -32602, "message": "not with me", "data": {"why": 1}})
        case "full":
            # The code that the SDK takes for itself, to say that a connection is over.
            say(id=request_id, error={"code": -32000, "message": "the queue is full"})
        case "asks_back":
            # Ids of either side are its own business.
            say(id=request_id, method="ping")
            held.append(request_id)
        case "never":
            held.append(request_id)
        case "late":
            done(held.pop(), "too late")
            done(request_id, name)
        case "patient" if "requestState" not in params:
            say(id=request_id, result={"resultType": "input_required", "requestState": "1"})
        case "patient" if params["requestState"] == "1":
            say(id=request_id, result={"resultType": "input_required", "requestState": "2"})
        case "asks_somebody":
            asked = {
                "method": "elicitation/create",
                "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}},
            }
            say(id=request_id, result={"resultType": "input_required", "inputRequests": {"who": asked}})
        case _:
            done(request_id, name)


for line in sys.stdin:
    with READ.open("a") as file:
        file.write(line)
    message = json.loads(line)
    match message.get("method"):
        case None:
            done(held.pop(), "asks_back")
        case "server/discover" if MODERN:
            found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
            say(id=message["id"], result={**found, "ttlMs": 0, "cacheScope": "private"})
        case "initialize":
            me = {"serverInfo": {"name": "blunt", "version": "1"}, "capabilities": {"tools": {}}}
            say(id=message["id"], result={"protocolVersion": "2025-06-18", **me})
        case "tools/list":
            listed: dict[str, Any] = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]}
            more = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if MODERN else {}
            say(id=message["id"], result={**listed, **more})
        case "tools/call":
            call(message["id"], message["params"])
        case _ if "id" in message:
            say(id=message["id"], error={"code": -32601, "message": "Method not found"})
