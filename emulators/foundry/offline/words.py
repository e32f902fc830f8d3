"""Words as the offline model compares them: lower case, stemmed, without stop words, synonyms folded."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+(?:'[a-z]+)?|[0-9]+")

_STOP_TEXT = """
a about above after again all also am an and any are as at be been being both but by can could did do does doing
    done down each else few for from further had has have having he hello her here hers hey hi him his how i if in into
    is it its just kindly let like lot make many may me might more most much must my no nor not now of off on once only
    or other our ours out over own please same shall she should so some such than thank thanks that the their theirs
    them then there these they this those through to too under until up us very want was we were what when where
    which while who whom whose why will with would you your yours okay ok yes really tell show give know need look find
    get list return information info data value use used using given tool function call new one two we've i'd what's
    it's i'm don't let's provide details detail optional default e g eg etc per via
"""
_STOP = frozenset(_STOP_TEXT.split())

_SYNONYMS = (
    "revenue sale turnover income earning",
    "kpi metric indicator performance figure",
    "cost expense spend spending expenditure spent",
    "budget allocation",
    "employee staff headcount personnel workforce people",
    "transaction booking entry posting ledger",
    "customer client",
    "invoice bill",
    "meeting appointment",
    "email mail",
    "message note",
    "overview summary profile",
    "risk threat exposure",
    "price rate quote",
    "weather forecast temperature",
    "project initiative",
    "department division unit team",
    "supplier vendor",
    "compare comparison versus vs",
)
_CANONICAL: dict[str, str] = {}


def stem(word: str) -> str:
    """A word without its commonest English endings: ``budgets`` and ``budgeted`` both give ``budget``."""
    word = word.lower().removesuffix("'s")
    for ending, replacement in (("sses", "ss"), ("ies", "y"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)] + replacement
            break
    return word.removesuffix("e") if len(word) > 4 else word


for _group in _SYNONYMS:
    _first, *_others = (stem(_member) for _member in _group.split())
    _CANONICAL.update(dict.fromkeys(_others, _first))


def plain_words(text: str) -> list[str]:
    """The words of a text in order, lower case; ``camelCase`` and ``snake_case`` are split."""
    return [word.lower() for word in _WORD.findall(text)]


def concept(word: str) -> str:
    """The stem of a word, or that of its synonym group."""
    stemmed = stem(word)
    return _CANONICAL.get(stemmed, stemmed)


def is_stop(word: str) -> bool:
    """Whether a lower-case word says nothing about a subject."""
    return word in _STOP or len(word) < 2


def concepts(text: str) -> list[str]:
    """What a text is about, in order, without repetition."""
    return list(dict.fromkeys(concept(word) for word in plain_words(text) if not is_stop(word)))
