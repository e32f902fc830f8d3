"""The whole of AOS as a user runs it: the local stack and `python -m aos serve`, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.storage.blob.aio import BlobServiceClient

from emulators.child import Child
from emulators.ports import settle
from emulators.settings import StackSettings
from emulators.stack import Stack

ROOT = Path(__file__).parents[2]
REPLIES = "businessinfinity-responses"
PATIENCE = 60.0
"""Seconds after which something has not happened, on the slowest machine."""
GRACE = 30.0
"""Seconds that container hosts allow between SIGTERM and SIGKILL."""


class App:
    """One `python -m aos serve` process."""

    def __init__(self, environment: Mapping[str, str], folder: Path, name: str = "aos") -> None:
        self.port = settle({"AOS_PORT": ("AOS", 0)})["AOS_PORT"]
        self.folder = folder
        self.name = name
        # The server closes connections that were idle for 5 s: none is used again that it may be closing just then.
        limits = httpx2.Limits(keepalive_expiry=1.0)
        self.http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}/api/", timeout=90, limits=limits)
        self._environment = {
            **os.environ,
            **environment,
            "AOS_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        self.child = self._new()

    def _new(self, more: Mapping[str, str] | None = None) -> Child:
        command = [sys.executable, "-m", "aos", "serve", "--folder", str(self.folder)]
        environment = {**self._environment, **(more or {})}
        return Child(self.name, command, env=environment, grace=GRACE, log=self.folder / f"{self.name}.log")

    async def start(self) -> None:
        ready = self.child.line(r"serving AOS on http://\S+")
        await self.child.start()
        await self.child.ready(ready, PATIENCE)

    async def kill(self) -> None:
        """`kill -9`, as the platform may."""
        self.child.send_signal(9)
        await self.child.wait()

    async def restart(self, more: Mapping[str, str] | None = None) -> None:
        """A new process on the same port, after the last one has ended; with more settings for this one alone."""
        self.child = self._new(more)
        await self.start()

    async def stop(self) -> int:
        await self.child.stop()
        return await self.child.wait()

    async def until(
        self, path: str, holds: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE
    ) -> dict[str, Any]:
        """Asks again and again until the answer is as wanted; fails with the last answer."""
        body: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    response = await self.http.get(path)
                    body = response.json()
                    if holds(body):
                        return body
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{path} after {seconds} s: {json.dumps(body, indent=1)}") from None

    async def ready(self, agent_id: str = "ceo") -> None:
        await self.until(f"agents/{agent_id}/status", lambda body: body.get("status") == "running")

    async def ask(self, agent_id: str, message: str, **more: Any) -> dict[str, Any]:
        """The body of an answer that came in time."""
        response = await self.http.post(f"agents/{agent_id}", json={"message": message, **more})
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


class Client:
    """Another application on the bus: sends events, receives replies."""

    def __init__(self, connection_string: str) -> None:
        self.bus = ServiceBusClient.from_connection_string(connection_string)
        self._senders: dict[str, ServiceBusSender] = {}
        self._replies: ServiceBusReceiver | None = None

    async def send(self, entity: str, body: object, **properties: Any) -> None:
        if entity not in self._senders:
            self._senders[entity] = self.bus.get_queue_sender(entity)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self._senders[entity].send_messages(ServiceBusMessage(data, **properties))

    async def receive(self, queue: str = REPLIES, seconds: float = PATIENCE) -> ServiceBusReceivedMessage:
        """The next message, completed."""
        async with self._receiver(queue) as receiver:
            messages = await receiver.receive_messages(1, max_wait_time=seconds)
            assert messages, f"no message on {queue} within {seconds} s"
            await receiver.complete_message(messages[0])
        return messages[0]

    async def empty(self, queue: str) -> None:
        """Throws away what lies in a queue."""
        async with self._receiver(queue) as receiver:
            # What lies there is looked at: however long it takes, and without asking for messages that are not there.
            while await receiver.peek_messages(1, sequence_number=1):
                for message in await receiver.receive_messages(100, max_wait_time=5):
                    await receiver.complete_message(message)

    async def nothing(self, queue: str = REPLIES, seconds: float = 1.0) -> None:
        """No message comes."""
        await asyncio.sleep(seconds)
        async with self._receiver(queue) as receiver:
            messages = await receiver.peek_messages(1, sequence_number=1)
        assert not messages, f"unexpected on {queue}: {messages[0]}"

    async def handled(self, topic: str, subscription: str) -> None:
        """Returns when nothing is left in a subscription: no message waits there, and none is in work.

        A process that is killed over a message leaves it locked for as long as the broker locks messages.
        """
        async with self.bus.get_subscription_receiver(topic, subscription) as receiver:
            while await receiver.peek_messages(1, sequence_number=1):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def _receiver(self, queue: str) -> AsyncIterator[ServiceBusReceiver]:
        """An open receiver. Only that of the replies stays open: nobody else wants them.

        One that has waited in vain has still asked the broker for messages. They would be locked for it, although
        it does not look at them, and an operator's command would not get them.
        """
        if queue != REPLIES:
            async with self.bus.get_queue_receiver(queue) as receiver:
                yield receiver
            return
        if self._replies is None:
            # Entered, because the SDK takes the waiting time as that of opening the link, too.
            self._replies = await self.bus.get_queue_receiver(queue).__aenter__()
        yield self._replies

    async def close(self) -> None:
        for sender in self._senders.values():
            await sender.close()
        if self._replies is not None:
            await self._replies.close()
        await self.bus.close()


class World:
    """A running stack with one app and one client."""

    def __init__(self, stack: Stack, app: App, client: Client, state: Path) -> None:
        self.stack = stack
        self.app = app
        self.client = client
        self.state = state

    def part(self, name: str) -> Any:
        """A part of the stack by a piece of its name: Azurite, Service Bus, Foundry."""
        return next(part for part in self.stack.parts if name in part.name)

    async def put_registry(self, name: str, data: bytes | None, container: str = "agent-configs") -> None:
        """Replaces a registry in storage, or removes it, and has it read."""
        connection = self.stack.environment["AZURE_STORAGE_CONNECTION_STRING"]
        async with BlobServiceClient.from_connection_string(connection) as blobs:
            blob = blobs.get_blob_client(container, name)
            if data is None:
                await blob.delete_blob()
            else:
                await blob.upload_blob(data, overwrite=True)
        await self.client.send("agent-commands", {"command": "reload_registry"})


def project_folder(state: Path, agents: Sequence[Mapping[str, object]] = ()) -> Path:
    """A folder with the sample registries, whose ledger lies beside it; with more entries of agents."""
    project = state / "project"
    project.mkdir(parents=True)
    registry = json.loads((ROOT / "agent_registry.json").read_text())
    (project / "agent_registry.json").write_text(json.dumps({**registry, "agents": [*registry["agents"], *agents]}))
    servers = json.loads((ROOT / "mcp_server_registry.json").read_text())
    servers["servers"][0]["env"] = {"COMPANY_LEDGER_DB": str(state / "ledger.db")}
    (project / "mcp_server_registry.json").write_text(json.dumps(servers))
    return project


@asynccontextmanager
async def world(
    state: Path,
    more: Mapping[str, str] | None = None,
    *,
    agents: Sequence[Mapping[str, object]] = (),
    bus_locks: str = "PT1M",
    ready: bool = True,
) -> AsyncIterator[World]:
    """A stack on free ports with its state in a folder, the sample registries, an app and a client.

    Args:
        more: Settings of the app.
        agents: Entries beside those of the sample registry.
        bus_locks: For how long a message stays with a consumer that died (ISO 8601).
        ready: Wait until the agents can take messages.
    """
    project = project_folder(state, agents)
    entities = (ROOT / "emulators/servicebus/default_entities.json").read_text().replace("PT1M", bus_locks)
    (state / "entities.json").write_text(entities)
    settings = StackSettings(
        state_dir=state,
        azurite_dir=ROOT / ".aos",
        blob_port=0,
        queue_port=0,
        table_port=0,
        servicebus_port=0,
        foundry_port=0,
        calendar_port=0,
        servicebus_config=state / "entities.json",
    )
    async with Stack(settings, project=project) as stack:
        app = App({**stack.environment, **(more or {})}, project)
        client = Client(stack.environment["AZURE_SERVICE_BUS_CONNECTION_STRING"])
        try:
            await app.start()
            if ready:
                await app.ready()
            yield World(stack, app, client, state)
        finally:
            await client.close()
            await app.stop()
            await app.http.aclose()
