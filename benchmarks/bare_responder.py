"""The other side of a bare request and reply: the SDK receives, sends an answer of the same shape, completes."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient


async def main(topic: str, subscription: str, replies: str) -> None:
    async with (
        ServiceBusClient.from_connection_string(os.environ["AZURE_SERVICE_BUS_CONNECTION_STRING"]) as bus,
        bus.get_subscription_receiver(topic, subscription) as receiver,
        bus.get_queue_sender(replies) as sender,
    ):
        print("ready", flush=True)
        async for message in receiver:
            request = json.loads(str(message))
            answer = {
                "request_id": request["request_id"],
                "server_id": request["server_id"],
                "response": {"result": {"content": [{"type": "text", "text": "hi"}], "isError": False}},
            }
            await sender.send_messages(ServiceBusMessage(json.dumps(answer), correlation_id=message.message_id))
            await receiver.complete_message(message)


asyncio.run(main(*sys.argv[1:]))
