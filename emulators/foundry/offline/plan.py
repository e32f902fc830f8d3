"""Which tools a message asks for, and with which arguments."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emulators.foundry.model import FunctionSpec, JsonObject
from emulators.foundry.offline.arguments import fill
from emulators.foundry.offline.evidence import Evidence, gather
from emulators.foundry.offline.schema import SchemaReader, type_of
from emulators.foundry.offline.strings import enum_matches
from emulators.foundry.offline.talk_patterns import FOLLOW_UP, STATEMENT, is_small_talk
from emulators.foundry.offline.verbs import order_of, stands_alone, writing_verbs
from emulators.foundry.offline.words import concepts, plain_words

THRESHOLD = 1.2
MAX_VARIANTS = 4
MAX_CALLS = 8
_CLAUSES = re.compile(r"[.;?!](?:\s+|$)|,?\s+\b(?:and then|then|and also|as well as|and|also)\b\s+|\n+", re.IGNORECASE)
_NAME_WEIGHT, _PROPERTY_WEIGHT, _DESCRIPTION_WEIGHT = 2.0, 1.0, 1.0
_TIME_WEIGHT, _RANGE_WEIGHT = 1.5, 1.0


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
    arguments: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Words:
    name: frozenset[str]
    description: frozenset[str]
    arguments: frozenset[str]

    @staticmethod
    def of(tool: FunctionSpec, bare_name: str) -> _Words:
        return _Words(
            frozenset(concepts(bare_name)),
            frozenset(concepts(tool.description)),
            frozenset(_schema_words(tool.parameters)),
        )


def same_arguments(left: str, right: str) -> bool:
    """Whether two JSON texts mean the same value; texts that are no JSON are compared as they are."""
    try:
        return bool(json.loads(left) == json.loads(right))
    except json.JSONDecodeError:
        return left == right


def plan_calls(
    message: str, tools: Sequence[FunctionSpec], tool_choice: str = "auto", earlier: Sequence[str] = ()
) -> Plan:
    """Choose tools by the words they share with the message and fill their arguments.

    ``tool_choice``: ``auto``, ``required`` (the best tool even if none fits) or the name of a function. ``earlier``
    are the user's messages before: what ``And in Q2?`` asks about is there.
    """
    profiles = _profiles(tools)
    if not profiles:
        return Plan(())
    forced = [profile for profile in profiles if profile.tool.name == tool_choice]
    chosen: Sequence[_Profile] = forced or _named(message, profiles)
    if not chosen and not is_small_talk(message):
        chosen = _chosen(message, profiles)
        if earlier and FOLLOW_UP.match(message):
            chosen = [profile for profile in _chosen(earlier[-1], profiles) if not profile.orders] or chosen
    if not chosen and tool_choice == "required":
        chosen = [max(profiles, key=lambda profile: _score(message, profile))]
    evidence = gather(message, "\n".join(earlier))
    return _filled(evidence, chosen, insist=bool(forced) or tool_choice == "required")


def _filled(evidence: Evidence, chosen: Sequence[_Profile], *, insist: bool) -> Plan:
    calls: list[PlannedCall] = []
    lacking: list[tuple[str, tuple[str, ...]]] = []
    for profile in chosen:
        for variant in _variants(profile.tool, evidence):
            filled = fill(profile.tool.parameters, variant, profile.name_concepts)
            # nothing is changed on a mere likelihood; looking something up may rest on one, but not on a guess
            unknown = (*filled.guessed, *(filled.likely if profile.orders else ()))
            if filled.missing or (unknown and not insist):
                lacking.append((profile.tool.name, tuple(dict.fromkeys((*filled.missing, *unknown)))))
                break
            call = PlannedCall(profile.tool.name, filled.text())
            if call not in calls:
                calls.append(call)
    return Plan(tuple(calls[:MAX_CALLS]), tuple(lacking))


def _profiles(tools: Sequence[FunctionSpec]) -> list[_Profile]:
    fields = [_Words.of(tool, _bare_name(tool.name, tools)) for tool in tools]
    told = Counter(word for field in fields for word in field.name | field.description)
    taken = Counter(word for field in fields for word in field.arguments)
    others = max(len(fields) - 1, 1)
    profiles: list[_Profile] = []
    for tool, field in zip(tools, fields, strict=True):
        # a word that every tool has tells little (0.5), one that only this tool has tells much (1.5)
        weights: dict[str, float] = {}
        for words_of_field, weight, spread in (
            (field.arguments, _PROPERTY_WEIGHT, taken),
            (field.description, _DESCRIPTION_WEIGHT, told),
            (field.name, _NAME_WEIGHT, told),
        ):
            for word in words_of_field:
                worth = weight * (1.5 - (spread[word] - 1) / others)
                weights[word] = max(worth, weights.get(word, 0.0))
        words = plain_words(_bare_name(tool.name, tools))
        orders = writing_verbs(words) or (
            writing_verbs(plain_words(tool.description)[:1]) if not _reads(words) else frozenset()
        )
        profiles.append(_Profile(tool, weights, field.name, orders, _argument_words(tool.parameters)))
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


def _argument_words(parameters: JsonObject) -> frozenset[str]:
    reader = SchemaReader(parameters)
    return frozenset(word for name in reader.properties(reader.resolve(parameters)) for word in plain_words(name))


def _schema_words(parameters: JsonObject) -> Iterator[str]:
    reader = SchemaReader(parameters)
    for name, schema in reader.properties(reader.resolve(parameters)).items():
        yield from concepts(name)
        for option in reader.options(schema):
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


def _score(text: str, profile: _Profile) -> float:
    words = sum(profile.weights.get(word, 0.0) for word in concepts(text))
    return words + _timely(gather(text), profile)


def _timely(evidence: Evidence, profile: _Profile) -> float:
    """How well a tool fits the times that a message names: by their own unit, or as a range of dates."""
    quarters = any(period.quarter for period in evidence.periods)
    if quarters and profile.arguments & {"quarter", "period"}:
        return _TIME_WEIGHT
    if (evidence.years or evidence.periods) and "year" in profile.arguments:
        return _TIME_WEIGHT
    return _RANGE_WEIGHT if (evidence.dates or evidence.years) and "date" in profile.arguments else 0.0


def _chosen(message: str, profiles: Sequence[_Profile]) -> list[_Profile]:
    clauses = _clauses(message, profiles)
    chosen: list[_Profile] = []
    for clause in clauses:
        if STATEMENT.match(clause) and "?" not in message:
            continue
        best = _best(clause, profiles)
        if best is not None and best not in chosen:
            chosen.append(best)
    if not chosen and not all(STATEMENT.match(clause) for clause in clauses):
        whole = _best(message, profiles)
        chosen = [] if whole is None else [whole]
    return chosen


def _clauses(message: str, profiles: Sequence[_Profile]) -> list[str]:
    """The parts of a message that ask for something of their own: ``profit and loss`` is one part, not two."""
    names = frozenset[str]().union(*(profile.name_concepts for profile in profiles))
    parts: list[str] = []
    for clause in _CLAUSES.split(message):
        if not clause or not clause.strip():
            continue
        if parts and not stands_alone(clause) and not names & set(concepts(clause)):
            parts[-1] = f"{parts[-1]} {clause}"
        else:
            parts.append(clause)
    return parts


def _best(text: str, profiles: Sequence[_Profile]) -> _Profile | None:
    order = order_of(text)
    ordered = [profile for profile in profiles if order is not None and order in profile.orders]
    candidates = ordered or [profile for profile in profiles if not profile.orders]
    scored = [(_score(text, profile), -position, profile) for position, profile in enumerate(candidates)]
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
        if type_of(schema) != "array":
            named = [option for option in enum_matches(reader.options(schema), evidence.text) if option is not None]
            if len(named) > 1:
                return [evidence.choose(name, option) for option in named[:MAX_VARIANTS]]
    if "year" in words and not quarters and len(evidence.years) > 1:
        return [evidence.only_year(year) for year in evidence.years[:MAX_VARIANTS]]
    return [evidence]
