from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aos.kernel.types import Failure, Operation, ReplyAddress, Usage
from aos.messaging.envelopes import OWN_ENTITIES, EnvelopeInvalid
from aos.messaging.replies import agent_reply, error_reply, parked, reply_address

DONE = Operation(
    "op_1", "ceo", "main", "completed", 1.0, 2.0, reply="Yes.", usage=Usage(3, 4, 7), event_type="asked", attempt=2
)


def test_no_reply_is_wanted() -> None:
    assert reply_address(None, "c", "m", None) is None
    assert reply_address("", "c", "m", None) is None


@pytest.mark.parametrize(
    ("reply_to", "entity"),
    [
        ("answers", "answers"),
        ("Answers", "Answers"),
        (" answers/ ", "answers"),
        ("team/answers", "team/answers"),
        ("sb://ns.servicebus.windows.net/answers", "answers"),
        ("amqps://ns.servicebus.windows.net:5671/answers/", "answers"),
        ("sb://ns.servicebus.windows.net/team/answers", "team/answers"),
        ("sb://ns.servicebus.windows.net/team%7Eanswers?timeout=5", "team~answers"),
        ("a" * 260, "a" * 260),
        ("answers.v1..2", "answers.v1..2"),
    ],
)
def test_the_entity_of_a_reply(reply_to: str, entity: str) -> None:
    assert reply_address(reply_to, None, "m", "s") == ReplyAddress(entity, "m", "s")


def test_the_callers_correlation_wins() -> None:
    assert reply_address("answers", "c", "m", None) == ReplyAddress("answers", "c", None)


@pytest.mark.parametrize("entity", sorted(OWN_ENTITIES))
@pytest.mark.parametrize("form", ["{}", "{}/", " {} ", "/{}", "sb://ns.example/{}", "sb://ns.example/{}/?a=b"])
def test_a_reply_to_aos_itself_is_refused(entity: str, form: str) -> None:
    for spelt in (entity, entity.upper()):
        with pytest.raises(EnvelopeInvalid, match="ReplyTo"):
            reply_address(form.format(spelt), None, "m", None)


def test_a_reply_to_aos_in_disguise_is_refused() -> None:
    with pytest.raises(EnvelopeInvalid, match="agent-events"):
        reply_address("sb://ns.example/%61gent-events", None, "m", None)


@pytest.mark.parametrize("end", ["?", "?x=1", "#f", "/?", "/../agent-events", "/.", "//x", "%3F"])
@pytest.mark.parametrize("form", ["agent-events{}", "sb://ns.example/agent-events%3F{}"])
def test_a_name_that_an_address_would_shorten_is_refused(form: str, end: str) -> None:
    with pytest.raises(EnvelopeInvalid, match="ReplyTo"):
        reply_address(form.format(end), None, "m", None)


@pytest.mark.parametrize("reply_to", ["$cbs", "answers/$deadletterqueue", "a\nb", "a b", "ü", "a" * 261, "x" * 70_000])
def test_what_cannot_name_an_entity_is_refused(reply_to: str) -> None:
    with pytest.raises(EnvelopeInvalid, match="names no queue or topic"):
        reply_address(reply_to, None, "m", None)


@pytest.mark.parametrize("reply_to", ["/", "  ", "sb://ns.servicebus.windows.net", "sb://ns/", "sb://[bad/answers"])
def test_a_reply_to_nothing_is_refused(reply_to: str) -> None:
    with pytest.raises(EnvelopeInvalid, match="names no queue or topic"):
        reply_address(reply_to, None, "m", None)


def test_the_reply_of_an_operation() -> None:
    reply = agent_reply(DONE, ReplyAddress("answers", "c", "s"))
    assert (reply.entity, reply.message_id, reply.correlation_id, reply.session_id, reply.subject) == (
        "answers",
        "op_1.2.reply",
        "c",
        "s",
        "asked",
    )
    assert json.loads(reply.body) == {
        "agent_id": "ceo",
        "event_type": "asked",
        "conversation_id": "main",
        "operation_id": "op_1",
        "status": "completed",
        "response": "Yes.",
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }


def test_a_reply_says_which_registry_its_agent_was_read_from() -> None:
    reply = agent_reply(replace(DONE, generation="0x8DE"), ReplyAddress("answers"))
    assert json.loads(reply.body)["generation"] == "0x8DE"


def test_the_reply_of_an_operation_that_failed() -> None:
    failed = replace(DONE, status="failed", reply=None, error=Failure("sad", "It is sad.", "Very."))
    body = json.loads(agent_reply(failed, ReplyAddress("answers")).body)
    assert (body["status"], body["error"]) == ("failed", {"code": "sad", "title": "It is sad.", "detail": "Very."})
    assert "response" not in body


def test_the_answer_to_a_message_that_was_refused() -> None:
    reply = error_reply(ReplyAddress("answers", "c", "s"), "m", "ceo", "sad", "It is sad.", "Very.")
    assert (reply.entity, reply.message_id, reply.correlation_id, reply.session_id) == (
        "answers",
        "m.refused",
        "c",
        "s",
    )
    body = json.loads(reply.body)
    assert (body["status"], body["agent_id"], body["error"]["code"]) == ("failed", "ceo", "sad")
    assert len(error_reply(ReplyAddress("answers"), "m" * 128, "ceo", "sad", "", "").message_id) <= 128


def test_a_parked_message_says_why() -> None:
    message = parked(b"body", "m", "agent-events", "Sad", "x" * 10_000, {"more": "m"})
    assert (message.entity, message.body, message.message_id) == ("aos-poison", b"body", "m")
    assert message.properties == {
        "DeadLetterReason": "Sad",
        "DeadLetterErrorDescription": "x" * 4096,
        "aos-source": "agent-events",
        "more": "m",
    }
