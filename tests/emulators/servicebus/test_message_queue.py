"""Queue semantics with a clock that the test sets."""

from __future__ import annotations

import pytest

from emulators.servicebus import errors
from emulators.servicebus.errors import AmqpError
from emulators.servicebus.message import State
from emulators.servicebus.message_queue import MessageQueue, Outcome
from emulators.servicebus.sessions import SessionLock, SessionRequest
from tests.emulators.servicebus.wire import Clock, Taker, body_of, broker, message

SECOND = 1000


def queue(clock: Clock, *, max_queue_bytes: int = 1 << 20, **properties: object) -> MessageQueue:
    return broker(clock, {"q": properties}, max_queue_bytes=max_queue_bytes).destination("q")


def dead(found: MessageQueue) -> MessageQueue:
    assert found.dead_letters is not None
    return found.dead_letters


def take(found: MessageQueue, *, room: int = 1000, removes: bool = False, session: SessionLock | None = None) -> Taker:
    taker = Taker(room, removes, session)
    found.attach(taker)
    found.pump()
    return taker


def condition(caught: pytest.ExceptionInfo[AmqpError]) -> str:
    return caught.value.condition


def test_messages_come_in_order_with_their_numbers() -> None:
    q = queue(Clock())
    assert q.publish([message(b"1"), message(b"2")]) == [1, 2]
    assert q.publish([message(b"3")]) == [3]
    taker = take(q)
    assert taker.bodies() == [b"1", b"2", b"3"]
    assert [entry.sequence_number for entry, _, _ in taker.taken] == [1, 2, 3]


def test_completed_messages_are_gone_and_a_token_settles_once() -> None:
    q = queue(Clock())
    q.publish([message()])
    _, token = take(q).pop()
    q.settle(token, Outcome.COMPLETE)
    assert list(q.peek(0)) == []
    assert q.stored_bytes == 0
    with pytest.raises(AmqpError) as caught:
        q.settle(token, Outcome.COMPLETE)
    assert condition(caught) == errors.MESSAGE_LOCK_LOST


def test_an_abandoned_message_comes_again_before_later_ones() -> None:
    q = queue(Clock())
    q.publish([message(b"1"), message(b"2")])
    _, token = take(q, room=1).pop()
    q.settle(token, Outcome.ABANDON)
    taker = take(q)
    assert taker.bodies() == [b"1", b"2"]
    assert [entry.delivery_count for entry, _, _ in taker.taken] == [1, 0]


def test_a_released_delivery_does_not_count() -> None:
    q = queue(Clock())
    q.publish([message()])
    taker = take(q)
    q.settle(taker.pop()[1], Outcome.RELEASE)
    q.pump()
    assert taker.pop()[0].delivery_count == 0


def test_the_last_failed_delivery_sends_a_message_to_the_dead_letters() -> None:
    q = queue(Clock(), MaxDeliveryCount=3)
    q.publish([message(b"bad")])
    taker = take(q)
    for _ in range(3):
        q.settle(taker.pop()[1], Outcome.ABANDON)
        q.pump()
    assert taker.taken == []
    (entry,) = dead(q).peek(0)
    assert (body_of(entry), entry.sequence_number, entry.delivery_count) == (b"bad", 1, 3)
    assert entry.message.application_properties()["DeadLetterReason"] == "MaxDeliveryCountExceeded"


def test_dead_letters_have_the_reason_and_stay_until_they_are_completed() -> None:
    q = queue(Clock(), MaxDeliveryCount=1)
    q.publish([message(application={"n": 1})])
    q.settle(take(q).pop()[1], Outcome.DEAD_LETTER, "why", "because")
    dlq = dead(q)
    taker = take(dlq)
    entry, token = taker.pop()
    assert entry.message.application_properties() == {
        "n": 1,
        "DeadLetterReason": "why",
        "DeadLetterErrorDescription": "because",
    }
    dlq.settle(token, Outcome.ABANDON)
    dlq.pump()
    dlq.settle(taker.pop()[1], Outcome.DEAD_LETTER)
    dlq.pump()
    dlq.settle(taker.pop()[1], Outcome.COMPLETE)
    assert q.stored_bytes == 0


def test_receive_and_delete_leaves_nothing() -> None:
    q = queue(Clock())
    q.publish([message(b"1"), message(b"2")])
    taker = take(q, removes=True)
    assert [until for _, _, until in taker.taken] == [None, None]
    assert list(q.peek(0)) == []


def test_an_expired_lock_counts_and_its_token_is_dead() -> None:
    clock = Clock()
    q = queue(clock, LockDuration="PT1S")
    q.publish([message()])
    taker = take(q)
    _, token, until = taker.taken.pop()
    assert until == clock.now + SECOND
    clock.now += SECOND
    with pytest.raises(AmqpError) as caught:
        q.settle(token, Outcome.COMPLETE)
    assert condition(caught) == errors.MESSAGE_LOCK_LOST
    q.tick(clock.now)
    q.pump()
    assert taker.pop()[0].delivery_count == 1


def test_a_renewed_lock_lasts_longer_than_those_after_it() -> None:
    clock = Clock()
    q = queue(clock, LockDuration="PT2S")
    q.publish([message(b"1"), message(b"2")])
    taker = take(q)
    (_, first), (_, second) = taker.pop(), taker.pop()
    clock.now += SECOND
    assert q.renew_lock([first]) == [clock.now + 2 * SECOND]
    clock.now += SECOND
    q.tick(clock.now)
    q.pump()
    assert taker.bodies() == [b"2"]
    q.settle(first, Outcome.COMPLETE)
    with pytest.raises(AmqpError):
        q.renew_lock([second])


def test_deferred_messages_come_by_number_only() -> None:
    clock = Clock()
    q = queue(clock, LockDuration="PT1S")
    q.publish([message(b"later")])
    taker = take(q)
    q.settle(taker.pop()[1], Outcome.DEFER)
    q.pump()
    assert taker.taken == []
    (entry,) = q.deferred([1, 1])
    token, until = q.lock_deferred(entry, None)
    assert until == clock.now + SECOND
    with pytest.raises(AmqpError) as caught:
        q.deferred([1])
    assert condition(caught) == errors.MESSAGE_NOT_FOUND
    clock.now += SECOND
    q.tick(clock.now)
    (entry,) = q.deferred([1])
    assert (entry.state, entry.delivery_count) == (State.DEFERRED, 2)
    assert not q.holds(token)
    q.settle(q.lock_deferred(entry, None)[0], Outcome.COMPLETE)
    with pytest.raises(AmqpError):
        q.deferred([1])


def test_scheduled_messages_wait_and_arrive_as_if_sent_then() -> None:
    clock = Clock()
    q = queue(clock)
    q.publish([message(b"later", due_ms=clock.now + 5 * SECOND, ttl_ms=10 * SECOND), message(b"now")])
    taker = take(q)
    assert taker.bodies() == [b"now"]
    (scheduled, _) = q.peek(0)
    assert (scheduled.state, scheduled.sequence_number) == (State.SCHEDULED, 1)
    clock.now += 5 * SECOND
    q.tick(clock.now)
    q.pump()
    entry = taker.taken[1][0]
    assert (entry.sequence_number, entry.enqueued_ms, entry.state) == (3, clock.now, State.ACTIVE)
    assert entry.expires_ms == clock.now + 10 * SECOND


def test_a_scheduled_message_can_be_cancelled_until_it_is_due() -> None:
    clock = Clock()
    q = queue(clock)
    numbers = q.publish([message(due_ms=clock.now + SECOND), message(due_ms=clock.now + SECOND), message()])
    with pytest.raises(AmqpError) as caught:
        q.cancel_scheduled(numbers)
    assert condition(caught) == errors.MESSAGE_NOT_FOUND
    q.cancel_scheduled(numbers[:2])
    clock.now += SECOND
    q.tick(clock.now)
    assert [entry.sequence_number for entry in q.peek(0)] == [3]


@pytest.mark.parametrize(("dead_letter", "expected"), [(True, ["TTLExpiredException"]), (False, [])])
def test_messages_expire_after_the_shorter_time_to_live(dead_letter: bool, expected: list[str]) -> None:
    clock = Clock()
    q = queue(clock, DefaultMessageTimeToLive="PT10S", DeadLetteringOnMessageExpiration=dead_letter)
    q.publish([message(b"short", ttl_ms=2 * SECOND), message(b"long", ttl_ms=99 * SECOND)])
    assert [entry.ttl_ms for entry in q.peek(0)] == [2 * SECOND, 10 * SECOND]
    clock.now += 2 * SECOND
    q.tick(clock.now)
    assert [body_of(entry) for entry in q.peek(0)] == [b"long"]
    reasons = [entry.message.application_properties()["DeadLetterReason"] for entry in dead(q).peek(0)]
    assert reasons == expected
    clock.now += 8 * SECOND
    assert take(q).taken == []


def test_a_locked_message_expires_when_it_comes_back() -> None:
    clock = Clock()
    q = queue(clock, LockDuration="PT1M")
    q.publish([message(ttl_ms=SECOND)])
    _, token = take(q).pop()
    clock.now += 2 * SECOND
    q.tick(clock.now)
    assert len(list(q.peek(0))) == 1
    q.settle(token, Outcome.RELEASE)
    assert list(q.peek(0)) == []


def test_a_deferred_message_expires() -> None:
    clock = Clock()
    q = queue(clock)
    q.publish([message(ttl_ms=SECOND)])
    q.settle(take(q).pop()[1], Outcome.DEFER)
    clock.now += SECOND
    q.tick(clock.now)
    assert list(q.peek(0)) == []


def test_a_message_that_expired_while_it_was_locked_is_not_deferred_for_ever() -> None:
    clock = Clock()
    q = queue(clock, DeadLetteringOnMessageExpiration=True)
    q.publish([message(ttl_ms=SECOND)])
    _, token = take(q).pop()
    clock.now += SECOND
    q.tick(clock.now)
    q.settle(token, Outcome.DEFER)
    assert list(q.peek(0)) == []
    assert len(list(dead(q).peek(0))) == 1


def test_a_dead_letter_that_is_dead_lettered_again_is_there_once() -> None:
    q = queue(Clock())
    q.publish([message(b"1"), message(b"2")])
    taker = take(q)
    for _ in range(2):
        q.settle(taker.pop()[1], Outcome.DEAD_LETTER)
    dead(q).settle(take(dead(q), room=1).pop()[1], Outcome.DEAD_LETTER)
    assert [body_of(entry) for entry in dead(q).peek(0)] == [b"1", b"2"]


def test_duplicates_within_the_window_are_dropped() -> None:
    clock = Clock()
    q = queue(clock, RequiresDuplicateDetection=True, DuplicateDetectionHistoryTimeWindow="PT20S")
    assert q.publish([message(message_id="a"), message(message_id="b"), message(message_id="a"), message()]) == [
        1,
        2,
        1,
        3,
    ]
    clock.now += 19 * SECOND
    assert q.publish([message(message_id="a")]) == [1]
    clock.now += SECOND
    assert q.publish([message(message_id="a")]) == [4]


def test_receivers_take_turns() -> None:
    q = queue(Clock())
    first, second = take(q), take(q)
    q.publish([message(str(n).encode()) for n in range(6)])
    q.pump()
    assert len(first.taken) == len(second.taken) == 3
    q.detach(first)
    q.publish([message(b"6")])
    q.pump()
    assert len(second.taken) == 4


def test_a_receiver_without_room_does_not_hold_up_another() -> None:
    q = queue(Clock())
    full, free = take(q, room=0), take(q)
    q.publish([message(), message()])
    q.pump()
    assert (len(full.taken), len(free.taken)) == (0, 2)


def test_a_full_queue_refuses_a_batch_as_a_whole() -> None:
    q = queue(Clock(), max_queue_bytes=3000)
    q.publish([message(bytes(1000))])
    with pytest.raises(AmqpError) as caught:
        q.publish([message(bytes(500)), message(bytes(2000))])
    assert condition(caught) == errors.RESOURCE_LIMIT_EXCEEDED
    assert len(list(q.peek(0))) == 1
    q.settle(take(q).pop()[1], Outcome.DEAD_LETTER)
    with pytest.raises(AmqpError):  # dead letters take room as well
        q.publish([message(bytes(2000))])


def test_peek_starts_anywhere_and_sees_everything() -> None:
    q = queue(Clock())
    q.publish([message(str(n).encode()) for n in range(5)])
    q.settle(take(q, room=2).pop()[1], Outcome.COMPLETE)
    assert [entry.sequence_number for entry in q.peek(0)] == [2, 3, 4, 5]
    assert [entry.sequence_number for entry in q.peek(4)] == [4, 5]


def test_memory_follows_what_is_stored() -> None:
    clock = Clock()
    q = queue(clock, DefaultMessageTimeToLive="P1D")
    taker = take(q, room=1 << 30)
    for _ in range(5000):
        q.publish([message()])
        q.pump()
        q.settle(taker.pop()[1], Outcome.COMPLETE)
    assert len(q._log._order) < 2000
    assert len(q._log._expiry) < 2000


@pytest.mark.parametrize("sessions", [False, True])
def test_nothing_is_left_of_messages_that_expire_unread(sessions: bool) -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=sessions)
    for number in range(100):
        q.publish([message(ttl_ms=SECOND, session_id=f"s{number}"), message(ttl_ms=2 * SECOND, session_id="one")])
        clock.now += SECOND
        q.tick(clock.now)
    clock.now += SECOND
    q.tick(clock.now)
    assert (q._ready, q._sessions._ready, q._sessions._available) == ([], {}, {})


def test_nothing_is_left_of_a_session_that_was_read_to_its_end() -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=True)
    q.publish([message(session_id="s")])
    taker, events = accept_next(q, clock)
    q.settle(taker.pop()[1], Outcome.COMPLETE)
    q.detach(taker)
    assert events == ["s"]
    assert q._sessions._ready == {}


# ---- sessions


def accept_next(q: MessageQueue, clock: Clock, wait_ms: int = 5 * SECOND) -> tuple[Taker, list[str]]:
    taker, events = Taker(), []

    def accepted(lock: SessionLock) -> None:
        taker.session = lock
        events.append(lock.session_id)
        q.attach(taker)

    q.accept_next_session(SessionRequest(taker, clock.now + wait_ms, accepted, lambda: events.append("timeout")))
    q.pump()
    q.pump()
    return taker, events


def test_a_session_goes_to_one_receiver_in_order() -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=True)
    q.publish([message(b"a1", session_id="a"), message(b"b1", session_id="b"), message(b"a2", session_id="a")])
    first, events = accept_next(q, clock)
    second, _ = accept_next(q, clock)
    assert events == ["a"]
    assert first.bodies() == [b"a1", b"a2"]
    assert second.bodies() == [b"b1"]
    q.publish([message(b"a3", session_id="a")])
    q.pump()
    assert first.bodies() == [b"a1", b"a2", b"a3"]


def test_a_session_that_is_held_cannot_be_had() -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=True)
    lock = q.accept_session("a", Taker())
    with pytest.raises(AmqpError) as caught:
        q.accept_session("a", Taker())
    assert condition(caught) == errors.SESSION_CANNOT_BE_LOCKED
    clock.now = lock.until_ms
    assert q.accept_session("a", Taker()).session_id == "a"
    owner = lock.owner
    assert isinstance(owner, Taker)
    assert owner.sessions_lost == 1


def test_waiting_for_a_session_ends_with_a_message_or_in_time() -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=True)
    _, late = accept_next(q, clock, SECOND)
    clock.now += SECOND
    q.tick(clock.now)
    assert late == ["timeout"]
    _, events = accept_next(q, clock)
    q.publish([message(session_id="s")])
    q.pump()
    assert events == ["s"]


def test_closing_gives_messages_back_uncounted_and_expiry_counts() -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=True)
    q.publish([message(session_id="s")])
    first, _ = accept_next(q, clock)
    q.detach(first)
    second, _ = accept_next(q, clock)
    entry, token = second.pop()
    assert entry.delivery_count == 0
    assert second.session is not None
    clock.now = second.session.until_ms
    with pytest.raises(AmqpError) as caught:
        q.settle(token, Outcome.COMPLETE)
    assert condition(caught) == errors.SESSION_LOCK_LOST
    q.tick(clock.now)
    assert second.sessions_lost == 1
    third, _ = accept_next(q, clock)
    assert third.pop()[0].delivery_count == 1


def test_renewing_a_session_keeps_its_messages() -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=True, LockDuration="PT2S")
    q.publish([message(session_id="s")])
    taker, _ = accept_next(q, clock)
    lock = q.owned_session("s", taker)
    clock.now += SECOND
    assert q.renew_session(lock) == clock.now + 2 * SECOND
    clock.now += SECOND
    q.tick(clock.now)
    with pytest.raises(AmqpError) as caught:
        q.renew_lock([taker.taken[0][1]])
    assert condition(caught) == errors.NOT_ALLOWED
    q.settle(taker.pop()[1], Outcome.COMPLETE)
    with pytest.raises(AmqpError):
        q.owned_session("s", Taker())


def test_session_state_is_kept_counted_and_cleared() -> None:
    clock = Clock()
    q = queue(clock, RequiresSession=True, max_queue_bytes=100)
    q.set_session_state("s", b"x" * 60)
    q.set_session_state("s", b"y" * 80)
    assert (q.session_state("s"), q.stored_bytes) == (b"y" * 80, 80)
    with pytest.raises(AmqpError):
        q.set_session_state("t", b"z" * 30)
    assert q.session_ids() == ["s"]
    assert q.session_ids(clock.now) == []
    q.set_session_state("s", None)
    assert (q.session_state("s"), q.stored_bytes, q.session_ids()) == (None, 0, [])


def test_sessions_are_required_or_refused() -> None:
    clock = Clock()
    with_sessions, without = queue(clock, RequiresSession=True), queue(clock)
    with pytest.raises(AmqpError, match="set the session id"):
        with_sessions.publish([message()])
    with pytest.raises(AmqpError, match="open a session receiver"):
        with_sessions.attach(Taker())
    with pytest.raises(AmqpError, match="has no sessions"):
        without.accept_session("s", Taker())
