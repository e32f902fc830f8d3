"""The other side of a bare request and reply: the SDK receives, sends an answer of the same shape, completes.

With the script of an MCP server, the answer is that of its tool, called with MCP's SDK: what a tool call over the bus
takes if nothing is checked, remembered, bounded, watched or repeated.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from mcp import Client, StdioServerParameters, stdio_client


async def main(topic: str, subscription: str, replies: str, server: str = "") -> None:
    async with AsyncExitStack() as stack:
        connection = os.environ["AZURE_SERVICE_BUS_CONNECTION_STRING"]
        bus = await stack.enter_async_context(ServiceBusClient.from_connection_string(connection))
        receiver = await stack.enter_async_context(bus.get_subscription_receiver(topic, subscription))
        sender = await stack.enter_async_context(bus.get_queue_sender(replies))
        client: Client | None = None
        if server:
            child = StdioServerParameters(command=sys.executable, args=["-I", "-S", server])
            client = await stack.enter_async_context(Client(stdio_client(child)))
        print("ready", flush=True)
        async for message in receiver:
            request = json.loads(str(message))
            result: dict[str, Any] = {"content": [{"type": "text", "text": "hi"}], "isError": False}
            if client is not None:
                called = await client.call_tool(request["params"]["tool_name"], request["params"]["tool_params"])
                result = called.model_dump(mode="json", by_alias=True, exclude_none=True)
            answer = {
                "request_id": request["request_id"],
                "server_id": request["server_id"],
                "response": {"result": result},
            }
            await sender.send_messages(ServiceBusMessage(json.dumps(answer), correlation_id=message.message_id))
            await receiver.complete_message(message)


asyncio.run(main(*sys.argv[1:]))
