from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient
from typer.testing import CliRunner

import aos.dead_letters
from aos.__main__ import cli
from aos.config import load_settings
from aos.dead_letters import DeadLetters, UnknownLetter, letter_filter
from aos.errors import BusUnavailable
from aos.messaging.bus import Bus, Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.replies import parked, undeliverable
from emulators.servicebus import ServiceBusEmulator, load_entities

HERE = ["aos-poison"]
LONG = 30.0
"""Seconds to wait for a message that is there."""
SHORT = {"Name": "aos-poison", "Properties": {"LockDuration": "PT1S"}}
MORE: dict[str, str | int] = {"aos-operation": "op_1", "aos-replay": 3}


@pytest.fixture(scope="module")
async def emulator() -> AsyncIterator[ServiceBusEmulator]:
    async with ServiceBusEmulator(load_entities()) as running:
        yield running


@pytest.fixture(scope="module")
async def bus(emulator: ServiceBusEmulator) -> AsyncIterator[Bus]:
    bus = Bus(load_settings({"AZURE_SERVICE_BUS_CONNECTION_STRING": emulator.connection_string}))
    yield bus
    await bus.close()


@pytest.fixture
async def letters(emulator: ServiceBusEmulator, bus: Bus) -> AsyncIterator[DeadLetters]:
    yield DeadLetters(bus, ClaimCheck(None))
    while left := list(emulator.broker.source("aos-poison").peek(0)):
        await drained(bus.client(), "aos-poison", len(left))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be received is waited for, however slow the machine is; see `no_more`."""
    monkeypatch.setattr(aos.dead_letters, "PATIENCE", LONG)


def no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing comes that could be received, and nobody need wait for it."""
    monkeypatch.setattr(aos.dead_letters, "PATIENCE", 0.2)


async def drained(client: ServiceBusClient, queue: str, count: int) -> list[ServiceBusReceivedMessage]:
    """The messages of a queue; waits until there are so many."""
    found: list[ServiceBusReceivedMessage] = []
    async with client.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        while page := await receiver.receive_messages(10, max_wait_time=LONG if len(found) < count else 0.2):
            found += page
    return found


def park(message_id: str, source: str = "agent-events", **more: str | int) -> Outbound:
    return parked(b'{"agent_id": "ceo"}', message_id, source, "Sad", f"It is sad: {message_id}.", more)


def command_of(message: ServiceBusReceivedMessage) -> Mapping[str, object]:
    body = json.loads(str(message))
    assert body["command"] == "redeliver"
    params: Mapping[str, object] = body["params"]
    return params


async def test_what_is_parked_is_listed_and_shown(bus: Bus, letters: DeadLetters) -> None:
    await bus.send([park("m1"), park("m2", "mcp-requests", **MORE)])
    first, second = await letters.letters(10, HERE)
    assert first.id.startswith("aos-poison:")
    assert (first.message_id, first.source, first.reason, first.attempt) == ("m1", "agent-events", "Sad", 1)
    assert first.description == "It is sad: m1."
    assert (second.operation_id, second.attempt, second.source) == ("op_1", 3, "mcp-requests")
    assert await letters.show(second.id) == second
    assert await letters.letters(1, HERE) == [first]


async def test_one_is_replayed_and_the_others_stay(bus: Bus, letters: DeadLetters) -> None:
    await bus.send([park("m1"), park("m2"), park("m3")])
    listed = await letters.letters(10, HERE)
    wanted, places = letter_filter([listed[1].id], None)
    replayed = await letters.replay(wanted, places, 100)
    assert [letter.id for letter in replayed.sent] == [listed[1].id]
    assert replayed.held == ()
    assert [letter.message_id for letter in await letters.letters(10, HERE)] == ["m1", "m3"]
    (message,) = await drained(bus.client(), "agent-commands", 1)
    assert message.message_id == "m2.replay2"
    assert (message.application_properties or {})[b"aos-replay"] == 2
    params = command_of(message)
    assert (params["entity"], params["message_id"], params["replay"]) == ("agent-events", "m2", 2)
    assert base64.b64decode(str(params["body"])) == b'{"agent_id": "ceo"}'
    with pytest.raises(UnknownLetter):
        await letters.show(listed[1].id)


async def test_a_letter_that_another_receiver_holds_is_named(
    bus: Bus, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.send([park("m1"), park("m2")])
    send = bus.send

    async def last(messages: Sequence[Outbound]) -> None:
        await send(messages)
        no_more(monkeypatch)

    async with bus.client().get_queue_receiver("aos-poison") as other:
        (held,) = await other.receive_messages(1, max_wait_time=LONG)
        with monkeypatch.context() as patch:
            patch.setattr(bus, "send", last)
            replayed = await letters.replay(lambda letter: True, HERE, 100)
        assert [letter.message_id for letter in replayed.sent] == ["m2"]
        assert [letter.message_id for letter in replayed.held] == [held.message_id] == ["m1"]
        await other.abandon_message(held)
    monkeypatch.setattr(aos.dead_letters, "PATIENCE", LONG)
    again = await letters.replay(lambda letter: True, HERE, 100)
    assert [letter.message_id for letter in again.sent] == ["m1"]
    assert again.held == ()
    commands = await drained(bus.client(), "agent-commands", 2)
    assert [message.message_id for message in commands] == ["m2.replay2", "m1.replay2"]


async def test_a_replay_that_outlasts_the_locks_of_others_says_what_it_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [SHORT, {"Name": "agent-commands"}]}]}}
    async with ServiceBusEmulator(load_entities(config)) as emulator:
        bus = Bus(load_settings({"AZURE_SERVICE_BUS_CONNECTION_STRING": emulator.connection_string}))
        letters = DeadLetters(bus, ClaimCheck(None))
        await bus.send([park("m1"), park("m2")])
        send = bus.send

        async def slow(messages: Sequence[Outbound]) -> None:
            monkeypatch.setattr(bus, "send", send)
            # Another receiver gets one when the locks are over.
            async with bus.client().get_queue_receiver("aos-poison") as other:
                (again,) = await other.receive_messages(1, max_wait_time=LONG)
                await other.abandon_message(again)
            await send(messages)

        monkeypatch.setattr(bus, "send", slow)
        replayed = await letters.replay(lambda letter: letter.message_id == "m2", HERE, 100)
        assert [letter.message_id for letter in replayed.sent] == ["m2"]
        assert {message.message_id for message in await drained(bus.client(), "agent-commands", 1)} == {"m2.replay2"}
        assert [letter.message_id for letter in await letters.letters(10, HERE)] == ["m1"]
        await bus.close()


async def test_where_letters_are_sent_again(bus: Bus, letters: DeadLetters) -> None:
    sources = ("mcp-requests", "mcp-server-commands", "businessinfinity-responses")
    await bus.send([park(source, source) for source in sources])
    assert len((await letters.replay(lambda letter: True, HERE, 100)).sent) == 3
    commands, replies = await asyncio.gather(
        drained(bus.client(), "mcp-server-commands", 2), drained(bus.client(), "businessinfinity-responses", 1)
    )
    assert {message.message_id for message in commands} == {"mcp-requests.replay2", "mcp-server-commands"}
    assert [message.message_id for message in replies] == ["businessinfinity-responses"]
    assert {(message.application_properties or {})[b"aos-replay"] for message in commands} == {2}
    assert await letters.letters(10, HERE) == []


async def test_a_letter_that_cannot_be_sent_holds_no_other_up(bus: Bus, letters: DeadLetters) -> None:
    await bus.send([park("m1", "gone-responses"), park("m2", ""), park("m3")])
    replayed = await letters.replay(lambda letter: True, HERE, 100)
    assert [letter.message_id for letter in replayed.sent] == ["m3"]
    assert [letter.message_id for letter, _ in replayed.refused] == ["m1", "m2"]
    assert "no queue or topic 'gone-responses'" in replayed.refused[0][1]
    assert "where it came from" in replayed.refused[1][1]
    assert replayed.held == ()
    assert sorted(letter.message_id for letter in await letters.letters(10, HERE)) == ["m1", "m2"]
    (command,) = await drained(bus.client(), "agent-commands", 1)
    assert command.message_id == "m3.replay2"


async def test_a_queue_that_is_full_holds_no_letter_to_others_up(
    bus: Bus, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.send([park("m1"), park("m2", "businessinfinity-responses"), park("m3", "businessinfinity-responses")])
    await bus.send([park("m4")])
    send, tried = bus.send, 0

    async def full(messages: list[Outbound]) -> None:
        nonlocal tried
        if messages[0].entity == "businessinfinity-responses":
            tried += 1
            raise BusUnavailable("The quota of the queue has been exceeded.")
        await send(messages)

    with monkeypatch.context() as patch:
        patch.setattr(bus, "send", full)
        replayed = await letters.replay(lambda letter: True, HERE, 100)
    assert [letter.message_id for letter in replayed.sent] == ["m1", "m4"]
    quota = "The quota of the queue has been exceeded."
    assert [(letter.message_id, why) for letter, why in replayed.refused] == [("m2", quota), ("m3", quota)]
    assert tried == 1, "each try takes seconds, and the letters are locked for a minute"
    assert len((await letters.replay(lambda letter: True, HERE, 100)).sent) == 2
    await drained(bus.client(), "agent-commands", 2)
    await drained(bus.client(), "businessinfinity-responses", 2)


async def test_a_reply_that_is_sent_on_is_as_it_was(bus: Bus, letters: DeadLetters) -> None:
    reply = Outbound("businessinfinity-responses", b"{}", "r1", correlation_id="theirs", session_id="s")
    await bus.send([undeliverable(reply, "there was no such queue")])
    assert len((await letters.replay(lambda letter: True, HERE, 100)).sent) == 1
    (message,) = await drained(bus.client(), "businessinfinity-responses", 1)
    assert (message.message_id, message.correlation_id, message.session_id) == ("r1", "theirs", "s")


async def test_the_brokers_own_dead_letters_are_replayed_to_the_role(bus: Bus, letters: DeadLetters) -> None:
    client = bus.client()
    async with client.get_queue_sender("agent-events") as sender:
        await sender.send_messages(ServiceBusMessage(b"{}", message_id="m1", reply_to="r", session_id="s"))
    async with client.get_subscription_receiver("agent-events", "realm-agents") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=LONG)
        await receiver.dead_letter_message(message, reason="MaxDeliveryCountExceeded", error_description="Ten times.")
    (letter,) = await letters.letters(10, ["agent-events.dead"])
    assert letter.id.startswith("agent-events.dead:")
    assert (letter.source, letter.reason) == ("agent-events", "MaxDeliveryCountExceeded")
    assert (letter.reply_to, letter.session_id) == ("r", "s")
    wanted, _ = letter_filter([], "MaxDeliveryCountExceeded")
    await letters.replay(wanted, ["agent-events.dead"], 100)
    (again,) = await drained(client, "agent-commands", 1)
    params = command_of(again)
    assert (params["message_id"], params["reply_to"], params["session_id"]) == ("m1", "r", "s")
    assert await letters.letters(10, ["agent-events.dead"]) == []


@pytest.mark.parametrize("letter_id", ["", "aos-poison", "aos-poison:x", "elsewhere:1", "aos-poison:999999"])
async def test_a_letter_that_is_none(letters: DeadLetters, letter_id: str) -> None:
    with pytest.raises(UnknownLetter):
        await letters.show(letter_id)


def test_what_is_to_be_replayed() -> None:
    with pytest.raises(UnknownLetter):
        letter_filter(["elsewhere:1"], None)
    _, places = letter_filter(["aos-poison:1", "aos-poison:2"], None)
    assert places == ["aos-poison"]


async def test_the_command_line(
    emulator: ServiceBusEmulator, bus: Bus, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_SERVICE_BUS_CONNECTION_STRING", emulator.connection_string)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=c2VjcmV0")
    monkeypatch.setenv("AZURE_AI_API_KEY", "none")
    await bus.send([park("m[/1]")])
    (letter,) = await letters.letters(10, HERE)

    async def said(*arguments: str, code: int = 0) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["dead-letters", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    listed = await said("list")
    assert letter.id in listed
    assert "It is sad: m[/1]." in listed
    shown = await said("show", letter.id)
    assert "reason: Sad" in shown
    assert '"agent_id": "ceo"' in shown
    await said("replay", code=2)
    await said("replay", letter.id, "--all", code=2)
    assert "no id of a dead letter" in await said("replay", "nothing", code=2)
    assert "Not there: aos-poison:999999" in await said("replay", "aos-poison:999999", code=1)
    async with bus.client().get_queue_receiver("aos-poison") as other:
        (held,) = await other.receive_messages(1, max_wait_time=LONG)
        with monkeypatch.context() as patch:
            no_more(patch)
            refused = await said("replay", letter.id, code=1)
        assert "0 replayed." in refused
        assert f"{letter.id} m[/1]: another receiver holds it" in refused
        await other.abandon_message(held)
    assert "1 replayed." in await said("replay", letter.id)
    assert "No dead letters." in await said("list")


async def test_a_namespace_that_does_not_answer_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_SERVICE_BUS_CONNECTION_STRING", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["dead-letters", "list"])
    assert result.exit_code == 2
    assert "AZURE_SERVICE_BUS_CONNECTION_STRING is not set" in result.output
