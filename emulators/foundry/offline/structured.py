"""Answers that must be a JSON text of a given schema."""

from __future__ import annotations

from collections.abc import Sequence

from emulators.foundry.model import JsonObject
from emulators.foundry.offline.answer import Outcome, answer_from
from emulators.foundry.offline.arguments import fill
from emulators.foundry.offline.evidence import gather


def structured_answer(schema: JsonObject, message: str, outcomes: Sequence[Outcome]) -> str:
    """A JSON text filled from tool results and message like the arguments of a tool."""
    source = f"{message}\n{answer_from(message, outcomes)}" if outcomes else message
    return fill(schema, gather(source)).text()
