from __future__ import annotations

import dataclasses

import pytest

from aos.kernel.records import replace
from aos.kernel.types import Conversation, ConversationKey, Message, Operation, ToolCall, Turn

MESSAGE = Message("op_1", "hello", 1.0, 2.0)
RECORDS = [
    MESSAGE,
    Conversation(ConversationKey("ceo", "c1")),
    ToolCall("call", "op_1.1.0", "f", "s", "t", "{}", 3.0, 1.0),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_copy_is_what_the_library_makes(record: Message | Conversation | ToolCall) -> None:
    assert replace(record) == record
    assert replace(record) is not record
    for field in dataclasses.fields(record):
        changed = {field.name: object()}
        assert replace(record, **changed) == dataclasses.replace(record, **changed)  # type: ignore[arg-type]  # any value
    assert hash(replace(record)) == hash(record)


def test_the_original_stays_and_the_copy_is_frozen() -> None:
    copy = replace(MESSAGE, text="other")
    assert (MESSAGE.text, copy.text, copy.operation_id) == ("hello", "other", "op_1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.text = "third"  # type: ignore[misc]  # that is what is tested


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
