"""Every message, every reply of a function and every tick reaches AOS alike on Azure Functions and on ASGI."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.storage.queue.aio import QueueClient

from emulators.azurite import Azurite
from emulators.servicebus import ServiceBusEmulator, load_entities
from runtime import AsgiRuntime, Keys, RouteRegistry, RuntimeConfig, TopicRoute
from tests.conformance.triggers_app.recorder import OUTPUT_QUEUE, Recorder, build_registry
from tests.functions_worker import FunctionsWorker

APP = Path(__file__).parent / "triggers_app"
ENTITIES = Path(__file__).parents[2] / "emulators/servicebus/default_entities.json"
REGISTRY = build_registry()

BODY = json.dumps({"text": "grüße"}, ensure_ascii=False).encode()
SENT: dict[str, Any] = {
    "message_id": "m-1",
    "correlation_id": "c-1",
    "reply_to": "businessinfinity-responses",
    "reply_to_session_id": "s-1",
    "session_id": "s-2",
    "application_properties": {"aos-replay": 2},
}
RECEIVED = {
    "MessageId": "m-1",
    "CorrelationId": "c-1",
    "ReplyTo": "businessinfinity-responses",
    "ReplyToSessionId": "s-1",
    "SessionId": "s-2",
    "ApplicationProperties": {"aos-replay": 2},
    "EnqueuedTimeUtc": "2026-01-02T03:04:05Z",
}

Told = list[Sequence[object]]


class Asgi:
    """The ASGI runtime with its consumers and timers, before a real broker and storage account."""

    def __init__(self, runtime: AsgiRuntime, bus: ServiceBusClient, storage: str) -> None:
        self._runtime = runtime
        self._bus = bus
        self._storage = storage

    async def message(self, entity: str) -> object:
        async with self._bus.get_queue_sender(entity) as sender:
            return await self._next(sender.send_messages(ServiceBusMessage(BODY, **SENT)))

    async def reply(self, queue: str) -> tuple[str, object]:
        async with QueueClient.from_connection_string(self._storage, queue) as client:
            sent = await client.send_message(base64.b64encode(BODY).decode())
            return sent.id, await self._next(asyncio.sleep(0))

    async def tick(self, name: str) -> object:
        (timer,) = [timer for timer in self._runtime._timers if timer._route.name == name]
        return await self._next(timer._tick(datetime.now(UTC)))

    async def _next(self, cause: Any) -> object:
        """What the application is told because of this, and nothing else."""
        told = self._told
        told.clear()
        await cause
        async with asyncio.timeout(20):
            while not told:  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.02)
        (one,) = told
        return one

    @property
    def _told(self) -> Told:
        recorder = self._runtime.app_instance
        assert isinstance(recorder, Recorder)
        told: Told = recorder.told  # type: ignore[assignment]  # lists are sequences
        return told


def _without_clock() -> RouteRegistry:
    """The routes, with timers that are due on a leap day only: a tick by the clock would come between the others."""
    registry = build_registry()
    for timer in registry.timer_routes:
        registry.unregister(timer.name)
        registry.register_timer(timer.name, "0 0 0 29 2 *", timer.handler)
    return registry


@pytest_asyncio.fixture(scope="module")
async def asgi(azurite: Azurite) -> AsyncIterator[Asgi]:
    async with ServiceBusEmulator(load_entities(json.loads(ENTITIES.read_text("utf-8")))) as broker:
        settings = {
            "AZURE_SERVICE_BUS_CONNECTION_STRING": broker.connection_string,
            "AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string,
        }
        runtime = AsgiRuntime(RuntimeConfig(), _without_clock(), Recorder, keys=Keys(), settings=settings)
        async with (
            runtime.app.router.lifespan_context(runtime.app),
            ServiceBusClient.from_connection_string(broker.connection_string) as bus,
        ):
            yield Asgi(runtime, bus, azurite.connection_string)


@pytest_asyncio.fixture(scope="module")
async def worker() -> AsyncIterator[FunctionsWorker]:
    async with FunctionsWorker(APP) as running:
        yield running


async def last(worker: FunctionsWorker) -> object:
    _, _, body = await worker.invoke_http("told")
    return json.loads(body)[-1]


@pytest.mark.parametrize("route", REGISTRY.bus_routes, ids=lambda route: route.name)
async def test_a_message_is_the_same(asgi: Asgi, worker: FunctionsWorker, route: Any) -> None:
    ours = await asgi.message(route.topic if isinstance(route, TopicRoute) else route.queue)
    await worker.invoke_service_bus(route.name, BODY, RECEIVED)
    assert ours == await last(worker)
    assert isinstance(ours, list)
    assert ours[0] == ("mcp" if route.name in ("on_mcp_request", "on_mcp_command") else "intake")
    assert (ours[1]["body"], ours[1]["message_id"], ours[1]["replay"]) == (BODY.decode(), "m-1", 2)


@pytest.mark.parametrize("route", REGISTRY.storage_routes, ids=lambda route: route.name)
async def test_a_reply_of_a_function_is_the_same(asgi: Asgi, worker: FunctionsWorker, route: Any) -> None:
    message_id, ours = await asgi.reply(route.queue)
    await worker.invoke_storage_queue(route.name, BODY, {"Id": message_id})
    assert ours == await last(worker) == ["functions", OUTPUT_QUEUE, BODY.decode(), message_id]


@pytest.mark.parametrize("route", REGISTRY.timer_routes, ids=lambda route: route.name)
async def test_a_tick_is_the_same(asgi: Asgi, worker: FunctionsWorker, route: Any) -> None:
    ours = await asgi.tick(route.name)
    await worker.invoke_timer(route.name)
    assert ours == await last(worker)


def test_every_trigger_is_shown() -> None:
    assert {route.name for route in REGISTRY.bus_routes} == {
        *("on_agent_event", "on_mcp_response", "on_agent_command", "on_aos_request"),
        *("on_mcp_request", "on_mcp_command"),
    }
    assert {route.name for route in REGISTRY.storage_routes} == {f"on_reply_{OUTPUT_QUEUE}"}
    assert {route.name for route in REGISTRY.timer_routes} == {"sweep", "reconcile", "purge", "schedules"}
