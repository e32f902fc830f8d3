"""Answers without tools: from the instructions and from what the user said before, and never from knowledge."""

from __future__ import annotations

import re

from emulators.foundry.model import ModelRequest, Said
from emulators.foundry.offline.plan import Plan
from emulators.foundry.offline.talk_patterns import ABILITY, GREETING, IDENTITY, RECALL, THANKS
from emulators.foundry.offline.words import concepts

_MAX_QUOTE = 400
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_RECALL_WORDS = frozenset(concepts("say said tell told mention ask remember remind earlier before discuss talk wrote"))
_STATEMENT = re.compile(r"\b(?:my|our|i am|i'm|we are|remember|note that|i like|i prefer|call me)\b", re.IGNORECASE)


def talk(request: ModelRequest, message: str, plan: Plan) -> str:
    """An answer to a message that no tool answers."""
    if plan.lacking:
        return _ask(plan)
    if RECALL.search(message):
        return _recall(request, message)
    if IDENTITY.search(message):
        return f"{_purpose(request)} I answer as the offline stand-in for {request.deployment}, by rules."
    if ABILITY.search(message):
        return _abilities(request)
    if GREETING.match(message):
        return f"Hello. {_purpose(request)} I am the offline stand-in for {request.deployment}."
    if THANKS.match(message):
        return "You are welcome."
    return _honest(request, message)


def _ask(plan: Plan) -> str:
    sentences = [
        f"To call {name} I need: {', '.join(arguments)}. Your message does not say." for name, arguments in plan.lacking
    ]
    return " ".join(sentences)


def _recall(request: ModelRequest, message: str) -> str:
    subject = set(concepts(message)) - _RECALL_WORDS
    earlier = _user_texts(request)
    ranked = [(len(subject & set(concepts(text))), position, text) for position, text in enumerate(earlier)]
    best = max(ranked, default=(0, 0, ""))
    if subject and best[0]:
        return f'Earlier in this conversation you said: "{_short(best[2])}"'
    if not subject and earlier:
        return f'The last thing you said before this was: "{_short(earlier[-1])}"'
    about = f" about {', '.join(sorted(subject))}" if subject else ""
    return f"You have said nothing{about} in this conversation so far."


def _abilities(request: ModelRequest) -> str:
    lines = [f"- {tool.name}: {_first_sentence(tool.description) or 'no description'}" for tool in request.tools]
    tools = "I can call these tools:\n" + "\n".join(lines) if lines else "I have no tools."
    return f"{_purpose(request)} {tools}"


def _honest(request: ModelRequest, message: str) -> str:
    parts: list[str] = []
    if _STATEMENT.search(message) and "?" not in message:
        parts.append(f'Noted: "{_short(message)}"')
    else:
        subject = set(concepts(message))
        related = [text for text in _user_texts(request) if len(subject & set(concepts(text))) >= 2]
        if related:
            parts.append(f'This touches what you said before: "{_short(related[-1])}"')
    names = ", ".join(tool.name for tool in request.tools)
    parts.append(
        f"I am the offline stand-in for {request.deployment}: I have no knowledge of my own"
        + (f", and none of my tools ({names}) fits this message." if names else " and no tools.")
    )
    parts.append(_purpose(request))
    return " ".join(parts)


def _purpose(request: ModelRequest) -> str:
    first = " ".join(_SENTENCE.split(request.instructions.strip())[:2])
    return f'My instructions begin: "{_short(first)}"' if first else "I was given no instructions."


def _first_sentence(text: str) -> str:
    return _SENTENCE.split(text.strip(), maxsplit=1)[0]


def _user_texts(request: ModelRequest) -> list[str]:
    texts = [turn.text for turn in request.history if isinstance(turn, Said) and turn.role == "user"]
    return texts[:-1]


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MAX_QUOTE else flat[: _MAX_QUOTE - 1] + "…"
