"""Calls a tool of an MCP server through AOS, with nothing but `azure-servicebus`: a caller that is not AOS.

    python examples/call_a_tool.py company-ledger get_kpis '{"year": 2025}' --reply-to businessinfinity-responses
    python examples/call_a_tool.py company-ledger get_kpis '{"year": 2025}' --subscription my-app
    python examples/call_a_tool.py company-ledger --method list_tools --reply-to businessinfinity-responses

With `--reply-to` the answer comes to a queue of the caller's own and is found by its CorrelationId. With
`--subscription` it comes to topic `mcp-responses` and is found by its `request_id`; the subscription has to be the
caller's own too, because whoever receives from `realm-agents` takes the answers away from the agents.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from typing import Any

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiver

REQUESTS, RESPONSES = "mcp-requests", "mcp-responses"


def main() -> int:
    parser = argparse.ArgumentParser(description="Call a tool of an MCP server through AOS.")
    parser.add_argument("server", help="id or name of the MCP server")
    parser.add_argument("tool", nargs="?", default="", help="the tool, or the URI for read_resource")
    parser.add_argument("arguments", nargs="?", default="{}", help="the tool's arguments, as JSON")
    parser.add_argument(
        "--method", default="call_tool", choices=["call_tool", "list_tools", "list_resources", "read_resource"]
    )
    parser.add_argument("--request-id", default=uuid.uuid4().hex, help="the same id again: the same call, made once")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the answer")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--reply-to", metavar="QUEUE", help="a queue of one's own for the answer")
    where.add_argument("--subscription", metavar="NAME", help=f"a subscription of one's own on topic {RESPONSES}")
    options = parser.parse_args()
    if not (bus_address := os.environ.get("AZURE_SERVICE_BUS_CONNECTION_STRING")):
        parser.error("AZURE_SERVICE_BUS_CONNECTION_STRING is not set; `make run` writes it to .aos/settings.env")
    params: dict[str, Any] = {}
    if options.method == "call_tool":
        try:
            params = {"tool_name": options.tool, "tool_params": json.loads(options.arguments)}
        except ValueError as error:
            parser.error(f"the arguments are not JSON: {error}")
    elif options.method == "read_resource":
        params = {"uri": options.tool}
    request = {
        "request_id": options.request_id,
        "server_id": options.server,
        "method": options.method,
        "params": params,
    }
    message = ServiceBusMessage(
        json.dumps(request),
        content_type="application/json",
        message_id=options.request_id,
        correlation_id=f"{options.request_id}.answer" if options.reply_to else None,
        reply_to=options.reply_to,
    )
    with ServiceBusClient.from_connection_string(bus_address) as bus:
        with bus.get_topic_sender(REQUESTS) as sender:
            sender.send_messages(message)
        receiver = (
            bus.get_queue_receiver(options.reply_to)
            if options.reply_to
            else bus.get_subscription_receiver(RESPONSES, options.subscription)
        )
        with receiver:
            answer = wait(receiver, options.request_id, message.correlation_id, options.timeout)
    if answer is None:
        print(f"no answer within {options.timeout:g} s", file=sys.stderr)
        return 1
    response = answer.get("response", answer)
    print(json.dumps(response, indent=2, ensure_ascii=False))
    return 1 if "error" in response or response.get("result", {}).get("isError") else 0


def wait(receiver: ServiceBusReceiver, request_id: str, correlation_id: str | None, seconds: float) -> Any:
    """The body of the answer, or None; answers to other requests are taken off, as nobody waits for them here."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for message in receiver.receive_messages(max_wait_time=left):
            body = json.loads(str(message))
            receiver.complete_message(message)
            if correlation_id is not None and message.correlation_id == correlation_id:
                # An answer of more than 192 KB is {"$blob": {container, name, sha256, size}}: the body lies there.
                return body
            if correlation_id is None and body.get("request_id") == request_id:
                return body
    return None


if __name__ == "__main__":
    sys.exit(main())
