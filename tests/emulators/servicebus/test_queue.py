"""Queues through the real SDK: send, receive, settle."""

from __future__ import annotations

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from emulators.servicebus import ServiceBusEmulator, load_entities


async def test_a_message_is_sent_received_and_completed() -> None:
    layout = load_entities({"UserConfig": {"Namespaces": [{"Queues": [{"Name": "q"}]}]}})
    async with (
        ServiceBusEmulator(layout) as bus,
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        client.get_queue_sender("q") as sender,
        client.get_queue_receiver("q") as receiver,
    ):
        await sender.send_messages(ServiceBusMessage("hello", message_id="m1"))
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        assert (str(message), message.message_id, message.delivery_count) == ("hello", "m1", 0)
        await receiver.complete_message(message)
        assert await receiver.peek_messages(1) == []
