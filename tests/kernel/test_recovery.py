"""What a Foundry conversation holds, compared with what a step was to be given."""

from __future__ import annotations

import pytest

from aos.kernel.calls import ABANDONED
from aos.kernel.events import Settled
from aos.kernel.ports import RemoteItem
from aos.kernel.recovery import missing_input, settle
from aos.kernel.types import FunctionCall, ModelReply, ToolOutput, Usage

ONE, TWO = ToolOutput("c1", "one"), ToolOutput("c2", "two")
USER = RemoteItem("u", "user", "hello")
OUTPUTS = [RemoteItem("o1", "output", "one", "c1"), RemoteItem("o2", "output", "two", "c2")]
SAID = RemoteItem("t", "text", "hi")
CALL = RemoteItem("c", "call", "", "c3", "read", "{}")


def adopted(text: str, *calls: FunctionCall, anchor: str) -> ModelReply:
    return ModelReply(text, calls, Usage(adopted=1), "llama", anchor)


@pytest.mark.parametrize(
    ("items", "outputs", "text", "expected"),
    [
        ([], (), "hello", (None, (), "hello")),
        ([], (ONE,), None, (None, (ONE,), None)),
        ([USER], (), "hello", (None, (), None)),
        ([RemoteItem("u", "user", "hullo")], (), "hello", (None, (), "hello")),
        ([USER, SAID], (), "hello", (adopted("hi", anchor="t"), (), None)),
        ([USER, CALL], (), "hello", (adopted("", FunctionCall("c3", "read", "{}"), anchor="c"), (), None)),
        ([USER, SAID, CALL], (), "hello", (adopted("hi", FunctionCall("c3", "read", "{}"), anchor="c"), (), None)),
        (OUTPUTS[:1], (ONE, TWO), None, (None, (TWO,), None)),
        (OUTPUTS, (ONE, TWO), None, (None, (), None)),
        ([*OUTPUTS, SAID], (ONE, TWO), None, (adopted("hi", anchor="t"), (), None)),
        ([*OUTPUTS, USER, SAID], (ONE, TWO), "hello", (adopted("hi", anchor="t"), (), None)),
        ([*OUTPUTS[:1], SAID], (ONE, TWO), None, (None, (TWO,), None)),
        # What was said before the input is not the answer to it.
        ([SAID, USER], (), "hello", (None, (), None)),
        ([SAID, *OUTPUTS], (ONE, TWO), None, (None, (), None)),
        ([SAID], (), "hello", (None, (), "hello")),
        # Calls of a step that nobody waited for.
        ([CALL], (), "hello", (None, (ToolOutput("c3", ABANDONED),), "hello")),
        ([CALL], (ONE,), "hello", (None, (ONE, ToolOutput("c3", ABANDONED)), "hello")),
        ([CALL, RemoteItem("o", "output", "x", "c3")], (), "hello", (None, (), "hello")),
        ([CALL, RemoteItem("o", "output", "x", "c3"), USER, SAID], (), "hello", (adopted("hi", anchor="t"), (), None)),
    ],
)
def test_an_answer_is_adopted_and_input_that_arrived_is_not_sent_again(
    items: list[RemoteItem],
    outputs: tuple[ToolOutput, ...],
    text: str | None,
    expected: tuple[ModelReply | None, tuple[ToolOutput, ...], str | None],
) -> None:
    assert missing_input(items, outputs, text, "llama") == expected


@pytest.mark.parametrize(
    ("items", "orphans", "expected"),
    [
        ([], (), Settled("a", ())),
        ([], (ONE,), Settled("a", (ONE,))),
        ([*OUTPUTS[:1], SAID], (ONE, TWO), Settled("t", (TWO,))),
        ([USER, CALL], (), Settled("c", (ToolOutput("c3", ABANDONED),))),
        ([*OUTPUTS, CALL], (ONE, TWO), Settled("c", (ToolOutput("c3", ABANDONED),))),
        ([CALL, RemoteItem("o", "output", "x", "c3")], (), Settled("o", ())),
    ],
)
def test_calls_that_nobody_heard_of_are_owed_an_answer(
    items: list[RemoteItem], orphans: tuple[ToolOutput, ...], expected: Settled
) -> None:
    assert settle(items, "a", orphans) == expected
