"""Schedules as an agent's entry sets them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import JsonValue

from aos.registry.agents import AgentRegistry, parse_agents
from aos.registry.schedules import Schedule, schedules


def parsed(schedule: JsonValue) -> AgentRegistry:
    entry = {
        "agent_id": "ceo",
        "purpose": "Leads",
        "domain_knowledge": {"domain": "ceo"},
        "metadata": {"schedule": schedule},
    }
    return parse_agents(json.dumps({"version": "1.0", "agents": [entry]}).encode())


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_schedule_is_an_expression_or_a_list() -> None:
    (entry,) = parsed("0 30 9 * * mon-FRI").enabled
    assert schedules(entry.metadata) == (Schedule(cron="0 30 9 * * mon-FRI"),)
    listed: JsonValue = [
        {"cron": "0 0 * * * *"},
        {"cron": "0 0 0 1 * *", "event_type": "Month", "payload": {"message": "Close."}},
    ]
    registry = parsed(listed)
    assert schedules(registry.enabled[0].metadata)[1].payload == {"message": "Close."}
    assert registry.warnings == ()
    assert schedules({}) == ()


@pytest.mark.parametrize(
    ("schedule", "pointer", "said"),
    [
        ("*/5 * * * *", "", "six fields"),
        ("61 * * * * *", "", "NCRONTAB"),
        ("0 0 0 30 2 *", "", "NCRONTAB"),
        ("R R R R R R", "", "six fields"),
        ("0 0 0 L * *", "", "six fields"),
        (7, "", "NCRONTAB expression, or a list"),
        ([{"cron": "0 0 0 * * *"}, {"event_type": "x"}], "/1/cron", "required"),
        ([{"cron": "0 0 0 * * *", "event_type": ""}], "/0/event_type", "1 character"),
        ([{"cron": "0 0 0 * * *", "when": 1}], "/0/when", ""),
        (["0 0 0 * * *"], "/0", "an object"),
        ([{"cron": "0 0 0 * * *"}] * 17, "", "16"),
    ],
)
def test_a_schedule_that_cannot_be_read_makes_the_entry_bad(schedule: JsonValue, pointer: str, said: str) -> None:
    registry = parsed(schedule)
    assert registry.enabled == ()
    (problem,) = registry.problems
    assert problem.pointer == f"/agents/0/metadata/schedule{pointer}"
    assert said in problem.detail


@pytest.mark.parametrize(("schedule", "pointer"), [("*/10 * * * * *", ""), ([{"cron": "0,30 0 9 * * *"}], "/0")])
def test_what_ticks_more_often_than_it_is_looked_at_is_warned_of(schedule: JsonValue, pointer: str) -> None:
    registry = parsed(schedule)
    assert len(registry.enabled) == 1
    (warning,) = registry.warnings
    assert warning.pointer == f"/agents/0/metadata/schedule{pointer}"


@pytest.mark.parametrize(
    ("cron", "now", "before", "after"),
    [
        ("0 0 * * * *", "2026-03-01T10:00:00", "2026-03-01T10:00:00", "2026-03-01T11:00:00"),
        ("0 0 * * * *", "2026-03-01T10:59:59", "2026-03-01T10:00:00", "2026-03-01T11:00:00"),
        ("30 15 9 * * 1-5", "2026-03-01T12:00:00", "2026-02-27T09:15:30", "2026-03-02T09:15:30"),
        ("0 0 0 29 2 *", "2026-03-01T12:00:00", "2024-02-29T00:00:00", "2028-02-29T00:00:00"),
        ("0 0 0 13 * fri", "2026-03-01T12:00:00", "2026-02-13T00:00:00", "2026-03-13T00:00:00"),
    ],
)
def test_ticks_before_and_after_a_time(cron: str, now: str, before: str, after: str) -> None:
    schedule = Schedule(cron=cron)
    assert (schedule.previous(at(now)), schedule.following(at(now))) == (at(before), at(after))
