from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest

from aos.kernel.records import record, replace
from aos.kernel.types import Conversation, ConversationKey, Message, Operation, ToolCall, Turn

MESSAGE = Message("op_1", "hello", 1.0, 2.0)
RECORDS = [
    MESSAGE,
    Conversation(ConversationKey("ceo", "c1")),
    ToolCall("call", "op_1.1.0", "f", "s", "t", "{}", 3.0, 1.0),
]


@pytest.mark.parametrize("known", RECORDS, ids=lambda known: type(known).__name__)
def test_a_copy_is_what_the_library_makes(known: Message | Conversation | ToolCall) -> None:
    assert replace(known) == known
    assert replace(known) is not known
    for field in dataclasses.fields(known):
        changed = {field.name: object()}
        assert replace(known, **changed) == dataclasses.replace(known, **changed)  # type: ignore[arg-type]  # any value
    assert hash(replace(known)) == hash(known)


def test_the_original_stays_and_the_copy_is_frozen() -> None:
    changed = replace(MESSAGE, text="other")
    assert (MESSAGE.text, changed.text, changed.operation_id) == ("hello", "other", "op_1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.text = "third"  # type: ignore[misc]  # that is what is tested


def test_a_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TypeError, match="nothing"):
        replace(MESSAGE, nothing=1)  # type: ignore[call-arg]  # that is what is tested


def test_other_dataclasses_are_refused() -> None:
    @dataclasses.dataclass
    class Open:
        a: int

    with pytest.raises(TypeError, match="slots"):
        replace(Open(1), a=2)


def test_every_record_of_the_kernel_can_be_copied() -> None:
    for cls in (Turn, Operation, Conversation, Message, ToolCall):
        assert all(field.name in cls.__dict__ for field in dataclasses.fields(cls))


def test_a_record_is_what_the_library_makes() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Theirs:
        a: int
        b: str = "b"

    theirs = Theirs

    @record(frozen=True, slots=True)
    class Ours:
        a: int
        b: str = "b"

    assert (Ours(1), Ours(2, "c"), Ours(a=2, b="c")) == (Ours(1, "b"), Ours(a=2, b="c"), Ours(2, b="c"))
    assert hash(Ours(1)) == hash(theirs(1))
    assert repr(Ours(1)).replace("Ours", "") == repr(theirs(1)).replace("Theirs", "")
    assert Ours.__slots__ == theirs.__slots__
    assert dataclasses.asdict(Ours(1)) == dataclasses.asdict(theirs(1))
    assert dataclasses.replace(Ours(1), a=2) == Ours(2)
    assert list(inspect.signature(Ours).parameters) == ["a", "b"]
    one = Ours(1)
    for name in ("a", "other"):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            setattr(one, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.a
    for positional, named in (((), {}), ((1, "b", 3), {}), ((1,), {"c": 3})):
        with pytest.raises(TypeError):
            Ours(*positional, **named)  # type: ignore[arg-type]  # the same


def test_records_are_copied_and_pickled() -> None:
    for known in RECORDS:
        for other in (copy.copy(known), copy.deepcopy(known), pickle.loads(pickle.dumps(known))):  # noqa: S301 - our own
            assert (type(other), other) == (type(known), known)


def test_what_a_record_cannot_be_is_refused() -> None:
    with pytest.raises(TypeError, match="plain fields"):

        @record(frozen=True, slots=True)
        class Made:
            a: list[int] = dataclasses.field(default_factory=list)

    with pytest.raises(TypeError, match="frozen"):

        @record(frozen=False, slots=True)
        class Open:
            a: int

    with pytest.raises(TypeError, match="nothing else"):

        @record(frozen=True, slots=True)
        class Grown(Exception):
            a: int
