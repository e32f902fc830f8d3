"""The floor of a turn over the wire: the raw calls that a durable turn cannot avoid before its caller has the answer.

They are made with the SDKs, one after another; nothing is computed in between. What is in it, and why:

- the hop: the caller's request to a bare server, or its event on the bus and the reply to it, each settled.
- accepted: the id is claimed (insert), the sweep is told (put), what waits is looked at (query: the place of the
  message in its conversation), and message and operation are written (transaction).
- about to ask the model: the state (transaction), so that after a crash nobody asks twice. Once before each model step.
- the model step, through the same client as the system's, with its time-outs and without its retries.
- a tool call is written before it is sent (transaction), crosses the bus and back, and its result is written where any
  process finds it (insert). The tool only reads, so that no claim is made where it runs.
- ended: state and operation (transaction).

What a turn leaves to be done when the answer is out (the sweep's entry, counters, the look at what arrived meanwhile)
is not in it, though the system does it, and may be at it when the next turn of the same client begins. The system asks
for several things at once: with that it pays for what it computes. Both sides look for a proxy only where the
environment names one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableClient, TableServiceClient
from openai import AsyncOpenAI

from aos.config import load_settings
from aos.foundry.clients import FoundryClients
from aos.storage.account import transport_options
from benchmarks.tools import Caller

TABLE = "benchfloor"


@dataclass(slots=True)
class Floor:
    """Raw clients for the same storage, Foundry and broker that AOS uses.

    Args:
        bare: Sends a request over the bus to a responder and takes its reply, with the SDK alone.
        agent: Name and version in Foundry of the agent that is spoken to.
    """

    table: TableClient
    openai: AsyncOpenAI
    http: httpx2.AsyncClient
    bare: Caller
    agent: tuple[str, str]
    conversation: str = ""

    async def http_turn(self, text: str) -> None:
        """A turn without a tool."""
        await self._hop()
        key = await self._accepted()
        await self._batch(key, "state")
        await self._model(text)
        await self._ended(key)

    async def tool_turn(self, text: str) -> None:
        """A turn with one tool call, whose tool costs nothing."""
        await self._hop()
        key = await self._accepted()
        await self._batch(key, "state")
        call = next(item for item in (await self._model(text)).output if item.type == "function_call")
        await self._batch(key, "call", "state")
        await self.bare.call()
        await self.table.create_entity({"PartitionKey": key, "RowKey": "result", "output": "hi"})
        await self._batch(key, "state")
        await self._respond([{"type": "function_call_output", "call_id": call.call_id, "output": "hi"}])
        await self._ended(key)

    async def bus_turn(self, text: str) -> None:
        """A turn that comes as an event and is answered by a reply message."""
        await self.bare.call()
        key = await self._accepted()
        await self._batch(key, "state")
        await self._model(text)
        await self._ended(key)

    async def first_text(self, text: str) -> float:
        """Seconds until the first piece of text of a streamed turn; it is read to its end."""
        began, first = time.perf_counter(), 0.0
        await self._hop()
        key = await self._accepted()
        await self._batch(key, "state")
        events = await self._respond([_said(text)], stream=True)
        async for event in events:
            if event.type == "response.output_text.delta" and not first:
                first = time.perf_counter() - began
        assert first, "no text was streamed"
        return first

    async def _hop(self) -> None:
        (await self.http.post("/", json={"message": "hello"})).raise_for_status()

    async def _accepted(self) -> str:
        key = uuid.uuid4().hex
        await self.table.create_entity({"PartitionKey": f"index{key}", "RowKey": "index"})
        await self.table.upsert_entity({"PartitionKey": "due", "RowKey": key}, mode=UpdateMode.REPLACE)
        await self._read(key)
        await self._batch(key, "message", "operation")
        return key

    async def _read(self, key: str) -> None:
        async for _ in self.table.query_entities("PartitionKey eq @key", parameters={"key": key}):
            pass

    async def _batch(self, key: str, *rows: str) -> None:
        entities = [("upsert", {"PartitionKey": key, "RowKey": row, "value": "x" * 500}) for row in rows]
        await self.table.submit_transaction(entities)

    async def _ended(self, key: str) -> None:
        await self._batch(key, "state", "operation")

    async def _model(self, text: str) -> Any:
        return await self._respond([_said(text)])

    async def _respond(self, items: list[Any], *, stream: bool = False) -> Any:
        name, version = self.agent
        extra = {"agent_reference": {"type": "agent_reference", "name": name, "version": version}}
        return await self.openai.responses.create(
            conversation=self.conversation, input=items, extra_body=extra, stream=stream
        )


def _said(text: str) -> dict[str, str]:
    return {"type": "message", "role": "user", "content": text}


@asynccontextmanager
async def floor(environment: Mapping[str, str], address: str, bare: Caller, agent: str) -> AsyncIterator[Floor]:
    """Opens the raw clients.

    Args:
        address: Where `benchmarks.bare_http` listens.
        agent: `name:version` in Foundry.
    """
    name, _, version = agent.rpartition(":")
    clients = FoundryClients(load_settings(dict(environment)))
    service = TableServiceClient.from_connection_string(
        environment["AZURE_STORAGE_CONNECTION_STRING"], **transport_options()
    )
    try:
        async with service, httpx2.AsyncClient(base_url=address) as http:
            await service.create_table_if_not_exists(TABLE)
            raw = Floor(service.get_table_client(TABLE), clients.openai, http, bare, (name, version))
            raw.conversation = (await clients.openai.conversations.create()).id
            yield raw
    finally:
        await clients.close()
