"""Two host processes on one stack: order within each conversation, nothing lost, nothing twice.

Each sender waits for the acceptance of a message before it sends its next one, and sends some of them again. In each
conversation one message has the agent book a transaction: what tools do happens once, too.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import sqlite3
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from aos.config import load_settings
from aos.kernel.types import ConversationKey
from aos.system import AgentOperatingSystem
from tests.e2e.harness import REPLIES, App, Client, World, world

pytestmark = pytest.mark.slow

AGENT = "cfo"
MESSAGES = 10
BOOKED = 4
"""Number of the message, in each conversation, that has something booked."""
IN_FLIGHT = 24
"""Conversations whose senders are at work at a time."""
AGAIN = 0.2
"""Share of the messages that are sent a second time."""


@pytest_asyncio.fixture(scope="module")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A stack with two whole hosts."""
    state: Path = tmp_path_factory.mktemp("hosts")
    async with world(state) as running:
        second = App(running.stack.environment, running.app.folder, "second")
        try:
            await second.start()
            await second.ready(AGENT)
            yield running
        finally:
            await second.stop()
            await second.http.aclose()


def operation_of(message_id: str) -> str:
    """The operation that an event becomes, derived from its MessageId."""
    digest = hashlib.sha256("\0".join(("bus", "", AGENT, message_id)).encode()).digest()
    return "op_" + base64.b32encode(digest).decode()[:26].lower()


class Senders:
    """Applications on the bus, one per conversation, and what came back to them."""

    def __init__(self, running: World, conversations: int, record: str) -> None:
        environment = running.stack.environment
        self.random = random.Random(4)
        self.conversations = [f"c{number}-{uuid.uuid4().hex[:12]}" for number in range(conversations)]
        self.replies: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.said: dict[str, str] = {}
        self.sent = 0
        self._record = record
        self.system = AgentOperatingSystem(load_settings(environment), folder=running.app.folder)
        self._client = Client(environment["AZURE_SERVICE_BUS_CONNECTION_STRING"])
        self._gate = asyncio.Semaphore(IN_FLIGHT)
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Sends everything and waits for a reply to each message."""
        await asyncio.gather(self._receive(), *map(self._talk, self.conversations))

    async def close(self) -> None:
        await self._client.close()
        await self.system.close()

    async def _talk(self, conversation: str) -> None:
        async with self._gate:
            for message_id in ids(conversation):
                event = {
                    "agent_id": AGENT,
                    "event_type": "Numbered",
                    "payload": {"message": self._text(message_id)},
                    "conversation_id": conversation,
                }
                await self._send(event, message_id)
                if message_id in booked([conversation]) or self.random.random() < AGAIN:
                    await self._send(event, message_id)
                while await self.system.store.operation(operation_of(message_id)) is None:  # noqa: ASYNC110 - polled
                    await asyncio.sleep(0.1)

    def _text(self, message_id: str) -> str:
        if not message_id.endswith(f"-{BOOKED}"):
            return f"@say {message_id}"
        entry = {"account": "6400", "amount": 250, "description": message_id, "date": "2025-11-03"}
        return f"@tool {self._record} {json.dumps(entry)}\n@say {message_id}"

    async def _send(self, event: object, message_id: str) -> None:
        self.sent += 1
        async with self._sending:
            await self._client.send("agent-events", event, message_id=message_id, reply_to=REPLIES)

    async def _receive(self) -> None:
        total = len(self.conversations) * MESSAGES
        async with self._client.bus.get_queue_receiver(REPLIES) as receiver:
            while len(self.replies) < total:
                messages = await receiver.receive_messages(100, max_wait_time=60)
                assert messages, f"{len(self.replies)} of {total} messages were answered, then nothing for 60 s"
                for message in messages:
                    body = json.loads(str(message))
                    assert body["status"] == "completed", body
                    self.replies[message.correlation_id or ""][message.message_id or ""] += 1
                    self.said[message.correlation_id or ""] = body["response"]
                    await receiver.complete_message(message)

    async def heard(self, conversation: str) -> list[str]:
        """What the model was told in a conversation, in this order."""
        state = (await self.system.store.read(ConversationKey(AGENT, conversation))).state
        assert state.remote_id is not None
        items = await self.system.foundry.items_after(state.remote_id, None)
        return [item.text.rpartition("@say ")[2] for item in items if item.kind == "user"]


def ids(conversation: str) -> list[str]:
    return [f"{conversation}-{number}" for number in range(MESSAGES)]


def booked(conversations: Iterable[str]) -> set[str]:
    """The messages that have something booked."""
    return {f"{conversation}-{BOOKED}" for conversation in conversations}


def bookings(hosts: World, conversations: Iterable[str]) -> Counter[str]:
    """How often the books of the example hold each of them."""
    with closing(sqlite3.connect(hosts.state / "ledger.db")) as ledger:
        found = Counter(description for (description,) in ledger.execute("SELECT description FROM transactions"))
    return Counter({message_id: found[message_id] for message_id in booked(conversations)})


async def talk(hosts: World, conversations: int) -> None:
    names: list[str] = (await hosts.app.http.get(f"agents/{AGENT}/status")).json()["tools"]
    senders = Senders(hosts, conversations, next(name for name in names if name.endswith("record_transaction")))
    try:
        start = time.monotonic()
        await senders.run()
        seconds = time.monotonic() - start
        total = conversations * MESSAGES
        expected = {message_id for conversation in senders.conversations for message_id in ids(conversation)}
        assert set(senders.replies) == expected
        assert senders.said == {message_id: message_id for message_id in expected}
        assert {len(reply_ids) for reply_ids in senders.replies.values()} == {1}
        found = await asyncio.to_thread(bookings, hosts, senders.conversations)
        assert found == dict.fromkeys(booked(senders.conversations), 1)
        for conversation in senders.conversations:
            assert await senders.heard(conversation) == ids(conversation)
        print(
            f"\n{total} messages in {conversations} conversations on 2 hosts, {senders.sent - total} of them sent"
            f" twice, {found.total()} bookings: {seconds:.0f} s, {total / seconds:.0f} turns/s"
        )
    finally:
        await senders.close()


async def test_two_hosts_keep_the_order_and_do_everything_once(hosts: World) -> None:
    await talk(hosts, 30)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_two_hosts_with_two_hundred_conversations(hosts: World) -> None:
    await talk(hosts, 200)
