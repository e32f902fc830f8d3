"""Training data: conversations as JSONL, each line checked on its own."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aos.lora.errors import TrainingDataInvalid

LARGEST_LINE = 1024 * 1024
MOST_EXAMPLES = 1_000_000
SHOWN = 20
"""Mistakes that an error names; there may be more."""


class ChatMessage(BaseModel):
    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class Example(BaseModel):
    """One conversation. The assistant's messages are what the model learns to say."""

    model_config = ConfigDict(frozen=True)

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=2, max_length=1000)]

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> Self:
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's: it is what the model learns to say")
        if any(message.role == "system" for message in self.messages[1:]):
            raise ValueError("only the first message may be the system's")
        return self


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Checked examples, and a hash that changes with any of them."""

    examples: tuple[Example, ...]
    data_hash: str

    def split(self, fraction: float, seed: int) -> tuple[Sequence[Example], Sequence[Example]]:
        """Examples to train on and to evaluate with; the same for the same data and seed.

        At least one is kept for evaluation if there are ten, and at least one for training always.
        """
        shuffled = list(self.examples)
        random.Random(seed).shuffle(shuffled)  # noqa: S311 - a split, not a secret
        kept = int(len(shuffled) * fraction)
        if not kept and fraction and len(shuffled) >= 10:
            kept = 1
        return shuffled[kept:], shuffled[:kept]


def read_examples(path: Path) -> TrainingData:
    """Reads and checks a JSONL file.

    Raises:
        TrainingDataInvalid: Names the line and field of each of the first mistakes; the file is missing or empty.
    """
    examples: list[Example] = []
    problems: list[str] = []
    digest = hashlib.sha256()
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LARGEST_LINE + 1), b""), start=1):
                if not line.strip():
                    continue
                if len(line) > LARGEST_LINE:
                    problems.append(f"line {number}: over {LARGEST_LINE} bytes")
                    break
                if len(examples) >= MOST_EXAMPLES:
                    problems.append(f"line {number}: more than {MOST_EXAMPLES} examples")
                    break
                try:
                    example = _example(line)
                except ValueError as error:
                    problems.append(f"line {number}: {error}")
                    if len(problems) >= SHOWN:
                        break
                    continue
                examples.append(example)
                digest.update(example.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise TrainingDataInvalid(f"{path} cannot be read: {error.strerror}.") from None
    if problems:
        raise TrainingDataInvalid(f"{path}: {'; '.join(problems)}.")
    if not examples:
        raise TrainingDataInvalid(f'{path} holds no example; a line is {{"messages": [{{"role", "content"}}, ...]}}.')
    return TrainingData(tuple(examples), digest.hexdigest())


def _example(line: bytes) -> Example:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    try:
        return Example.model_validate(value)
    except ValidationError as error:
        found = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors(include_input=False)[:3]]
        said = [f"{where}: {what}" if where else what.removeprefix("Value error, ") for where, what in found]
        raise ValueError(", ".join(said)) from None
