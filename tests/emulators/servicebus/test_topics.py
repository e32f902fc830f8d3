"""Topics and subscriptions through the asynchronous SDK."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver


async def collect(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    got: list[ServiceBusReceivedMessage] = []
    while len(got) < count:
        more = await receiver.receive_messages(count, max_wait_time=20)
        assert more, "no message came"
        got += more
    return got


async def test_subscriptions_get_what_their_filters_let_through(client: ServiceBusClient) -> None:
    async with (
        client.get_topic_sender("colours") as sender,
        client.get_subscription_receiver("colours", "all") as everything,
        client.get_subscription_receiver("colours", "red") as red,
    ):
        await sender.send_messages(
            [
                ServiceBusMessage("1", subject="red", application_properties={"size": 1}),
                ServiceBusMessage("2", subject="red", application_properties={"size": 2}),
                ServiceBusMessage("3", subject="blue", application_properties={"size": 1}),
            ]
        )
        some, (one,) = await asyncio.gather(collect(everything, 3), collect(red, 1))
        assert [str(message) for message in some] == ["1", "2", "3"]
        assert str(one) == "1"
        await red.dead_letter_message(one, reason="why")
        for message in some:
            await everything.complete_message(message)
        assert await red.peek_messages(5, sequence_number=1) == []
        assert await everything.peek_messages(5, sequence_number=1) == []


async def test_a_topic_schedules_and_cancels(client: ServiceBusClient) -> None:
    async with (
        client.get_topic_sender("later") as sender,
        client.get_subscription_receiver("later", "all") as receiver,
    ):
        dropped = await sender.schedule_messages(ServiceBusMessage("never"), datetime.now(UTC) + timedelta(hours=1))
        await sender.schedule_messages(ServiceBusMessage("soon"), datetime.now(UTC) + timedelta(seconds=1))
        await sender.cancel_scheduled_messages(dropped)
        (message,) = await collect(receiver, 1)
        assert str(message) == "soon"
        await receiver.complete_message(message)
