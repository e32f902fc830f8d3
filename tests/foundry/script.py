"""A model that answers as the test says, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

from emulators.foundry.model import (
    ArgumentsDelta,
    CallStarted,
    Finished,
    ModelError,
    ModelEvent,
    ModelRequest,
    TextDelta,
    turn_text,
)

Answer = list[ModelEvent] | ModelError


def says(text: str) -> Answer:
    return [TextDelta(text), Finished()]


def calls(*made: tuple[str, str]) -> Answer:
    """Names and arguments."""
    events: list[ModelEvent] = []
    for index, (name, arguments) in enumerate(made):
        events += [CallStarted(index, name), ArgumentsDelta(index, arguments)]
    return [*events, Finished()]


class Script:
    """One answer after the other; the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[ModelRequest] = []

    @property
    def kind(self) -> str:
        return "script"

    def check(self, request: ModelRequest) -> None:
        pass

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self.asked.append(request)
        answer = self._answers[min(len(self.asked), len(self._answers)) - 1]
        if isinstance(answer, ModelError):
            raise answer
        for event in answer:
            yield event

    async def close(self) -> None:
        pass

    def heard(self, text: str) -> int:
        """How often a text stands in what was asked last."""
        return sum(turn_text(turn).count(text) for turn in self.asked[-1].history)
