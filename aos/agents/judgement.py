"""Judgements: questions to the model whose answer is data: asked for as JSON, checked, and asked for again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aos.errors import AosError

ROUNDS = 3
"""How often the model is asked for a valid answer."""


class AnswerUnusable(AosError):
    """The model was asked for data and did not give it."""

    code = "answer_unusable"
    title = "The model's answer is not what was asked for."


class Judgement(BaseModel):
    """Base of what a model is asked to judge; the descriptions of the fields are instructions to it."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class AlignmentJudgement(Judgement):
    aligned: bool = Field(description="whether the action serves your purpose and lies within its scope")
    alignment_score: float = Field(ge=0, le=1, description="how well, from 0 (against it) to 1 (fully)")
    reasoning: str = Field(min_length=1, description="why, in one or two sentences")


class DecisionJudgement(Judgement):
    selected_option: JsonValue = Field(description="the option that you choose; one of `options` if there are any")
    reasoning: str = Field(min_length=1, description="why it serves your purpose best")
    alignment_score: float = Field(ge=0, le=1, description="how well it serves your purpose, from 0 to 1")


class ProgressJudgement(Judgement):
    progress: float = Field(ge=0, le=1, description="how far the goal is reached, from 0 to 1 (all criteria are met)")
    reasoning: str = Field(min_length=1, description="what the evidence shows and what is missing")


class LeadershipJudgement(Judgement):
    decision: str = Field(min_length=1, description="what is to be done")
    confidence: float = Field(ge=0, le=1, description="how sure you are, from 0 to 1")
    rationale: str = Field(min_length=1, description="why")


J = TypeVar("J", bound=Judgement)


async def judge(
    ask: Callable[[str], Awaitable[str]],
    task: str,
    data: Mapping[str, JsonValue],
    kind: type[J],
    check: Callable[[J], str | None] = lambda judgement: None,
) -> J:
    """Has the model judge.

    Args:
        ask: One turn of a conversation of its own.
        task: What is to be judged.
        data: What the judgement is about.
        kind: What the answer has to be.
        check: Says what is wrong with an answer of the right shape, or None.

    Raises:
        AnswerUnusable: Nothing valid within `ROUNDS` turns.
    """
    schema = json.dumps(kind.model_json_schema())
    said = await ask(
        f"{task}\n\nWhat it is about, as data:\n{json.dumps(data, indent=1, ensure_ascii=False)}\n\n"
        f"Answer with one JSON object and nothing else. Its JSON Schema:\n{schema}"
    )
    for left in reversed(range(ROUNDS)):
        try:
            judgement = kind.model_validate_json(_json(said))
            problem = check(judgement)
        except ValidationError as error:
            problem = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors(include_input=False)
            )
        else:
            if problem is None:
                return judgement
        if left:
            said = await ask(f"That answer cannot be used: {problem}. Answer with the JSON object and nothing else.")
    raise AnswerUnusable(f"After {ROUNDS} tries the model's answer is still not valid: {problem}")


def _json(text: str) -> str:
    """The object within an answer: models like to put it into a fence or a sentence."""
    begin, end = text.find("{"), text.rfind("}")
    return text[begin : end + 1] if 0 <= begin < end else text
