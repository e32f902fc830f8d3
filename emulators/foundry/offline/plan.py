"""Which tools a message asks for, and with which arguments."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from emulators.foundry.model import FunctionSpec, JsonObject
from emulators.foundry.offline.arguments import Filled, fill
from emulators.foundry.offline.evidence import Evidence, gather
from emulators.foundry.offline.schema import SchemaReader, type_of
from emulators.foundry.offline.strings import enum_matches
from emulators.foundry.offline.talk_patterns import is_small_talk
from emulators.foundry.offline.verbs import order_of, writing_verbs
from emulators.foundry.offline.words import concepts, plain_words

THRESHOLD = 1.5
MAX_VARIANTS = 4
MAX_CALLS = 8
_CLAUSES = re.compile(r"[.;?!](?:\s+|$)|,?\s+\b(?:and then|then|and also|as well as|and|also)\b\s+|\n+", re.IGNORECASE)
_NAME_WEIGHT, _PROPERTY_WEIGHT, _DESCRIPTION_WEIGHT = 2.0, 1.0, 1.0


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call to make; ``arguments`` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls that answer a message; ``lacking`` names tools that fit and the arguments the message lacks."""

    calls: tuple[PlannedCall, ...]
    lacking: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class _Profile:
    tool: FunctionSpec
    weights: dict[str, float]
    name_concepts: frozenset[str]
    orders: frozenset[str]


def same_arguments(left: str, right: str) -> bool:
    """Whether two JSON texts mean the same value; texts that are no JSON are compared as they are."""
    try:
        return bool(json.loads(left) == json.loads(right))
    except json.JSONDecodeError:
        return left == right


def plan_calls(message: str, tools: Sequence[FunctionSpec], tool_choice: str = "auto") -> Plan:
    """Choose tools by the words they share with the message and fill their arguments.

    ``tool_choice``: ``auto``, ``required`` (the best tool even if none fits) or the name of a function.
    """
    profiles = _profiles(tools)
    if not profiles:
        return Plan(())
    forced = [profile for profile in profiles if profile.tool.name == tool_choice]
    chosen: Sequence[_Profile] = forced or _named(message, profiles)
    if not chosen and not is_small_talk(message):
        chosen = _chosen(message, profiles)
    if not chosen and tool_choice == "required":
        chosen = [max(profiles, key=lambda profile: _score(_asked(message), profile))]
    return _filled(message, chosen, insist=bool(forced) or tool_choice == "required")


def _filled(message: str, chosen: Sequence[_Profile], *, insist: bool) -> Plan:
    calls: list[PlannedCall] = []
    lacking: list[tuple[str, tuple[str, ...]]] = []
    evidence = gather(message)
    for profile in chosen:
        for variant in _variants(profile.tool, evidence):
            filled = fill(profile.tool.parameters, variant, profile.name_concepts)
            unknown = _unknown(filled, writes=bool(profile.orders))
            if filled.missing or (unknown and not insist):
                lacking.append((profile.tool.name, tuple(dict.fromkeys((*filled.missing, *unknown)))))
                break
            call = PlannedCall(profile.tool.name, filled.text())
            if call not in calls:
                calls.append(call)
    return Plan(tuple(calls[:MAX_CALLS]), tuple(lacking))


def _unknown(filled: Filled, *, writes: bool) -> tuple[str, ...]:
    # a change is never made with an invented argument; a look at something may be
    return filled.guessed if writes else ()


def _profiles(tools: Sequence[FunctionSpec]) -> list[_Profile]:
    raw: list[tuple[FunctionSpec, dict[str, float], frozenset[str]]] = []
    for tool in tools:
        weights: dict[str, float] = {}
        for word in _schema_words(tool.parameters):
            weights[word] = _PROPERTY_WEIGHT
        for word in concepts(tool.description):
            weights[word] = max(_DESCRIPTION_WEIGHT, weights.get(word, 0.0))
        name_concepts = concepts(_bare_name(tool.name, tools))
        for word in name_concepts:
            weights[word] = _NAME_WEIGHT
        raw.append((tool, weights, frozenset(name_concepts)))
    spread = Counter(word for _, weights, _ in raw for word in weights)
    others = max(len(raw) - 1, 1)
    profiles: list[_Profile] = []
    for tool, weights, name_concepts_set in raw:
        # a word that every tool has tells little (0.5), one that only this tool has tells much (1.5)
        told = {word: weight * (1.5 - (spread[word] - 1) / others) for word, weight in weights.items()}
        words = plain_words(_bare_name(tool.name, tools))
        orders = writing_verbs(words) or (
            writing_verbs(plain_words(tool.description)[:1]) if not _reads(words) else frozenset()
        )
        profiles.append(_Profile(tool, told, name_concepts_set, orders))
    return profiles


def _reads(words: list[str]) -> bool:
    return bool(words) and words[0] in ("get", "list", "show", "find", "read", "search", "query", "fetch", "check")


def _bare_name(name: str, tools: Sequence[FunctionSpec]) -> str:
    # "company-ledger_get_kpis" is get_kpis of a server: its prefix says nothing that tells its tools apart
    head, separator, tail = name.partition("_")
    if separator and "-" in head:
        return tail
    shared = [tool.name for tool in tools if tool.name.startswith(head + separator)]
    if separator and len(tools) > 1 and len(shared) == len(tools) and writing_verbs([head]) == frozenset():
        return tail if not _reads([head]) else name
    return name


def _schema_words(parameters: JsonObject) -> Iterator[str]:
    reader = SchemaReader(parameters)
    for name, schema in reader.properties(reader.resolve(parameters)).items():
        yield from concepts(name)
        options = schema.get("enum")
        for option in options if isinstance(options, list) else []:
            yield from concepts(str(option))


def _named(message: str, profiles: Sequence[_Profile]) -> list[_Profile]:
    found: list[tuple[int, _Profile]] = []
    text = message.lower()
    all_tools = [profile.tool for profile in profiles]
    for profile in profiles:
        names = {profile.tool.name.lower(), _bare_name(profile.tool.name, all_tools).lower()}
        spots = [
            match.start()
            for name in names
            if "_" in name or "-" in name or len(profiles) == 1
            for match in re.finditer(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
        ]
        if spots:
            found.append((min(spots), profile))
    return [profile for _, profile in sorted(found, key=lambda pair: pair[0])]


def _asked(text: str) -> list[str]:
    evidence = gather(text)
    asked = concepts(text)
    if any(period.quarter for period in evidence.periods):
        asked.append("quarter")
    if evidence.years or evidence.periods:
        asked.append("year")
    if evidence.dates:
        asked.append("dat")
    return list(dict.fromkeys(asked))


def _score(asked: Sequence[str], profile: _Profile) -> float:
    return sum(profile.weights.get(word, 0.0) for word in asked)


def _chosen(message: str, profiles: Sequence[_Profile]) -> list[_Profile]:
    clauses = [clause for clause in _CLAUSES.split(message) if clause and clause.strip()]
    chosen: list[_Profile] = []
    for clause in clauses:
        best = _best(clause, profiles)
        if best is not None and best not in chosen:
            chosen.append(best)
    if not chosen:
        whole = _best(message, profiles)
        chosen = [] if whole is None else [whole]
    return chosen


def _best(text: str, profiles: Sequence[_Profile]) -> _Profile | None:
    asked = _asked(text)
    order = order_of(text)
    ordered = [profile for profile in profiles if order is not None and order in profile.orders]
    candidates = ordered or [profile for profile in profiles if not profile.orders]
    scored = [(_score(asked, profile), -position, profile) for position, profile in enumerate(candidates)]
    if not scored:
        return None
    score, _, best = max(scored, key=lambda entry: entry[:2])
    return best if score >= THRESHOLD else None


def _variants(tool: FunctionSpec, evidence: Evidence) -> list[Evidence]:
    """The message once per thing it asks about, if the tool answers about one quarter, year or option at a time."""
    reader = SchemaReader(tool.parameters)
    properties = reader.properties(reader.resolve(tool.parameters))
    words = {word for name in properties for word in plain_words(name)}
    quarters = [period for period in evidence.periods if period.quarter]
    if words & {"quarter", "period"} and len(quarters) > 1:
        return [evidence.only_period(period) for period in quarters[:MAX_VARIANTS]]
    months = [period for period in evidence.periods if period.month]
    if words & {"month", "period"} and len(months) > 1:
        return [evidence.only_period(period) for period in months[:MAX_VARIANTS]]
    for name, schema in properties.items():
        options: JsonValue = schema.get("enum")
        if isinstance(options, list) and type_of(schema) == "string":
            named = [option for option in enum_matches(options, evidence.text) if isinstance(option, str)]
            if len(named) > 1:
                return [evidence.choose(name, option) for option in named[:MAX_VARIANTS]]
    if "year" in words and not quarters and len(evidence.years) > 1:
        return [evidence.only_year(year) for year in evidence.years[:MAX_VARIANTS]]
    return [evidence]
