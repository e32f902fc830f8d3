"""Strings for arguments: options of an enum, values named beside a property, quarters as written, free text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import JsonValue

from emulators.foundry.offline.evidence import Evidence, Period
from emulators.foundry.offline.verbs import VERBS
from emulators.foundry.offline.words import concept, is_stop, plain_words, stem

_QUERY_NAMES = frozenset(("query", "question", "text", "message", "prompt", "search", "content", "input", "body"))
_TITLE_NAMES = frozenset(
    ("description", "title", "subject", "reason", "note", "notes", "summary", "memo", "topic", "comment", "purpose")
)
_PLACE_NAMES = frozenset(("city", "location", "place", "country", "region", "town", "destination", "address"))
_ABOUT = re.compile(r"\b(?:titled|called|named|saying|about|regarding|for)\s+(.+?)(?:[.?!;,]|$)", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|a|an|our|my)\s+", re.IGNORECASE)
_DATED = re.compile(r"\s+(?:on|dated|in|from)\s+\d.*$", re.IGNORECASE)
_PLACE = re.compile(r"\b(?:in|at|for|to|near|of)\s+((?:[A-Z][\w'-]+)(?:\s+[A-Z][\w'-]+)*)")
_VALUE = r"(\"[^\"]+\"|'[^']+'|[A-Za-z0-9][\w@.&/-]*[\w]|[A-Za-z0-9])"


@dataclass(frozen=True, slots=True)
class FreeText:
    """A text taken from the message; ``stated`` when the message plainly means it for this."""

    text: str
    stated: bool


def enum_matches(options: Iterable[JsonValue], text: str) -> list[JsonValue]:
    """The options that a message names, in order of mention; a longer option hides one inside it."""
    words = plain_words(text)
    stems = [stem(word) for word in words]
    found: list[tuple[int, int, JsonValue]] = []
    for option in options:
        wanted = [stem(word) for word in plain_words(str(option))] if isinstance(option, str) else []
        for start in range(len(stems) - len(wanted) + 1 if wanted else 0):
            if stems[start : start + len(wanted)] == wanted:
                found.append((start, -len(wanted), option))
                break
    chosen: list[JsonValue] = []
    covered: set[int] = set()
    for start, length, option in sorted(found, key=lambda entry: entry[:2]):
        span = set(range(start, start - length))
        if not span & covered:
            covered |= span
            chosen.append(option)
    return chosen


def period_texts(period: Period) -> list[str]:
    """The ways in which APIs write a quarter or a month."""
    if period.quarter is not None:
        short = f"Q{period.quarter}"
        dated = [f"{period.year}-{short}", f"{period.year}{short}", f"{short} {period.year}", f"{period.year} {short}"]
        return [short, short.lower(), *(dated if period.year else []), str(period.quarter)]
    if period.month is not None and period.year is not None:
        return [f"{period.year}-{period.month:02d}", str(period.month), f"{period.month:02d}"]
    return []


def named_value(name: str, evidence: Evidence) -> list[str]:
    """What stands beside the name of a property: ``account: 4000``, ``account Travel``, ``marketing department``."""
    chosen = evidence.chosen.get(name)
    if isinstance(chosen, str):
        return [chosen]
    words = [word for word in plain_words(name) if word not in ("name", "id", "code")] or plain_words(name)
    spoken = r"[\s_-]+".join(map(re.escape, words))
    if not spoken:
        return []
    found: list[str] = []
    linked = re.compile(rf"\b{spoken}s?\b\s*(?:(is|=|:|named|called|number|no\.?|id|#)\s*)?{_VALUE}", re.IGNORECASE)
    for match in linked.finditer(evidence.text):
        link, value = match.groups()
        bare = value.strip("\"'")
        marked = bare[:1].isupper() or any(c.isdigit() for c in bare) or bare != value
        if (link or marked) and not is_stop(bare.lower()):
            found.append(bare)
    for match in re.finditer(rf"\b([A-Za-z][\w&-]*)\s+{spoken}\b", evidence.text, re.IGNORECASE):
        before = match[1].lower()
        if not is_stop(before) and stem(before) not in VERBS:
            found.append(match[1])
    if set(words) & _PLACE_NAMES:
        found += [match[1] for match in _PLACE.finditer(evidence.text)]
    return found


def free_text(name: str, evidence: Evidence, subject: Iterable[str], used: set[str]) -> FreeText | None:
    """A text for a property of any content: quoted, introduced by ``for`` or ``about``, or the salient phrase."""
    words = set(plain_words(name))
    fresh = [text for text in evidence.quoted if text not in used]
    if words & (_QUERY_NAMES | _TITLE_NAMES) and fresh:
        return FreeText(fresh[0], stated=True)
    if words & _TITLE_NAMES:
        about = [match[1].strip() for match in _ABOUT.finditer(evidence.text)]
        if about:
            plain = _ARTICLE.sub("", _DATED.sub("", about[-1]))
            return FreeText(plain, stated=True)
    if words & _QUERY_NAMES and evidence.text.strip():
        return FreeText(evidence.text.strip(), stated=True)
    phrase = _salient(evidence.text, frozenset(subject))
    return FreeText(phrase, stated=False) if phrase else None


def _salient(text: str, subject: frozenset[str]) -> str:
    # the longest run of words that are neither function words, nor verbs, nor the tool's own subject
    runs: list[list[str]] = [[]]
    for token in re.findall(r"[A-Za-z][\w'-]*|[^\sA-Za-z]", text):
        lower = token.lower()
        telling = token[0].isalpha() and not is_stop(lower) and stem(lower) not in VERBS
        if telling and concept(lower) not in subject:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    longest: list[str] = max(runs, key=len)
    return " ".join(longest)
