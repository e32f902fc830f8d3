from __future__ import annotations

import json

import pytest

from aos.custom.history import HistoryItem
from aos.custom.messages import sound_arguments, window


def user(number: int, text: str = "hello") -> HistoryItem:
    return HistoryItem(number=number, kind="user", text=text)


def call(number: int, call_id: str) -> HistoryItem:
    return HistoryItem(number=number, kind="call", call_id=call_id, name="f", arguments="{}")


def output(number: int, call_id: str) -> HistoryItem:
    return HistoryItem(number=number, kind="output", call_id=call_id, text="42")


def text(number: int, said: str = "answer") -> HistoryItem:
    return HistoryItem(number=number, kind="text", text=said)


TURNS = [user(1), call(2, "a"), output(3, "a"), text(4), user(5), text(6), user(7)]


def test_all_of_a_short_history_is_shown() -> None:
    assert window(TURNS, 1000) == TURNS
    assert window([], 1000) == []


@pytest.mark.parametrize(("characters", "first"), [(20, 5), (10, 7), (1, 7), (31, 5), (32, 1)])
def test_older_turns_are_left_out_whole(characters: int, first: int) -> None:
    assert window(TURNS, characters)[0].number == first


def test_outputs_go_with_the_calls_they_answer() -> None:
    items = [user(1), call(2, "a"), output(3, "a"), user(4), text(5)]
    assert [item.number for item in window(items, 11)] == [4, 5]


def test_a_history_that_begins_within_a_turn() -> None:
    assert [item.number for item in window([output(3, "a"), call(4, "b"), output(5, "b")], 10)] == [4, 5]


@pytest.mark.parametrize("written", ["{", "[1]", "", "null", "42"])
def test_arguments_that_are_no_object_are_shown_as_one(written: str) -> None:
    assert json.loads(sound_arguments(written)) == {"unreadable": written}


def test_sound_arguments_stay_as_they_are() -> None:
    assert sound_arguments('{"a": 1}') == '{"a": 1}'
