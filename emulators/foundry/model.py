"""The model port: what either wire protocol asks of a model, and what a model says back.

Both generations of the protocol translate their history into `Turn`s and the events below into their own objects,
so a model is written once. Events come in order: any number of `TextDelta`, `CallStarted` and `ArgumentsDelta`
(which belongs to the call with the same index), then exactly one `Finished`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import JsonValue

JsonObject = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Said:
    """A message: its author and its text."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A function call that the model made; ``arguments`` is its JSON text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Returned:
    """What a function call gave back."""

    call_id: str
    output: str


Turn = Said | Called | Returned


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function the model may call; ``parameters`` is a JSON Schema of type object."""

    name: str
    description: str = ""
    parameters: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One step asked of a model.

    ``tool_choice`` is ``auto``, ``none``, ``required`` or the name of a function. ``json_schema`` is set when the
    answer must be a JSON text that it accepts.
    """

    deployment: str
    instructions: str = ""
    history: tuple[Turn, ...] = ()
    tools: tuple[FunctionSpec, ...] = ()
    tool_choice: str = "auto"
    parallel_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    json_schema: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A function call begins; calls of one step are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the JSON text of the arguments of call ``index``."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The step is over: ``stop`` is a whole answer, the others cut it short. ``usage`` is None if nobody counted."""

    reason: Literal["stop", "max_output_tokens", "content_filter"] = "stop"
    usage: Usage | None = None


ModelEvent = TextDelta | CallStarted | ArgumentsDelta | Finished


class ModelError(Exception):
    """A step that failed.

    ``status`` is the HTTP status that a caller who waits for the whole answer gets; None: the response object itself
    reports the failure with status ``failed`` and HTTP 200.
    """

    def __init__(self, code: str, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after


class Model(Protocol):
    """A model behind the emulator."""

    @property
    def kind(self) -> str:
        """What answers, as shown in the metadata of every response."""
        ...

    def check(self, request: ModelRequest) -> None:
        """Refuse a request before anything of it is stored.

        Raises:
            ModelError: the request can never be answered.
        """
        ...

    def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Answer one request.

        Raises:
            ModelError: the step failed, before or after its first event.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


def count_tokens(text: str) -> int:
    """Tokens of a text by the emulator's rule: every word costs one token per four characters begun."""
    return sum((len(word) + 3) // 4 for word in text.split())


def turn_text(turn: Turn) -> str:
    """The text of a turn that a model has to read."""
    match turn:
        case Said(text=text):
            return text
        case Called(name=name, arguments=arguments):
            return f"{name} {arguments}"
        case Returned(output=output):
            return output


def input_tokens(request: ModelRequest) -> int:
    """Tokens of all that the model reads: instructions, tool definitions and history."""
    tools: Sequence[JsonValue] = [[tool.name, tool.description, tool.parameters] for tool in request.tools]
    total = count_tokens(request.instructions) + sum(count_tokens(json.dumps(tool)) for tool in tools)
    return total + sum(count_tokens(turn_text(turn)) for turn in request.history)
