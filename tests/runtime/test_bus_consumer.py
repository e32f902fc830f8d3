"""Consumers against a broker that speaks AMQP to the real SDK."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.amqp import AmqpAnnotatedMessage

from emulators.ports import settle
from emulators.servicebus import ServiceBusEmulator, load_entities
from runtime import AsgiRuntime, AuthLevel, BusMessage, Keys, Request, RouteRegistry, RuntimeConfig, bus_consumer
from runtime.bus_connections import BusConnections
from runtime.bus_messages import from_servicebus
from runtime.bus_sessions import SessionConsumer
from runtime.lifecycle import Initializer

QUEUES = [
    ("plain", {}),
    ("retried", {"MaxDeliveryCount": 3}),
    ("drained", {}),
    ("stuck", {}),
    ("limited", {}),
    ("crowded", {}),
    ("renewed", {"LockDuration": "PT10S"}),
    ("short", {"LockDuration": "PT1S"}),
    ("patient", {}),
    ("ordered", {"RequiresSession": True}),
    ("busy", {"RequiresSession": True}),
]
TOPIC = {"Name": "news", "Properties": {}, "Subscriptions": [{"Name": "all", "Properties": {}}]}
ENTITIES = load_entities(
    {
        "UserConfig": {
            "Namespaces": [
                {
                    "Name": "tests",
                    "Queues": [{"Name": name, "Properties": properties} for name, properties in QUEUES],
                    "Topics": [
                        {"Name": "news", "Properties": {}, "Subscriptions": [{"Name": "all", "Properties": {}}]}
                    ],
                }
            ]
        }
    }
)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bus() -> AsyncIterator[ServiceBusEmulator]:
    async with ServiceBusEmulator(ENTITIES) as emulator:
        yield emulator


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(bus: ServiceBusEmulator) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(bus.connection_string) as client:
        yield client


@asynccontextmanager
async def running(
    registry: RouteRegistry, connection_string: str, initializer: Initializer | None = None, **settings: str
) -> AsyncIterator[AsgiRuntime]:
    """A runtime in its lifespan; BUS is its connection setting."""
    everything = {"BUS": connection_string, **settings}
    runtime = AsgiRuntime(RuntimeConfig(), registry, initializer, keys=Keys(function="k"), settings=everything)
    async with runtime.app.router.lifespan_context(runtime.app):
        yield runtime


def port_to_come_back_to() -> int:
    """One that the system gives to no connection in the meantime, neither to that of a client that looks for it."""
    return settle({"BUS": ("the bus", 0)})["BUS"]


async def send(client: ServiceBusClient, queue: str, *messages: str | ServiceBusMessage) -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages([ServiceBusMessage(m) if isinstance(m, str) else m for m in messages])


async def one_by_one(sender: ServiceBusSender, handler: Handler, count: int) -> None:
    """Messages that meet no other one: from the second on, the consumer waits for their handlers."""
    for _ in range(count):
        done = handler.done
        await sender.send_messages(ServiceBusMessage("quick"))
        await until(lambda: handler.done == done + 1)  # noqa: B023 - awaited in its own round


async def stuck(sender: ServiceBusSender, handler: Handler, before: int, body: str) -> None:
    """So many quick messages, then one that stays in its handler."""
    await one_by_one(sender, handler, before)
    handler.gate.clear()
    await sender.send_messages(ServiceBusMessage(body))
    await until(lambda: handler.inside)


async def left_in(
    client: ServiceBusClient, queue: str, sub_queue: ServiceBusSubQueue | None = None
) -> Sequence[ServiceBusReceivedMessage]:
    async with client.get_queue_receiver(queue, sub_queue=sub_queue) as receiver:
        return await receiver.peek_messages(10)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)  # what is awaited is state of the code under test


class Handler:
    """Keeps what it gets; waits at the gate, and raises as long as it is told to."""

    def __init__(self, *, gate_open: bool = True, failures: int = 0) -> None:
        self.seen: list[BusMessage] = []
        self.gate = asyncio.Event()
        self.failures = failures
        self.inside = 0
        self.most_inside = 0
        self.done = 0
        if gate_open:
            self.gate.set()

    async def __call__(self, message: BusMessage) -> None:
        self.seen.append(message)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await self.gate.wait()
            if len(self.seen) <= self.failures:
                raise RuntimeError("not this time")
            self.done += 1
        finally:
            self.inside -= 1


async def test_a_message_is_handed_over_whole_and_completed(bus: ServiceBusEmulator, client: ServiceBusClient) -> None:
    handler, registry = Handler(), RouteRegistry()
    registry.register_topic("news", "all", handler, connection="BUS")
    identifier = UUID(int=5)
    message = ServiceBusMessage(
        b'{"a": 1}',
        message_id="m-1",
        correlation_id="c-1",
        reply_to="answers",
        reply_to_session_id="s-1",
        session_id="s-2",
        subject="greeting",
        content_type="application/json",
        application_properties={"text": "grün", "n": 5, "yes": True, "x": 1.5, "id": identifier},
    )
    async with running(registry, bus.connection_string) as runtime:
        async with client.get_topic_sender("news") as sender:
            await sender.send_messages(message)
        await until(lambda: handler.done)
        state = runtime.bus_states()[0]
        assert (state.name, state.entity, state.connected, state.last_error) == ("news_all", "news/all", True, None)
    got = handler.seen[0]
    assert (got.body, got.entity, got.message_id, got.correlation_id) == (b'{"a": 1}', "news/all", "m-1", "c-1")
    assert (got.reply_to, got.reply_to_session_id, got.session_id) == ("answers", "s-1", "s-2")
    assert (got.subject, got.content_type, got.delivery_count) == ("greeting", "application/json", 1)
    assert got.application_properties == {
        "text": "grün",
        "n": 5,
        "yes": True,
        "x": 1.5,
        "id": identifier,
    }
    assert got.enqueued_time is not None
    assert abs((datetime.now(UTC) - got.enqueued_time).total_seconds()) < 60
    assert got.sequence_number == 1
    async with client.get_subscription_receiver("news", "all") as receiver:
        assert await receiver.peek_messages() == []


async def test_a_handler_that_raises_gets_the_message_again_until_it_is_dead_lettered(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    handler, registry = Handler(failures=99), RouteRegistry()
    registry.register_queue("retried", handler, connection="BUS")
    async with running(registry, bus.connection_string):
        await send(client, "retried", "poison")
        await until(lambda: len(handler.seen) == 3 and not handler.inside)
        dead: Sequence[ServiceBusReceivedMessage] = []
        async with asyncio.timeout(30):
            while not dead:
                dead = await left_in(client, "retried", ServiceBusSubQueue.DEAD_LETTER)
    assert [message.delivery_count for message in handler.seen] == [1, 2, 3]
    assert dead[0].dead_letter_reason == "MaxDeliveryCountExceeded"


# The SDK forgets the socket of a connection that it lost, instead of closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_bus_that_is_down_is_waited_for_and_a_lost_one_found_again(client: ServiceBusClient) -> None:
    handler, registry = Handler(), RouteRegistry()
    registry.register_queue("plain", handler, connection="BUS")
    port = port_to_come_back_to()
    connection_string = ServiceBusEmulator(ENTITIES, port=port).connection_string
    async with running(registry, connection_string) as runtime:
        await until(lambda: runtime.bus_states()[0].last_error)
        down = runtime.bus_states()[0]
        assert (down.connected, down.configured) == (False, True)
        for body in ("first", "second"):
            async with (
                ServiceBusEmulator(ENTITIES, port=port),
                ServiceBusClient.from_connection_string(connection_string) as own,
            ):
                await send(own, "plain", body)
                await until(lambda body=body: [m.body for m in handler.seen][-1:] == [body.encode()])  # type: ignore[misc]
                assert runtime.bus_states()[0].connected
                assert runtime.bus_states()[0].since > down.since
            await until(lambda: not runtime.bus_states()[0].connected)
            assert runtime.bus_states()[0].last_error
    assert [message.body for message in handler.seen] == [b"first", b"second"]
    gc.collect()  # while the warning is expected


async def test_stopping_waits_for_running_handlers_and_takes_nothing_more(
    bus: ServiceBusEmulator, client: ServiceBusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, registry = Handler(gate_open=False), RouteRegistry()
    registry.register_queue("drained", handler, connection="BUS", max_concurrency=1)
    stop = bus_consumer.BusConsumers.stop

    async def stop_while_it_runs(consumers: bus_consumer.BusConsumers) -> None:
        asyncio.get_running_loop().call_later(0.2, handler.gate.set)
        await stop(consumers)

    monkeypatch.setattr(bus_consumer.BusConsumers, "stop", stop_while_it_runs)
    async with running(registry, bus.connection_string):
        await send(client, "drained", "running", "waiting")
        await until(lambda: handler.inside)
    assert (handler.done, handler.inside) == (1, 0)
    left = await left_in(client, "drained")
    assert [str(message) for message in left] == ["waiting"]
    assert left[0].delivery_count == 0


@pytest.mark.parametrize("before", [0, 4])
async def test_a_handler_that_does_not_end_is_cancelled_and_its_message_abandoned(
    bus: ServiceBusEmulator, client: ServiceBusClient, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(bus_consumer.BusConsumers.stop, "__defaults__", (0.2,))
    handler, registry = Handler(), RouteRegistry()
    registry.register_queue("stuck", handler, connection="BUS")
    async with running(registry, bus.connection_string), client.get_queue_sender("stuck") as sender:
        await stuck(sender, handler, before, "endless")
    assert (handler.inside, handler.done) == (0, before)
    async with client.get_queue_receiver("stuck", max_wait_time=30) as receiver:
        (again,) = await receiver.receive_messages()
        assert again.delivery_count == 1  # in the SDK: earlier deliveries
        await receiver.complete_message(again)


async def test_handlers_that_are_cancelled_have_time_to_clean_up(
    bus: ServiceBusEmulator, client: ServiceBusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_consumer.BusConsumers.stop, "__defaults__", (0.1,))
    registry, inside, cleaned = RouteRegistry(), set[bytes](), list[bytes]()

    async def handle(message: BusMessage) -> None:
        inside.add(message.body)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(float(message.body))  # e.g. a request that undoes something
            cleaned.append(message.body)

    registry.register_queue("stuck", handle, connection="BUS")
    async with running(registry, bus.connection_string):
        await send(client, "stuck", "0.2", "0.01")
        await until(lambda: len(inside) == 2)
    assert sorted(cleaned) == [b"0.01", b"0.2"]
    async with client.get_queue_receiver("stuck", max_wait_time=30) as receiver:
        for _ in range(2):
            (again,) = await receiver.receive_messages()
            assert again.delivery_count == 1  # in the SDK: earlier deliveries
            await receiver.complete_message(again)


async def test_no_more_handlers_run_at_once_than_allowed(bus: ServiceBusEmulator, client: ServiceBusClient) -> None:
    handler, registry = Handler(gate_open=False), RouteRegistry()
    registry.register_queue("limited", handler, connection="BUS", max_concurrency=3)
    async with running(registry, bus.connection_string):
        await send(client, "limited", *(str(number) for number in range(9)))
        await until(lambda: handler.inside == 3)
        await asyncio.sleep(0.2)
        assert len(handler.seen) == 3
        handler.gate.set()
        await until(lambda: handler.done == 9)
    assert handler.most_inside == 3
    assert sorted(message.body for message in handler.seen) == [str(number).encode() for number in range(9)]
    assert await left_in(client, "limited") == []


async def test_after_messages_that_came_one_by_one_a_crowd_is_handled_at_once(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    handler, registry = Handler(), RouteRegistry()
    registry.register_queue("crowded", handler, connection="BUS", max_concurrency=8)
    async with running(registry, bus.connection_string), client.get_queue_sender("crowded") as sender:
        for number in range(12):
            await sender.send_messages(ServiceBusMessage(str(number)))
            await until(lambda: handler.done == number + 1)  # noqa: B023 - awaited in its own round
        handler.gate.clear()
        await sender.send_messages([ServiceBusMessage(str(number)) for number in range(12, 20)])
        await until(lambda: handler.inside == 8)
        handler.gate.set()
        await until(lambda: handler.done == 20)
    assert [message.delivery_count for message in handler.seen] == [1] * 20
    assert await left_in(client, "crowded") == []


async def test_a_handler_that_is_slow_once_holds_up_nobody(bus: ServiceBusEmulator, client: ServiceBusClient) -> None:
    handler, registry = Handler(), RouteRegistry()
    registry.register_queue("crowded", handler, connection="BUS", max_concurrency=8)
    async with running(registry, bus.connection_string), client.get_queue_sender("crowded") as sender:
        for _ in range(2):
            await one_by_one(sender, handler, 4)
            handler.gate.clear()
            for inside, body in enumerate(("slow", "next", "last"), 1):
                await sender.send_messages(ServiceBusMessage(body))
                await until(lambda: handler.inside == inside)  # noqa: B023 - awaited in its own round
            handler.gate.set()
            await until(lambda: not handler.inside)
    assert [message.delivery_count for message in handler.seen] == [1] * 14
    assert await left_in(client, "crowded") == []


async def test_what_a_handler_sets_in_its_context_is_not_seen_by_the_next_message(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    class Leaves(Handler):
        async def __call__(self, message: BusMessage) -> None:
            seen.append(tenant.get())
            tenant.set("the one before")
            await asyncio.sleep(0)
            assert tenant.get() == "the one before"
            await super().__call__(message)

    handler, registry = Leaves(), RouteRegistry()
    registry.register_queue("crowded", handler, connection="BUS")
    async with running(registry, bus.connection_string), client.get_queue_sender("crowded") as sender:
        await one_by_one(sender, handler, 9)
    assert seen == ["nobody"] * 9


class Cancelling(Handler):
    """Cancels the task that it is called in, where the message says so."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []
        self.last: asyncio.Task[object] | None = None

    async def __call__(self, message: BusMessage) -> None:
        self.last = asyncio.current_task()
        assert self.last is not None
        self.found.append(self.last.cancelling())
        if message.body == b"cancels":
            self.last.cancel()  # it awaits nothing in which it would notice
        elif message.body == b"survives":
            self.last.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        await super().__call__(message)


async def test_a_handler_that_cancels_its_own_task_harms_no_other_message(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    handler, registry = Cancelling(), RouteRegistry()
    registry.register_queue("crowded", handler, connection="BUS", max_concurrency=8)
    async with running(registry, bus.connection_string), client.get_queue_sender("crowded") as sender:
        await one_by_one(sender, handler, 3)
        for body in ("survives", "next", "next", "next", "cancels", "next"):
            done = handler.done
            await sender.send_messages(ServiceBusMessage(body))
            await until(lambda: handler.done == done + 1)  # noqa: B023 - awaited in its own round
    assert handler.found == [0] * 9
    assert [message.delivery_count for message in handler.seen] == [1] * 9
    assert await left_in(client, "crowded") == []


async def test_a_task_that_is_cancelled_after_its_handler_ended_takes_no_other_handler_with_it(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    handler, registry = Cancelling(), RouteRegistry()
    registry.register_queue("crowded", handler, connection="BUS", max_concurrency=8)
    async with running(registry, bus.connection_string), client.get_queue_sender("crowded") as sender:
        await one_by_one(sender, handler, 7)
        left = handler.last
        handler.gate.clear()
        await sender.send_messages(ServiceBusMessage("slow"))  # the eighth has a task of its own
        await until(lambda: handler.inside)
        assert left is not None
        left.cancel()
        await sender.send_messages(ServiceBusMessage("next"))
        await until(lambda: len(handler.seen) == 9)
        handler.gate.set()
        await until(lambda: not handler.inside)
    assert (handler.done, [message.delivery_count for message in handler.seen]) == (9, [1] * 9)
    assert await left_in(client, "crowded") == []


async def test_an_exception_of_no_usual_kind_costs_a_redelivery_and_nothing_else(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    class Unusual(BaseException):
        pass

    class Raises(Handler):
        async def __call__(self, message: BusMessage) -> None:
            await super().__call__(message)
            if message.body == b"unusual" and message.delivery_count == 1:
                raise Unusual

    handler, registry = Raises(), RouteRegistry()
    registry.register_queue("crowded", handler, connection="BUS")
    async with running(registry, bus.connection_string), client.get_queue_sender("crowded") as sender:
        await one_by_one(sender, handler, 3)
        await sender.send_messages(ServiceBusMessage("unusual"))
        await until(lambda: handler.done == 5)
        await one_by_one(sender, handler, 1)
    assert [message.delivery_count for message in handler.seen] == [1, 1, 1, 1, 2, 1]
    assert await left_in(client, "crowded") == []


@pytest.mark.parametrize("before", [0, 4])
async def test_the_lock_is_renewed_while_the_handler_runs(
    bus: ServiceBusEmulator, client: ServiceBusClient, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    # Of a short lock the SDK lets one half pass by: here it renews when it first looks, long before the lock ends.
    monkeypatch.setattr("azure.servicebus.aio._async_auto_lock_renewer.SHORT_RENEW_SCALING_FACTOR", 2)
    queue, renewed = bus.broker.source("renewed"), list[bytes]()
    renew = queue.renew_lock

    def noted(tokens: Sequence[bytes]) -> list[int]:
        until_ms = renew(tokens)
        renewed.extend(tokens)
        return until_ms

    monkeypatch.setattr(queue, "renew_lock", noted)
    handler, registry = Handler(), RouteRegistry()
    registry.register_queue("renewed", handler, connection="BUS")
    async with running(registry, bus.connection_string), client.get_queue_sender("renewed") as sender:
        await stuck(sender, handler, before, "long")
        await until(lambda: {entry.lock_token for entry in queue.peek(0)} & set(renewed))
        handler.gate.set()
        await until(lambda: handler.done == before + 1)
    assert len(handler.seen) == before + 1
    assert await left_in(client, "renewed") == []


async def test_a_message_whose_lock_was_lost_comes_again(bus: ServiceBusEmulator, client: ServiceBusClient) -> None:
    handler, registry = Handler(gate_open=False), RouteRegistry()
    registry.register_queue("short", handler, connection="BUS", max_concurrency=1)
    async with running(registry, bus.connection_string):
        await send(client, "short", "late")
        await until(lambda: handler.inside)
        await asyncio.sleep(1.2)  # a lock this short expires before the SDK thinks of renewing it
        handler.gate.set()
        # Where the machine stalls for as long as the lock lasts, it comes more than once again.
        await until(lambda: not list(bus.broker.source("short").peek(0)))
    assert handler.done >= 2
    assert [message.delivery_count for message in handler.seen] == list(range(1, handler.done + 1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.parametrize("before", [0, 4])
async def test_a_connection_lost_under_a_handler_costs_a_redelivery_and_nothing_else(
    tmp_path: Path, before: int
) -> None:
    handler, registry = Handler(), RouteRegistry()
    registry.register_queue("plain", handler, connection="BUS")
    database = tmp_path / "bus.db"
    async with ServiceBusEmulator(ENTITIES, port=port_to_come_back_to(), db=database) as first:
        port, connection_string = first.port, first.connection_string
        stack = AsyncExitStack()
        runtime = await stack.enter_async_context(running(registry, connection_string))
        async with (
            ServiceBusClient.from_connection_string(connection_string) as own,
            own.get_queue_sender("plain") as sender,
        ):
            await stuck(sender, handler, before, "precious")
    async with stack:
        await until(lambda: not runtime.bus_states()[0].connected)
        async with ServiceBusEmulator(ENTITIES, port=port, db=database):
            await until(lambda: runtime.bus_states()[0].connected)
            handler.gate.set()  # this one cannot be settled any more: its link is gone
            await until(lambda: handler.done == before + 2)
            async with ServiceBusClient.from_connection_string(connection_string) as own:
                async with asyncio.timeout(30):
                    while await left_in(own, "plain"):
                        continue
    assert [message.body for message in handler.seen[before:]] == [b"precious", b"precious"]
    gc.collect()


async def test_messages_of_a_session_come_one_after_the_other_and_sessions_side_by_side(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    handler, registry = Handler(gate_open=False), RouteRegistry()
    registry.register_queue("ordered", handler, connection="BUS", sessions=True, max_concurrency=2)
    messages = [ServiceBusMessage(f"{session}{number}", session_id=session) for number in range(3) for session in "ab"]
    async with running(registry, bus.connection_string):
        await send(client, "ordered", *messages)
        await until(lambda: handler.inside == 2)
        assert {message.session_id for message in handler.seen} == {"a", "b"}
        handler.gate.set()
        await until(lambda: handler.done == 6)
    for session in "ab":
        bodies = [message.body.decode() for message in handler.seen if message.session_id == session]
        assert bodies == [f"{session}{number}" for number in range(3)]


async def test_a_session_that_always_has_messages_lets_others_have_a_turn(
    bus: ServiceBusEmulator, client: ServiceBusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionConsumer, "hold_seconds", 0.3)
    registry, seen, sent = RouteRegistry(), list[str | None](), asyncio.Event()

    async def handle(message: BusMessage) -> None:
        seen.append(message.session_id)
        await sent.wait()
        await asyncio.sleep(0.05)

    registry.register_queue("busy", handle, connection="BUS", sessions=True, max_concurrency=1)
    await send(client, "busy", *(ServiceBusMessage(str(number), session_id="a") for number in range(100)))
    async with running(registry, bus.connection_string):
        await until(lambda: seen)
        await send(client, "busy", ServiceBusMessage("b", session_id="b"))
        sent.set()
        await until(lambda: "b" in seen)
    assert 0 < seen.count("a") < 100


async def test_nothing_is_received_before_the_application_is_ready(
    bus: ServiceBusEmulator, client: ServiceBusClient
) -> None:
    handler, registry = Handler(), RouteRegistry()
    registry.register_queue("%PATIENT_QUEUE%", handler, connection="BUS")
    attempts: list[float] = []

    async def initialize() -> str:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise RuntimeError("the database is down")
        return "ready"

    await send(client, "patient", "early")
    async with running(registry, bus.connection_string, initialize, PATIENT_QUEUE="patient"):
        await until(lambda: handler.done)
    assert len(attempts) == 3
    assert [(message.delivery_count, message.app) for message in handler.seen] == [(1, "ready")]


async def test_a_missing_setting_is_reported_while_http_is_served() -> None:
    registry = RouteRegistry()
    registry.register_queue("plain", Handler(), connection="OTHER_BUS", required=False)
    registry.register_queue("limited", Handler(), connection="BUS")
    registry.register_queue("%NO_NAME%", Handler(), connection="GOOD_BUS", required=False)

    async def health(request: Request) -> str:
        return request.method

    registry.register("health", health, auth_level=AuthLevel.ANONYMOUS)
    good = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=k;SharedAccessKey=v;UseDevelopmentEmulator=true"
    async with running(registry, "nonsense", GOOD_BUS=good) as runtime:
        await until(lambda: not any(state.configured for state in runtime.bus_states()))
        missing, bad, nameless = runtime.bus_states()
        assert missing.last_error == "neither OTHER_BUS nor OTHER_BUS__fullyQualifiedNamespace is set"
        assert str(bad.last_error).startswith("the setting BUS is not a Service Bus connection string")
        assert nameless.last_error == "the setting NO_NAME is not set"
        transport = httpx2.ASGITransport(runtime.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            assert (await http.get("/api/health")).text == "GET"


async def test_a_namespace_is_reached_with_the_identity_of_the_process() -> None:
    connections = BusConnections(
        {"BUS__fullyQualifiedNamespace": "example.servicebus.windows.net", "BUS__clientId": "client-7"}
    )
    client = connections.client("BUS")
    assert client.fully_qualified_namespace == "example.servicebus.windows.net"
    assert connections.client("BUS") is client
    await connections.close()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (AmqpAnnotatedMessage(value_body="grün"), "grün".encode()),
        (AmqpAnnotatedMessage(value_body={"a": [1, None]}), b'{"a":[1,null]}'),
        (AmqpAnnotatedMessage(sequence_body=[["a", 1], ["b"]]), b'[["a",1],["b"]]'),
        (AmqpAnnotatedMessage(data_body=[b"one ", b"two"]), b"one two"),
    ],
)
async def test_bodies_of_every_amqp_kind_become_bytes(
    bus: ServiceBusEmulator, client: ServiceBusClient, body: AmqpAnnotatedMessage, expected: bytes
) -> None:
    async with client.get_queue_sender("plain") as sender:
        await sender.send_messages(body)
    async with client.get_queue_receiver("plain", max_wait_time=30) as receiver:
        (message,) = await receiver.receive_messages()
        await receiver.complete_message(message)
    assert from_servicebus(message, "plain").body == expected
