"""What a turn asks of its neighbours, counted on the wire: requests to storage and Foundry, frames to the bus."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from benchmarks.local import AGENT, FUNCTION, Local, local

REPLIES = "businessinfinity-responses"
TEXT = "@say hello"
WITH_TOOL = f'@tool {FUNCTION} {{"text": "hi"}}\n@say done'
SETTLES = 1.0
"""Seconds after a turn in which what it left behind is still sent."""
OF_A_TURN = re.compile(
    r"tables (POST|PUT|PATCH|DELETE) /(aosoperations|aosdue|aosledger|aosapprovals)"
    r"|tables GET /(aosoperations|aosledger)|tables \w+ /(aosconversations|\$batch|aoscounters)"
    r"|blobs \w+ /aos-(state|payloads)/|foundry \w+ \S*/(responses|conversations)"
)
"""What turns ask. The rest is asked by the clock (the sweep, the purge, heartbeats, looks at what may have changed) and
falls into a measurement by chance."""


@dataclass(frozen=True, slots=True)
class PerTurn:
    """Per turn: Table requests and the entities in their transactions, blob and Foundry requests, bus frames.

    Attributes:
        table_ms, foundry_ms: Sums of the times of those requests; several may run at once.
        kinds: Requests of turns by method and path.
    """

    table_requests: float
    table_entities: float
    blob_requests: float
    foundry_requests: float
    bus_sent: float
    bus_received: float
    bus_settled: float
    table_ms: float
    foundry_ms: float
    wall_ms: float
    kinds: dict[str, float]


class BusCaller:
    """Another app on the bus."""

    def __init__(self, sender: ServiceBusSender, receiver: ServiceBusReceiver) -> None:
        self._sender = sender
        self._receiver = receiver

    async def turn(self, message: str) -> None:
        """An event and its reply."""
        event = {"agent_id": AGENT, "payload": {"message": message}, "conversation_id": "on-the-bus"}
        event["event_type"] = "Asked"
        sent = ServiceBusMessage(json.dumps(event), message_id=uuid.uuid4().hex, reply_to=REPLIES)
        await self._sender.send_messages(sent)
        (reply,) = await self._receiver.receive_messages(1, max_wait_time=30)
        body = json.loads(str(reply))
        await self._receiver.complete_message(reply)
        assert reply.correlation_id == sent.message_id, body
        assert body["status"] == "completed", body


async def per_turn(world: Local, turn: Callable[[], Awaitable[object]], turns: int) -> PerTurn:
    """The mean of some turns, less what the same time costs without a turn (timers, renewals, heartbeats)."""
    loop = asyncio.get_running_loop()
    await turn()
    await asyncio.sleep(SETTLES)
    for tally in world.tallies.values():
        tally.clear()
    began, spent = loop.time(), 0.0
    for _ in range(turns):
        at = loop.time()
        await turn()
        spent += loop.time() - at
    await asyncio.sleep(SETTLES)
    took = loop.time() - began
    busy, seconds = _read(world), _seconds(world)
    for tally in world.tallies.values():
        tally.clear()
    await asyncio.sleep(took)
    idle = _read(world)
    each = {name: max(0.0, (value - idle.get(name, 0.0)) / turns) for name, value in busy.items()}
    kinds = {name: number for name, number in each.items() if number and OF_A_TURN.match(name) is not None}

    def requests(where: str) -> float:
        return sum(number for kind, number in kinds.items() if kind.startswith(where))

    def milliseconds(where: str) -> float:
        return sum(number * seconds[kind] * 1e3 for kind, number in kinds.items() if kind.startswith(where))

    return PerTurn(
        table_requests=requests("tables"),
        table_entities=each["entities"],
        blob_requests=requests("blobs"),
        foundry_requests=requests("foundry"),
        bus_sent=each["sent"],
        bus_received=each["received"],
        bus_settled=each["settled"],
        table_ms=milliseconds("tables"),
        foundry_ms=milliseconds("foundry"),
        wall_ms=spent / turns * 1e3,
        kinds=kinds,
    )


def _read(world: Local) -> dict[str, float]:
    bus = world.tallies["bus"]
    requests = {
        f"{where} {name}": float(number)
        for where, tally in world.tallies.items()
        for name, number in tally.requests.items()
    }
    entities = world.tallies["tables"].entities
    return {**requests, "entities": entities, "sent": bus.sent, "received": bus.received, "settled": bus.settled}


def _seconds(world: Local) -> dict[str, float]:
    """Mean of a request, by kind."""
    return {
        f"{where} {name}": tally.seconds[name] / number
        for where, tally in world.tallies.items()
        for name, number in tally.requests.items()
    }


async def operations(turns: int = 20) -> dict[str, PerTurn]:
    """By kind of turn: over HTTP in a kept and in a new conversation, with a tool, and over the bus."""
    with tempfile.TemporaryDirectory() as folder:
        async with local(Path(folder), counted=True) as world:
            address = world.environment["AZURE_SERVICE_BUS_CONNECTION_STRING"]
            async with (
                ServiceBusClient.from_connection_string(address) as bus,
                bus.get_topic_sender("agent-events") as sender,
                bus.get_queue_receiver(REPLIES) as receiver,
            ):
                caller = BusCaller(sender, receiver)
                return {
                    "http": await per_turn(world, lambda: world.ask(TEXT, conversation_id="kept"), turns),
                    "http, new conversation": await per_turn(world, lambda: world.ask(TEXT), turns),
                    "http, one tool": await per_turn(
                        world, lambda: world.ask(WITH_TOOL, conversation_id="tools"), turns
                    ),
                    "bus": await per_turn(world, lambda: caller.turn(TEXT), turns),
                }
