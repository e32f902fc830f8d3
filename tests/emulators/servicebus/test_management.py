"""``$cbs`` and ``$management``: what an operation takes, and how it refuses."""

from __future__ import annotations

import uuid

import pytest

from emulators.servicebus import codec, errors, management
from emulators.servicebus.broker import Broker
from emulators.servicebus.codec import Value
from emulators.servicebus.errors import DecodeError
from emulators.servicebus.management import Management, grant_token
from emulators.servicebus.message import APPLICATION_PROPERTIES, PROPERTIES, VALUE, sections
from emulators.servicebus.message_queue import Outcome
from emulators.servicebus.sessions import Consumer
from tests.emulators.servicebus.wire import Clock, Taker, broker, encoded, message

ID = uuid.UUID(int=7)


def request(operation: str, body: Value, *, message_id: Value = ID, link: str = "link") -> bytes:
    properties: dict[str, Value] = {"operation": operation, "associated-link-name": link}
    return b"".join(
        (
            codec.composite(PROPERTIES, [message_id, None, None, None, "reply-here"]),
            codec.section(APPLICATION_PROPERTIES, codec.encode(properties)),
            codec.section(VALUE, codec.encode(body)),
        )
    )


class Desk:
    """Asks one entity, as the receiver `taker`."""

    def __init__(self, path: str = "q") -> None:
        self.clock = Clock()
        self.broker: Broker = broker(self.clock, {"q": {}, "s": {"RequiresSession": True}})
        self.management = Management(self.broker, self.clock, 1000)
        self.path = path
        self.taker = Taker()

    def find(self, name: str) -> Consumer | None:
        return self.taker if name == "link" else None

    def ask(self, operation: str, link: str = "link", /, **arguments: Value) -> tuple[int, str | None, Value]:
        """Status, condition and body of the response; underscores in arguments stand for hyphens."""
        body: dict[str, Value] = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.answer(request(f"com.microsoft:{operation}", body, link=link))

    def answer(self, data: bytes) -> tuple[int, str | None, Value]:
        _, response = self.management.answer(self.path, data, self.find)
        found: dict[int, Value] = {}
        for item in sections(response):
            found[item.code] = codec.decode(response, item.value, item.stop)[0]
        properties, told = found[PROPERTIES], found[APPLICATION_PROPERTIES]
        assert isinstance(properties, list)
        assert properties[5] == ID
        assert isinstance(told, dict)
        status, condition = told["statusCode"], told.get("errorCondition")
        assert isinstance(status, int)
        assert condition is None or isinstance(condition, str)
        return status, condition, found[VALUE]


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("schedule-message", {}),
        ("schedule-message", {"messages": []}),
        ("schedule-message", {"messages": "text"}),
        ("schedule-message", {"messages": [1]}),
        ("schedule-message", {"messages": [{"message": "text"}]}),
        ("schedule-message", {"messages": [{"message": encoded()}]}),
        ("cancel-scheduled-message", {"sequence_numbers": ["1"]}),
        ("cancel-scheduled-message", {"sequence_numbers": [1] * 5000}),
        ("peek-message", {"from_sequence_number": None, "message_count": 1}),
        ("peek-message", {"from_sequence_number": 0, "message_count": True}),
        ("peek-message", {"from_sequence_number": 0, "message_count": 1, "session_id": 5}),
        ("renew-lock", {"lock_tokens": ["x"]}),
        ("update-disposition", {"lock_tokens": [ID]}),
        ("update-disposition", {"lock_tokens": [ID], "disposition_status": "lost"}),
        ("get-message-sessions", {"skip": 0, "top": 1}),
    ],
)
def test_arguments_that_are_no_use(operation: str, arguments: dict[str, Value]) -> None:
    status, condition, body = Desk().ask(operation, **arguments)
    assert (status, condition, body) == (400, errors.ARGUMENT_ERROR, None)


@pytest.mark.parametrize(
    ("operation", "arguments", "status", "condition"),
    [
        ("add-rule", {}, 501, errors.NOT_IMPLEMENTED),
        ("schedule-message", {"messages": [{"message": b"x"}]}, 400, errors.DECODE_ERROR),
        ("schedule-message", {"messages": [{"message": bytes(1001)}]}, 403, errors.MESSAGE_SIZE_EXCEEDED),
        ("cancel-scheduled-message", {"sequence_numbers": [5]}, 404, errors.MESSAGE_NOT_FOUND),
        (
            "receive-by-sequence-number",
            {"sequence_numbers": [5], "receiver_settle_mode": 1},
            404,
            errors.MESSAGE_NOT_FOUND,
        ),
        ("renew-lock", {"lock_tokens": [ID]}, 410, errors.MESSAGE_LOCK_LOST),
        ("renew-session-lock", {"session_id": "s"}, 410, errors.SESSION_LOCK_LOST),
        ("peek-message", {"from_sequence_number": 0, "message_count": 5}, 204, None),
    ],
)
def test_refusals(operation: str, arguments: dict[str, Value], status: int, condition: str | None) -> None:
    assert Desk().ask(operation, **arguments)[:2] == (status, condition)


def test_an_entity_that_is_gone_and_a_body_that_is_no_map() -> None:
    assert Desk("nothing").ask("peek-message")[:2] == (404, errors.NOT_FOUND)
    assert Desk().answer(request("com.microsoft:peek-message", [1]))[:2] == (400, errors.ARGUMENT_ERROR)


def test_noise_is_no_request() -> None:
    with pytest.raises(DecodeError):
        Desk().answer(b"noise")


def test_deferred_messages_can_be_deleted_on_receipt() -> None:
    desk = Desk()
    q = desk.broker.destination("q")
    q.publish([message(b"x")])
    q.attach(desk.taker)
    q.pump()
    q.settle(desk.taker.pop()[1], Outcome.DEFER)
    status, _, body = desk.ask("receive-by-sequence-number", sequence_numbers=[1], receiver_settle_mode=0)
    assert status == 200
    assert isinstance(body, dict)
    (item,) = body["messages"]
    assert "lock-token" not in item
    assert list(q.peek(0)) == []


def test_long_answers_are_cut_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "MAX_RESPONSE_BYTES", 1500)
    desk = Desk()
    q = desk.broker.destination("q")
    q.publish([message(bytes(700)) for _ in range(5)])
    _, _, body = desk.ask("peek-message", from_sequence_number=0, message_count=5)
    assert isinstance(body, dict)
    assert len(body["messages"]) == 2
    q.attach(desk.taker)
    q.pump()
    for _ in range(5):
        q.settle(desk.taker.pop()[1], Outcome.DEFER)
    status, condition, _ = desk.ask("receive-by-sequence-number", sequence_numbers=[1, 2, 3], receiver_settle_mode=1)
    assert (status, condition) == (403, errors.MESSAGE_SIZE_EXCEEDED)


def test_sessions_belong_to_the_link_that_holds_them() -> None:
    desk = Desk("s")
    s = desk.broker.destination("s")
    desk.taker.session = s.accept_session("one", desk.taker)
    assert desk.ask("set-session-state", session_id="one", session_state=b"x")[0] == 200
    assert desk.ask("get-session-state", session_id="one") == (200, None, {"session-state": b"x"})
    assert desk.ask("renew-session-lock", session_id="one")[2] == {"expiration": desk.clock.now + 60_000}
    assert desk.ask("get-session-state", "other", session_id="one")[:2] == (410, errors.SESSION_LOCK_LOST)
    assert desk.ask("set-session-state", session_id="one", session_state="x")[:2] == (400, errors.ARGUMENT_ERROR)
    too_long = desk.ask("set-session-state", session_id="one", session_state=bytes(1001))
    assert too_long[:2] == (403, errors.MESSAGE_SIZE_EXCEEDED)


def test_deferred_messages_of_another_session_are_not_given_out() -> None:
    desk = Desk("s")
    s = desk.broker.destination("s")
    s.publish([message(session_id="one"), message(session_id="two")])
    for name in ("one", "two"):
        taker = Taker()
        taker.session = s.accept_session(name, taker)
        s.attach(taker)
        s.pump()
        s.settle(taker.pop()[1], Outcome.DEFER)
        s.detach(taker)
    desk.taker.session = s.accept_session("one", desk.taker)
    arguments: dict[str, Value] = {"receiver_settle_mode": 1, "session_id": "one"}
    assert desk.ask("receive-by-sequence-number", sequence_numbers=[1], **arguments)[0] == 200
    refused = desk.ask("receive-by-sequence-number", sequence_numbers=[2], **arguments)
    assert refused[:2] == (404, errors.MESSAGE_NOT_FOUND)


def test_sessions_are_listed_page_by_page() -> None:
    desk = Desk("s")
    s = desk.broker.destination("s")
    s.publish([message(session_id=name) for name in ("b", "a", "b", "c")])
    forever = 253_402_300_800_000
    page = desk.ask("get-message-sessions", last_updated_time=forever, skip=0, top=2)[2]
    assert page == {"skip": 2, "sessions-ids": ["a", "b"]}
    page = desk.ask("get-message-sessions", last_updated_time=forever, skip=2, top=2)[2]
    assert page == {"skip": 3, "sessions-ids": ["c"]}
    assert desk.ask("get-message-sessions", last_updated_time=forever, skip=3, top=2)[0] == 204
    assert desk.ask("get-message-sessions", last_updated_time=desk.clock.now, skip=0, top=2)[0] == 204


def test_every_token_is_granted() -> None:
    asked, response = grant_token(request("put-token", "SharedAccessSignature ...", message_id=codec.ulong(3)))
    assert asked.reply_to == "reply-here"
    assert codec.encode("Accepted") in response
    assert bytes(codec.ulong(3)) in response
    _, response = grant_token(request("delete-token", "x"))
    assert bytes(codec.int32(501)) in response
