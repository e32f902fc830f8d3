"""Verbs that ask for a change, and where a message uses one as an order."""

from __future__ import annotations

import re

from emulators.foundry.offline.words import plain_words, stem

_WRITING = (
    "record add create post enter log register book write insert save store open file submit raise",
    "pay transfer send wire reimburse refund email notify publish",
    "update change set edit modify adjust correct rename assign move reschedule increase decrease raise lower",
    "delete remove cancel void revoke close archive clear drop",
    "approve accept confirm reject decline authorize",
    "schedule plan reserve arrange book",
    "order buy purchase hire start stop restart deploy run execute trigger launch",
)
_GROUPS = tuple(frozenset(stem(verb) for verb in group.split()) for group in _WRITING)
_READING_TEXT = """
get list show find look fetch read search query compare check view describe explain summarize
    analyze analyse calculate report review tell give lookup count is was were are has have does do
"""
_READING = frozenset(stem(verb) for verb in _READING_TEXT.split())
_ASKING = frozenset(("what", "which", "who", "whose", "when", "where", "why", "how", "if", "my", "our"))
WRITING = frozenset().union(*_GROUPS)
VERBS = WRITING | _READING

_LEAD = re.compile(
    r"^(?:(?:please|kindly|now|then|also|and|next|ok|okay|so|first|finally|hi|hello|hey)\b[\s,]*"
    r"|(?:can|could|would|will)\s+you\b[\s,]*|(?:i|we)\s+(?:want|need|would\s+like|'d\s+like)\s+(?:you\s+)?to\b\s*"
    r"|(?:i'd|we'd)\s+like\s+(?:you\s+)?to\b\s*|(?:let's|let\s+us|go\s+ahead\s+and|you\s+(?:must|should))\b\s*)+",
    re.IGNORECASE,
)


def order_of(clause: str) -> str | None:
    """The stem of the changing verb that a clause begins with, or None: ``please record ...`` is an order, ``the
    record`` is not."""
    words = plain_words(_LEAD.sub("", clause.strip()))
    first = stem(words[0]) if words else ""
    return first if first in WRITING else None


def stands_alone(clause: str) -> bool:
    """Whether a clause asks or orders by itself, rather than going on with the one before it."""
    words = plain_words(_LEAD.sub("", clause.strip()))
    return bool(words) and (words[0] in _ASKING or stem(words[0]) in VERBS)


def writing_verbs(tool_words: list[str]) -> frozenset[str]:
    """The verbs that order what a tool named by these words does; empty for a tool that only reads."""
    stems = [stem(word) for word in tool_words]
    lead = next((word for word in stems if word in VERBS), None)
    if lead is None or lead in _READING:
        return frozenset()
    return frozenset().union(*(group for group in _GROUPS if lead in group))
