"""Who watches turns: traces, metrics and the ids in logs hang on this port. Nothing depends on what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from aos.kernel.types import ConversationKey, Message, ModelReply, Operation, ToolOutput, Turn

Answered = Callable[[ModelReply], None]
"""Told what a model step brought."""


class Observer(Protocol):
    """Told of turns as they go on in this process. None of its methods may fail, or take long."""

    def place(self, *, called: bool = False) -> str:
        """Where what goes on now stands in a trace: kept with a message that is accepted, empty if nowhere.

        Args:
            called: The message is a call of the turn that goes on, so the call stands between the two turns.
        """
        ...

    def conversation(self, key: ConversationKey) -> AbstractContextManager[None]:
        """Around the work on a conversation."""
        ...

    def turn(self, message: Message) -> None:
        """From here on, within `conversation`, the work is for this message."""
        ...

    def started(self, key: ConversationKey, message: Message, at: float) -> None:
        """The turn of a message began."""
        ...

    def model_step(
        self, key: ConversationKey, turn: Turn, text: str | None, outputs: Sequence[ToolOutput]
    ) -> AbstractContextManager[Answered]:
        """Around one request to the model, which is given `text` and `outputs`."""
        ...

    def ended(self, operation: Operation) -> None:
        """How a turn ended that this process ended; told once it is saved."""
        ...


class Unobserved:
    """Nobody watches."""

    def place(self, *, called: bool = False) -> str:
        return ""

    def conversation(self, key: ConversationKey) -> AbstractContextManager[None]:
        return _NOTHING

    def turn(self, message: Message) -> None:
        return None

    def started(self, key: ConversationKey, message: Message, at: float) -> None:
        return None

    def model_step(
        self, key: ConversationKey, turn: Turn, text: str | None, outputs: Sequence[ToolOutput]
    ) -> AbstractContextManager[Answered]:
        return UNHEARD

    def ended(self, operation: Operation) -> None:
        return None


def _unheard(reply: ModelReply) -> None:
    return None


_NOTHING = nullcontext()
UNHEARD = nullcontext(_unheard)
"""Around a model step of which nobody is told."""
