"""When an agent is to act by itself: `metadata.schedule` of its entry.

A schedule is an NCRONTAB expression, six fields in UTC (`{second} {minute} {hour} {day} {month} {day-of-week}`), or a
list of up to 16 objects `{cron, event_type?, payload?}`. They are looked at once a minute: of several ticks within a
minute the latest counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator

from aos.registry.entries import Finding

EVENT_TYPE = "schedule"
MOST = 16
FIELDS = 6
_NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat"
_NCRONTAB = re.compile(rf"(?:[0-9*/,\- ]|{_NAMES})+", re.IGNORECASE)
"""Not what else the parser takes: among it random times, which would differ from process to process."""
_MEANT = {
    "tuple_type": "It must be an NCRONTAB expression, or a list of objects with `cron`",
    "model_type": "It must be an object with `cron`",
}


class Schedule(BaseModel):
    """One schedule of an agent.

    Attributes:
        cron: NCRONTAB, six fields.
        event_type: Of the event that a tick becomes.
        payload: Of the event; without it the event says when the tick was due.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: Annotated[str, Field(max_length=200)]
    event_type: Annotated[str, Field(min_length=1, max_length=256)] = EVENT_TYPE
    payload: JsonValue = None

    @field_validator("cron")
    @classmethod
    def _readable(cls, cron: str) -> str:
        if len(cron.split()) != FIELDS or _NCRONTAB.fullmatch(cron) is None:
            fields = "second minute hour day month day-of-week"
            raise ValueError(f"NCRONTAB has six fields of numbers, names, `*`, `,`, `-` and `/`: {fields}")
        previous_tick(cron, 0.0)
        return cron

    def previous(self, at: float) -> float:
        """The last tick at or before a time; both in seconds since the epoch."""
        return previous_tick(self.cron, at)

    def following(self, at: float) -> float:
        """The first tick after a time."""
        return next_tick(self.cron, at)


_LIST: TypeAdapter[tuple[Schedule, ...]] = TypeAdapter(Annotated[tuple[Schedule, ...], Field(max_length=MOST)])


def schedules(metadata: Mapping[str, JsonValue]) -> tuple[Schedule, ...]:
    """The schedules of an agent; `schedule_faults` says first whether they are valid."""
    given = metadata.get("schedule")
    if given is None:
        return ()
    return _LIST.validate_python([{"cron": given}] if isinstance(given, str) else given)


def schedule_faults(metadata: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """What is wrong with `metadata.schedule`."""
    try:
        schedules(metadata)
    except ValidationError as error:
        alone = isinstance(metadata.get("schedule"), str)
        for details in error.errors(include_url=False, include_input=False):
            at = () if alone else details["loc"]
            what = details["msg"].removeprefix("Value error, ").replace("Input", "It", 1)
            yield ("metadata", "schedule", *at), _MEANT.get(details["type"], what) + "."


def schedule_cautions(metadata: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """Schedules that tick more often than they are looked at."""
    alone = isinstance(metadata.get("schedule"), str)
    for index, schedule in enumerate(schedules(metadata)):
        first = schedule.following(0.0)
        if schedule.following(first) - first < 60.0:
            yield (
                ("metadata", "schedule") if alone else ("metadata", "schedule", index),
                f"{schedule.cron!r} ticks more than once a minute; the latest tick of each minute counts.",
            )


def previous_tick(cron: str, at: float) -> float:
    """The last time at or before another one at which a schedule ticks."""
    return _tick(cron, int(at) + 1, back=True)


def next_tick(cron: str, at: float) -> float:
    """The first time after another one at which a schedule ticks."""
    return _tick(cron, int(at), back=False)


@lru_cache(maxsize=4096)
def _tick(cron: str, at: int, *, back: bool) -> float:
    from croniter import CroniterError, croniter

    try:
        # A day of the month and a day of the week have to come together, as in the timers of Azure Functions.
        start = datetime.fromtimestamp(at, UTC)
        ticks = croniter(cron, start, ret_type=float, second_at_beginning=True, day_or=False)
        return float(ticks.get_prev() if back else ticks.get_next())
    except (CroniterError, KeyError) as error:
        raise ValueError(f"{cron!r} is no NCRONTAB expression: {error}") from None
