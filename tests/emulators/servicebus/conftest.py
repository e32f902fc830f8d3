"""One emulator and one client for all tests; links are opened once because each costs the SDK half a second."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from emulators.servicebus import ServiceBusEmulator, load_entities
from tests.emulators.servicebus.wire import Json, layout

PLAIN_QUEUES = (
    "settle", "deadletter", "defer", "peek", "schedule", "batch", "delete", "fields", "sizes", "competing", "credit",
    "hostile", "throughput",
)  # fmt: skip
QUEUES: Json = {
    **{name: {} for name in PLAIN_QUEUES},
    "twice": {"MaxDeliveryCount": 2},
    "short-lock": {"LockDuration": "PT1S"},
    "expiring": {"DefaultMessageTimeToLive": "PT1H", "DeadLetteringOnMessageExpiration": True},
    "distinct": {"RequiresDuplicateDetection": True},
    "sessions": {"RequiresSession": True},
    "next-session": {"RequiresSession": True},
    "held-session": {"RequiresSession": True},
    "lost-session": {"RequiresSession": True},
    "replies": {"RequiresSession": True},
}
RED: Json = {
    "Name": "red",
    "Properties": {"FilterType": "Correlation", "CorrelationFilter": {"Label": "red", "Properties": {"size": 1}}},
}
TOPICS: Json = {
    "colours": {"Subscriptions": [{"Name": "all"}, {"Name": "red", "Rules": [RED]}]},
    "later": {"Subscriptions": [{"Name": "all"}]},
}


class Links:
    """Senders and receivers of one client, opened when they are first asked for."""

    def __init__(self, client: ServiceBusClient) -> None:
        self.client = client
        self._open: dict[str, ServiceBusSender | ServiceBusReceiver] = {}

    def sender(self, queue: str) -> ServiceBusSender:
        link = self._open.setdefault(f"to {queue}", self.client.get_queue_sender(queue))
        assert isinstance(link, ServiceBusSender)
        return link

    def receiver(self, queue: str, *, dead_letters: bool = False, delete: bool = False) -> ServiceBusReceiver:
        key = f"from {queue} {dead_letters} {delete}"
        if key not in self._open:
            self._open[key] = self.client.get_queue_receiver(
                queue,
                sub_queue=ServiceBusSubQueue.DEAD_LETTER if dead_letters else None,
                receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE if delete else ServiceBusReceiveMode.PEEK_LOCK,
            )
        link = self._open[key]
        assert isinstance(link, ServiceBusReceiver)
        return link

    async def send(self, queue: str, *messages: ServiceBusMessage) -> None:
        await self.sender(queue).send_messages(list(messages))

    async def receive(self, queue: str, *, dead_letters: bool = False) -> ServiceBusReceivedMessage:
        """The next message; fails if none comes."""
        receiver = self.receiver(queue, dead_letters=dead_letters)
        (message,) = await receiver.receive_messages(1, max_wait_time=20)
        return message

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._open.values()))


@pytest.fixture(scope="session")
async def bus() -> AsyncIterator[ServiceBusEmulator]:
    async with ServiceBusEmulator(load_entities(layout(QUEUES, TOPICS))) as emulator:
        yield emulator


@pytest.fixture(scope="session")
async def client(bus: ServiceBusEmulator) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(
        bus.connection_string, retry_total=1, retry_backoff_factor=0.05
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
async def links(client: ServiceBusClient) -> AsyncIterator[Links]:
    opened = Links(client)
    yield opened
    await opened.close()


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect garbage before the next test: the SDK leaves the socket of a connection that broke to the collector."""
    yield
    gc.collect()
