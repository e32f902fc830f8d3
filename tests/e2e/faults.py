"""Turns whose processes are killed: a stack with the two halves of AOS in processes of their own.

A killed process is started again without the order to die, as a supervisor does. Senders do what senders do: an HTTP
client whose connection broke asks again under its Idempotency-Key, one on the bus waits.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
from azure.servicebus.exceptions import ServiceBusError

from aos.config import load_settings
from aos.dead_letters import DeadLetters
from aos.foundry.clients import FoundryClients
from aos.kernel.points import FAULT_POINT
from aos.kernel.types import ConversationKey
from aos.messaging.bus import Bus
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import POISON
from aos.system import AgentOperatingSystem
from tests.e2e.harness import REPLIES, App, Client, World, world

Way = Literal["bus", "HTTP"]

QUICK = {"AOS_LEASE_SECONDS": "3", "AOS_SWEEP_SECONDS": "1"}
"""Settings with which a turn is taken up again within seconds."""
LOCKS = "PT5S"
WORK = (("agent-events", "realm-agents"), ("mcp-requests", "mcp-servers"), ("mcp-responses", "realm-agents"))
FINAL = ("completed", "failed", "cancelled")
DIES_WITHIN = 120.0
ENDS_WITHIN = 180.0

CLERK = {
    "agent_id": "clerk",
    "purpose": "Books what was approved",
    "domain_knowledge": {"domain": "cfo"},
    "mcp_tools": [
        {"server_name": "company-ledger", "tool_name": "record_transaction", "configuration": {"approval": "writes"}}
    ],
}


BOSS = {
    "agent_id": "boss",
    "purpose": "Has others do it",
    "domain_knowledge": {"domain": "ceo"},
    "connected_agents": ["cfo", "clerk"],
}


class NotReached(AssertionError):
    """The turn ended, or waits, without having been where its process was to die."""


@dataclass(slots=True)
class Sent:
    """A message for an agent, by the mark that only it has."""

    way: Way
    agent_id: str
    text: str
    mark: str = field(default_factory=lambda: f"mark {uuid.uuid4().hex}")
    operation_id: str | None = None
    conversation: str | None = None

    @property
    def key(self) -> str:
        """Its MessageId or Idempotency-Key, and its conversation unless it names another one."""
        return self.mark.removeprefix("mark ")

    @property
    def message(self) -> str:
        return self.text.replace("MARK", self.mark)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message: a row of the table."""

    point: str
    way: str
    kills: int
    seconds: float
    effects: int
    told: str
    problem: str | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        survived = "yes" if self.problem is None else "NO"
        return self.point, self.way, str(self.kills), survived, str(self.effects), self.told, f"{self.seconds:.1f}"


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes for people, and what went wrong below."""
    head = ("killed at", "over", "kills", "survived", "effects", "ended as", "seconds")
    rows = [head, *(outcome.cells for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    kills, survived = sum(outcome.kills for outcome in outcomes), sum(outcome.problem is None for outcome in outcomes)
    lines.append(f"{len(outcomes)} turns, {kills} kills, {survived} survived")
    lines += [f"{outcome.point} over {outcome.way}: {outcome.problem}" for outcome in outcomes if outcome.problem]
    return "\n".join(lines)


class Bench:
    """A stack, the agents and the MCP side in processes of their own, and a client that reads all replies."""

    def __init__(self, running: World, servers: App) -> None:
        self.world = running
        self.agents = running.app
        self.servers = servers
        self.record = ""
        self.replies: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self.sent: list[Sent] = []
        self._sending = asyncio.Lock()
        self._hears = False
        self._listening: asyncio.Task[None] | None = None
        # Never started: it reads what the processes under test wrote.
        settings = load_settings(running.stack.environment)
        self._reader = AgentOperatingSystem(settings, folder=running.app.folder)
        self._bus = Bus(settings)
        self._foundry = FoundryClients(settings)
        self._inbox = Client(running.stack.environment["AZURE_SERVICE_BUS_CONNECTION_STRING"])

    # --- senders

    async def send(self, sent: Sent) -> None:
        """Sends until it is accepted; on the bus, until the bus has it."""
        self.sent.append(sent)
        if sent.way == "bus":
            event = {
                "agent_id": sent.agent_id,
                "event_type": "Fault",
                "payload": {"message": sent.message},
                "conversation_id": sent.conversation or sent.key,
            }
            while True:
                try:
                    # One at a time: when its link breaks, a sender of the SDK opens one for each that waits.
                    async with self._sending:
                        await self.world.client.send("agent-events", event, message_id=sent.key, reply_to=REPLIES)
                except ServiceBusError:
                    await asyncio.sleep(0.1)
                else:
                    return
        body = {
            "message": sent.message,
            "conversation_id": sent.conversation or sent.key,
            "timeout_seconds": 0,
        }
        answer = await self.insist("POST", f"agents/{sent.agent_id}", body, {"Idempotency-Key": sent.key})
        sent.operation_id = answer["operation_id"]

    async def insist(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Asks until there is an answer that says what became of it."""
        while True:
            try:
                response = await self.agents.http.request(method, path, json=body, headers=headers)
            except httpx2.TransportError:
                response = None
            if response is not None and response.status_code < 500:
                answer: dict[str, Any] = response.json()
                return answer
            await asyncio.sleep(0.1)

    async def ended(self, sent: Sent) -> dict[str, Any]:
        """The operation, once it has ended and, on the bus, its sender was told."""
        while sent.operation_id is None:
            if replies := self.replies[sent.key]:
                sent.operation_id = json.loads(replies[0][1])["operation_id"]
            await asyncio.sleep(0.05)
        while True:
            operation = await self.insist("GET", f"operations/{sent.operation_id}")
            if operation.get("status") in FINAL and (sent.way == "HTTP" or self.replies[sent.key]):
                return operation
            await asyncio.sleep(0.1)

    async def approval(self, sent: Sent) -> dict[str, Any]:
        """The call of a message that waits for a person."""
        while True:
            for item in (await self.insist("GET", "approvals"))["items"]:
                if sent.mark in json.dumps(item):
                    found: dict[str, Any] = item
                    return found
            await asyncio.sleep(0.1)

    def hear(self) -> None:
        """Collects replies by the MessageId of what they answer, until `deaf`."""
        self._hears = True
        self._listening = asyncio.create_task(self._listen())

    async def deaf(self) -> None:
        # Not cancelled: a receiver of the SDK that is cancelled may never end.
        self._hears = False
        if self._listening is not None:
            await self._listening
            self._listening = None

    async def _listen(self) -> None:
        async with self._inbox.bus.get_queue_receiver(REPLIES) as receiver:
            while self._hears:
                for message in await receiver.receive_messages(50, max_wait_time=0.5):
                    self.replies[message.correlation_id or ""].append((message.message_id or "", str(message)))
                    await receiver.complete_message(message)

    async def quiet(self) -> None:
        """Waits until nothing is left to be delivered again: it would have the next process die for an old message."""
        for topic, subscription in WORK:
            await self._inbox.handled(topic, subscription)

    async def close(self) -> None:
        await self._inbox.close()
        await self._reader.close()
        await self._bus.close()
        await self._foundry.close()

    # --- deaths

    async def die(self, app: App, how: str) -> None:
        """Waits for the death of a process that was ordered to die.

        Raises:
            NotReached: It lives on.
        """
        try:
            async with asyncio.timeout(DIES_WITHIN):
                status = await app.child.wait()
        except TimeoutError:
            raise NotReached(f"no turn reached {how}: name in this test how it is reached") from None
        assert status == 128 + 9, f"the process ended with status {status}, not by the order to die"

    async def armed(self, app: App, point: str, more: Mapping[str, str] | None = None) -> None:
        """The process is replaced by one that dies at a point, with more settings."""
        await app.kill()
        await app.restart({FAULT_POINT: point, **(more or {})})

    async def kill_part(self, name: str) -> None:
        """`kill -9` of a part of the stack, which is started again on its ports, as the stack's keeper does."""
        part = self.world.part(name)
        await self.deaf()
        os.kill(await asyncio.to_thread(_process, next(iter(part.ports.values()))), signal.SIGKILL)
        await part.wait()
        await part.start()
        self.hear()

    # --- what counts

    def effects(self, mark: str) -> int:
        """Rows in the books of the example."""
        with closing(sqlite3.connect(self.world.state / "ledger.db")) as ledger:
            (count,) = ledger.execute("SELECT count(*) FROM transactions WHERE description = ?", (mark,)).fetchone()
        return int(count)

    async def told(self, sent: Sent) -> list[str]:
        """What the model was told of the calls of a turn, as Foundry keeps it."""
        state = (await self._reader.store.read(ConversationKey(sent.agent_id, sent.conversation or sent.key))).state
        assert state.remote_id is not None
        items = self._foundry.openai.conversations.items.list(state.remote_id, order="asc", limit=100)
        return [str(item.output) async for item in items if item.type == "function_call_output"]

    async def kept(self, batch: Sequence[Sent]) -> None:
        """Returns when Azurite has written down that the turns of these messages wait for their tools."""
        tables = self.world.state / "azurite" / "__azurite_db_table__.json"
        conversations = {sent.conversation or sent.key for sent in batch}
        while not conversations <= await asyncio.to_thread(_waiting, tables):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.2)

    async def parked(self, sent: Sent) -> list[tuple[str, str, int, str]]:
        """The dead letters of a turn, as soon as there are any: id, reason, attempt, body."""
        letters = DeadLetters(self._bus, ClaimCheck(None))
        while True:
            found = [letter for letter in await letters.letters(1000, [POISON]) if letter.message_id == sent.key]
            if found:
                return [(one.operation_id, one.reason, one.attempt, one.body.decode()) for one in found]
            await asyncio.sleep(0.1)

    def wrong(self, sent: Sent, operation: dict[str, Any], status: str, effects: int | None) -> str | None:
        """What is not as it must be: one effect, the reply that was asked for, one id of the reply."""
        found = self.effects(sent.mark)
        if operation["status"] != status:
            return f"ended as {operation['status']}: {operation.get('error')}"
        if status == "completed" and operation["reply"] != f"booked {sent.mark}":
            return f"replied {operation['reply']!r}"
        if (effects is None and found > 1) or (effects is not None and found != effects):
            return f"{found} effects"
        if sent.way == "bus" and len({*self.replies[sent.key]}) != 1:
            return f"different replies: {self.replies[sent.key]}"
        return None

    def later(self) -> list[str]:
        """What became wrong after it had been right: effects, and replies under another id."""
        problems = [f"{self.effects(sent.mark)} effects of {sent}" for sent in self.sent if self.effects(sent.mark) > 1]
        several = [sent for sent in self.sent if len({message_id for message_id, _ in self.replies[sent.key]}) > 1]
        return problems + [f"several reply ids of {sent}: {self.replies[sent.key]}" for sent in several]

    def has_booked(self, agent_id: str, way: Way) -> Sent:
        """A message that has the boss ask an agent to book one transaction."""
        order = json.dumps({"message": self.books(agent_id).text})
        return Sent(way, "boss", f"@tool ask_{agent_id} {order}\n@say booked MARK")

    def books(self, agent_id: str = "cfo", way: Way = "bus") -> Sent:
        """A message that has the agent book one transaction and say so."""
        entry = {"account": "6400", "amount": 250, "description": "MARK", "date": "2025-11-03"}
        return Sent(way, agent_id, f"@tool {self.record} {json.dumps(entry)}\n@say booked MARK")


@asynccontextmanager
async def bench(state: Path) -> AsyncIterator[Bench]:
    """A bench of its own in a folder."""
    async with world(
        state, {**QUICK, "AOS_ROLES": "agents"}, agents=[CLERK, BOSS], bus_locks=LOCKS, ready=False
    ) as running:
        servers = App({**running.stack.environment, **QUICK, "AOS_ROLES": "mcp"}, running.app.folder, "servers")
        made = Bench(running, servers)
        try:
            await servers.start()
            await running.app.ready("clerk")
            await running.app.ready("cfo")
            await running.app.ready("boss")
            names: list[str] = (await running.app.http.get("agents/cfo/status")).json()["tools"]
            made.record = next(name for name in names if name.endswith("record_transaction"))
            made.hear()
            yield made
            # How they end in order is for other tests.
            await asyncio.gather(running.app.kill(), servers.kill())
        finally:
            await made.deaf()
            await made.close()
            await servers.stop()
            await servers.http.aclose()


def _waiting(tables: Path) -> set[str]:
    """Conversations whose operation waits for a tool, in a file of Azurite's, which replaces it as a whole."""
    collections = json.loads(tables.read_bytes())["collections"] if tables.exists() else ()
    (rows,) = [found["data"] for found in collections if found["name"].endswith("$aosconversations")] or [()]
    operations = [json.loads(row["properties"]["data"]) for row in rows if row["RowKey"].startswith("OP:")]
    return {one["conversation_id"] for one in operations if one["waiting_on"] == "tool"}


def _process(port: int) -> int:
    """The child of a leash of ours that was given this port."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    ours = {int(pid) for pid, parent, *_ in lines if int(parent) == os.getpid()}
    (found,) = {int(pid) for pid, parent, *words in lines if int(parent) in ours and str(port) in words[0].split()}
    return found


def since(start: float) -> float:
    return time.monotonic() - start
