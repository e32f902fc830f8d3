"""The journal in SQLite: a new broker on the same file goes on where the old one was."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from emulators.servicebus import ServiceBusEmulator, StoreError, codec, load_entities
from emulators.servicebus.broker import Broker
from emulators.servicebus.codec import Symbol
from emulators.servicebus.message import DELIVERY_ANNOTATIONS, HEADER, MESSAGE_ANNOTATIONS, Message, State
from emulators.servicebus.message_queue import Outcome
from emulators.servicebus.store import Store
from tests.emulators.servicebus.wire import Clock, Json, Peer, Taker, body_of, broker, encoded, layout, message

QUEUES: Json = {"q": {"RequiresDuplicateDetection": True}, "s": {"RequiresSession": True}}
TOPICS: Json = {"t": {"Subscriptions": [{"Name": "sub"}]}}


def opened(path: Path, clock: Clock) -> tuple[Store, Broker]:
    store = Store(path)
    made = broker(clock, QUEUES, TOPICS, journal=store)
    try:
        store.restore(made)
    except StoreError:
        store.close()
        raise
    return store, made


def test_everything_comes_back(tmp_path: Path) -> None:
    clock = Clock()
    store, before = opened(tmp_path / "bus.db", clock)
    q, s = before.destination("q"), before.destination("s")
    due = clock.now + 5000
    q.publish([message(str(n).encode(), message_id=f"m{n}", application={"n": n}) for n in range(5)])
    q.publish([message(b"later", due_ms=due), message(b"short", ttl_ms=1000)])
    before.destination("t").publish([message(b"copy"), message(b"soon", due_ms=due)])
    s.publish([message(b"in session", session_id="one")])
    s.set_session_state("one", b"state")
    s.set_session_state("two", b"x")
    s.set_session_state("two", None)
    taker = Taker()
    q.attach(taker)
    q.pump()
    outcomes = [Outcome.COMPLETE, Outcome.ABANDON, Outcome.DEFER, Outcome.DEAD_LETTER]
    for outcome in outcomes:
        q.settle(taker.pop()[1], outcome, "why" if outcome is Outcome.DEAD_LETTER else None)
    store.commit()
    store.close()

    store, after = opened(tmp_path / "bus.db", clock)
    q, s = after.destination("q"), after.destination("s")
    found = {body_of(entry): entry for entry in q.peek(0)}
    assert list(found) == [b"1", b"2", b"4", b"later", b"short"]
    assert (found[b"1"].delivery_count, found[b"1"].state) == (1, State.ACTIVE)
    assert (found[b"2"].delivery_count, found[b"2"].state) == (1, State.DEFERRED)
    assert (found[b"later"].state, found[b"later"].due_ms) == (State.SCHEDULED, due)
    assert found[b"4"].message.application_properties() == {"n": 4}
    (dead,) = after.source("q/$DeadLetterQueue").peek(0)
    assert (body_of(dead), dead.message.application_properties()["DeadLetterReason"]) == (b"3", "why")
    assert [body_of(entry) for entry in after.source("t/Subscriptions/sub").peek(0)] == [b"copy"]
    assert s.session_state("one") == b"state"
    assert s.session_ids() == ["one"]
    assert q.publish([message(message_id="m0")]) == [1]
    assert q.publish([message(b"new")])[0] > 7
    clock.now = due
    after.tick()
    assert [body_of(entry) for entry in q.peek(0)] == [b"1", b"2", b"4", b"new", b"later"]
    assert [body_of(entry) for entry in after.source("t/Subscriptions/sub").peek(0)] == [b"copy", b"soon"]
    store.close()


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    clock = Clock()
    store, before = opened(tmp_path / "bus.db", clock)
    before.destination("q").publish([message(b"1")])
    store.commit()
    before.destination("q").publish([message(b"2")])
    store.close()
    store, after = opened(tmp_path / "bus.db", clock)
    assert [body_of(entry) for entry in after.source("q").peek(0)] == [b"1"]
    store.close()


def test_ids_leave_the_file_with_the_window(tmp_path: Path) -> None:
    clock = Clock()
    store, before = opened(tmp_path / "bus.db", clock)
    before.destination("q").publish([message(message_id="a")])
    clock.now += 600_000
    before.destination("q").publish([message(message_id="b")])
    store.commit()
    rows = store._connection.execute("SELECT message_id FROM duplicate").fetchall()
    assert rows == [("b",)]
    store.close()


def test_messages_of_an_entity_that_is_gone_stay_in_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    store, before = opened(tmp_path / "bus.db", clock)
    before.destination("q").publish([message(b"kept")])
    store.commit()
    store.close()
    store = Store(tmp_path / "bus.db")
    store.restore(broker(clock, {"other": {}}))
    assert "'q' is in the database but not in the configuration" in caplog.text
    store.close()
    store, after = opened(tmp_path / "bus.db", clock)
    assert [body_of(entry) for entry in after.source("q").peek(0)] == [b"kept"]
    store.close()


def test_files_that_are_no_use(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "text")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "no" / "folder")
    with sqlite3.connect(tmp_path / "newer") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="format 99"):
        Store(tmp_path / "newer")


@pytest.mark.parametrize(
    "content",
    [
        codec.composite(HEADER, []),
        codec.section(DELIVERY_ANNOTATIONS, codec.encoded_map(codec.encode(Symbol("a")) + codec.TRUE, 1)),
        codec.section(MESSAGE_ANNOTATIONS, codec.encoded_map(codec.encode(Symbol("x-opt-lock-token")) + codec.TRUE, 1)),
    ],
)
def test_a_message_without_content_comes_back(tmp_path: Path, content: bytes) -> None:
    store, before = opened(tmp_path / "bus.db", Clock())
    before.destination("q").publish([Message.parse(content), message(b"next")])
    store.commit()
    store.close()
    store, after = opened(tmp_path / "bus.db", Clock())
    assert [entry.sequence_number for entry in after.source("q").peek(0)] == [1, 2]
    store.close()


def test_a_damaged_message_is_reported(tmp_path: Path) -> None:
    store, before = opened(tmp_path / "bus.db", Clock())
    before.destination("q").publish([message()])
    store.commit()
    store._connection.execute("UPDATE message SET content = x'00'")
    store.close()
    with pytest.raises(StoreError, match="is damaged"):
        opened(tmp_path / "bus.db", Clock())


def test_two_brokers_do_not_share_a_file(tmp_path: Path) -> None:
    store, _ = opened(tmp_path / "bus.db", Clock())
    with pytest.raises(StoreError, match="locked"):
        Store(tmp_path / "bus.db")
    store.close()


async def test_nothing_is_acknowledged_that_could_not_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceBusEmulator(load_entities(layout({"q": {}})), db=tmp_path / "bus.db") as bus:
        peer = await Peer.opened(bus.port)
        await peer.attach(0, "q", receiver=False)
        store = bus._store
        assert store is not None
        store._connection.execute("DROP TABLE message")
        await peer.transfer(0, 0, encoded())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await peer.frame()
        async with asyncio.timeout(30):
            await bus.wait_failed()
        assert isinstance(bus.failure, sqlite3.OperationalError)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await Peer.opened(bus.port)
        await peer.close()
    assert "its database cannot be written" in caplog.text
