from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from aos.config import Settings, load_settings
from aos.messaging.bus import Bus
from aos.messaging.claim_check import ClaimCheck
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads
from emulators.servicebus import ServiceBusEmulator, load_entities

ENTITIES: Mapping[str, object] = {
    "UserConfig": {
        "Namespaces": [
            {
                "Queues": [{"Name": "answers"}, {"Name": "in-sessions", "Properties": {"RequiresSession": True}}],
                "Topics": [{"Name": "news", "Subscriptions": [{"Name": "all"}]}],
            }
        ]
    }
}


class Inbox:
    """What arrives in the queue `answers`."""

    def __init__(self, receiver: ServiceBusReceiver) -> None:
        self._receiver = receiver

    async def take(self, count: int = 1) -> list[ServiceBusReceivedMessage]:
        """The next messages; fails if fewer come."""
        taken: list[ServiceBusReceivedMessage] = []
        async with asyncio.timeout(60):
            while len(taken) < count:
                taken += await self._receiver.receive_messages(count - len(taken), max_wait_time=5)
        return taken


def bus_settings(emulator: ServiceBusEmulator) -> Settings:
    return load_settings({"AZURE_SERVICE_BUS_CONNECTION_STRING": emulator.connection_string})


@pytest.fixture(scope="session")
async def emulator() -> AsyncIterator[ServiceBusEmulator]:
    async with ServiceBusEmulator(load_entities(ENTITIES)) as running:
        yield running


@pytest.fixture(scope="session")
async def bus(emulator: ServiceBusEmulator) -> AsyncIterator[Bus]:
    bus = Bus(bus_settings(emulator))
    yield bus
    await bus.close()


@pytest.fixture(scope="session")
async def client(emulator: ServiceBusEmulator) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(emulator.connection_string) as client:
        yield client


@pytest.fixture(scope="session")
async def inbox(client: ServiceBusClient) -> AsyncIterator[Inbox]:
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with client.get_queue_receiver("answers", receive_mode=mode) as receiver:
        yield Inbox(receiver)


@pytest.fixture(scope="session")
async def claim_check(storage_settings: Settings) -> AsyncIterator[ClaimCheck]:
    account = StorageAccount(storage_settings)
    yield ClaimCheck(Payloads(account))
    await account.close()
