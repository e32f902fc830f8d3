"""A message is the same to handlers, through the ASGI consumer from a broker and through a Functions trigger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from emulators.servicebus import ServiceBusEmulator, load_entities
from runtime import AsgiRuntime, RuntimeConfig
from tests.functions_worker import FunctionsWorker
from tests.runtime.conformance_app.routes import KEYS, Recorder, build_registry
from tests.runtime.test_conformance import APP_DIR

ENTITIES = load_entities(
    {
        "UserConfig": {
            "Namespaces": [
                {
                    "Name": "tests",
                    "Queues": [{"Name": "aos-requests", "Properties": {}}],
                    "Topics": [
                        {
                            "Name": "agent-events",
                            "Properties": {},
                            "Subscriptions": [{"Name": "realm-agents", "Properties": {"RequiresSession": True}}],
                        }
                    ],
                }
            ]
        }
    }
)
MESSAGES: list[Mapping[str, Any]] = [
    {"message_id": "m-1"},
    {
        "message_id": "m-2",
        "correlation_id": "c-2",
        "reply_to": "answers",
        "reply_to_session_id": "s-1",
        "subject": "greeting",
        "content_type": "application/json",
        "application_properties": {"traceparent": "00-1-2-03", "n": 5},
    },
]
WIRE_NAMES = {
    "message_id": "MessageId",
    "correlation_id": "CorrelationId",
    "reply_to": "ReplyTo",
    "reply_to_session_id": "ReplyToSessionId",
    "session_id": "SessionId",
    "subject": "Subject",
    "content_type": "ContentType",
    "application_properties": "ApplicationProperties",
}
TRANSPORT = {"EnqueuedTimeUtc": "2026-01-02T03:04:05Z", "SequenceNumber": 12}


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_a_message_is_the_same_to_both(kind: str) -> None:
    messages = [{**message, **({"session_id": "s"} if kind == "topic" else {})} for message in MESSAGES]
    by_asgi = await consumed(kind, messages)
    async with FunctionsWorker(APP_DIR) as worker:
        for message in messages:
            metadata = {WIRE_NAMES[name]: value for name, value in message.items()}
            await worker.invoke_service_bus(f"from_{kind}", b"{}", {**TRANSPORT, **metadata})
        _, _, body = await worker.invoke_http("get_events")
    assert by_asgi == json.loads(body)
    assert [event["message_id"] for event in by_asgi] == ["m-1", "m-2"]


async def consumed(kind: str, messages: list[dict[str, Any]]) -> list[dict[str, object]]:
    recorder = Recorder()
    config = RuntimeConfig(app_name="conformance")
    async with ServiceBusEmulator(ENTITIES) as bus:
        settings = {"BUS": bus.connection_string}
        runtime = AsgiRuntime(config, build_registry(), recorder.initialize, keys=KEYS, settings=settings)
        async with (
            runtime.app.router.lifespan_context(runtime.app),
            ServiceBusClient.from_connection_string(bus.connection_string) as client,
            client.get_topic_sender("agent-events")
            if kind == "topic"
            else client.get_queue_sender("aos-requests") as sender,
        ):
            for number, message in enumerate(messages, 1):
                await sender.send_messages(ServiceBusMessage(b"{}", **message))
                async with asyncio.timeout(60):
                    while len(handled(recorder)) < number:  # noqa: ASYNC110  # no event to wait for
                        await asyncio.sleep(0.02)
    return handled(recorder)


def handled(recorder: Recorder) -> list[dict[str, object]]:
    """The messages: at every fifth minute the application's timer ticks in between."""
    return [event for event in recorder.events if "timer" not in event]
