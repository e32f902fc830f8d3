from __future__ import annotations

import json
from typing import Any

import pytest

from aos.errors import UnknownAgent
from aos.messaging.envelopes import EnvelopeInvalid
from aos.messaging.incoming import ATTEMPT, Incoming, put_off, reason, short_id, taken_up

MESSAGE = Incoming("agent-events", b'{"a": "\xc3\xa9"}', "m1", "c1", "answers", "s1", "s2")


def params(message: Incoming) -> Any:
    command = json.loads(put_off(message, "agent-commands").body)
    assert command["command"] == "redeliver"
    return command["params"]


def test_a_message_that_was_put_off_comes_back_as_it_was() -> None:
    again = taken_up(params(MESSAGE), ["agent-events"])
    assert again == Incoming("agent-events", MESSAGE.body, "m1", "c1", "answers", "s1", "s2", attempt=1)


def test_each_delay_is_longer_up_to_five_minutes() -> None:
    delays = [put_off(Incoming("q", b"", attempt=n), "q").delay for n in (0, 1, 5, 9, 5000)]
    assert all(0.8 * most <= delay <= most for delay, most in zip(delays, [1, 2, 32, 300, 300], strict=True))
    assert put_off(MESSAGE, "q", 7.5).delay == 7.5


def test_what_was_put_off_together_does_not_come_back_together() -> None:
    copies = [put_off(Incoming("q", b"", attempt=9), "q") for _ in range(50)]
    assert len({copy.delay for copy in copies}) > 40
    assert {copy.properties[ATTEMPT] for copy in copies} == {10}


def test_ids_fit_service_bus() -> None:
    assert put_off(MESSAGE, "q").message_id == "m1.again1"
    assert len(put_off(Incoming("q", b"", "m" * 128), "q").message_id) <= 128
    assert short_id("m" * 128) == "m" * 128
    assert short_id("m" * 129) != short_id("n" * 129)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [({"entity": "aos-poison"}, "/params/entity"), ({"body": "*"}, "/params/body"), ({"attempt": "x"}, "/attempt")],
)
def test_what_is_not_ours_is_refused(changes: dict[str, object], pointer: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=pointer):
        taken_up(params(MESSAGE) | changes, ["agent-events"])


def test_a_code_as_a_reason() -> None:
    assert reason(UnknownAgent("x")) == "UnknownAgent"
