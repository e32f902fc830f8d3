"""Timer routes on hosts without a timer of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from croniter import CroniterBadCronError, croniter

from runtime.config_loader import RuntimeConfigError
from runtime.messages import TimerTick
from runtime.routes import TimerRoute, is_setting_reference

log = logging.getLogger("runtime.timers")

# A tick that starts later than this counts as past due.
PAST_DUE_SECONDS = 1.0
# Sleeping is cut into pieces, so that a step of the wall clock is noticed.
_LONGEST_SLEEP_SECONDS = 30.0
# A larger step back corrects a clock that was wrong: nothing waits for what was due by it.
_STEP_BACK_SECONDS = 60.0

TickRunner = Callable[[TimerRoute, TimerTick], Awaitable[None]]


class Timer:
    """Runs one timer route, one tick at a time.

    A tick that falls due while the handler runs, or while the process was down, is skipped: schedules say when to look,
    not how often something happened. What a handler raises is logged; the next tick comes all the same.
    Raises `RuntimeConfigError` if the schedule, or the setting that it refers to, is unusable.
    """

    def __init__(self, route: TimerRoute, settings: Mapping[str, str], run: TickRunner) -> None:
        self._route = route
        self._run = run
        self._schedule = _resolve_schedule(route, settings)
        self._failure = ""

    async def run(self) -> None:
        """Tick until cancelled."""
        if self._route.run_on_startup:
            await self._tick(_now())
        due: datetime | None = None
        while True:
            due = next_tick(self._schedule, _after(due))
            left = _seconds_until(due)
            while left > 0:
                await asyncio.sleep(min(left, _LONGEST_SLEEP_SECONDS))
                left = _seconds_until(due)
            await self._tick(due)

    async def _tick(self, due: datetime) -> None:
        late = -_seconds_until(due) > PAST_DUE_SECONDS
        try:
            await self._run(self._route, TimerTick(self._route.name, due, past_due=late))
        except Exception as error:
            # What lasts, such as a missing setting, is told in full once, not with every tick.
            # Azure's errors have the id and the time of the request in their further lines.
            failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            if failure == self._failure:
                log.error("timer %s failed again: %s", self._route.name, failure)
            else:
                log.exception("timer %s failed", self._route.name)
            self._failure = failure
        else:
            self._failure = ""


def next_tick(schedule: str, after: datetime) -> datetime:
    """The first due time of an NCRONTAB schedule after a time (UTC).

    Where a schedule names both days of the month and days of the week, a day has to be both: that is NCRONTAB's rule
    and so the Functions host's; the Unix crontab takes a day that is either.
    """
    due: datetime = croniter(schedule, after, ret_type=datetime, second_at_beginning=True, day_or=False).get_next()
    return due


def _now() -> datetime:
    return datetime.now(UTC)


def _after(last: datetime | None) -> datetime:
    """From when the next tick is looked for: a clock that is set back a little does not repeat the last one."""
    now = _now()
    if last is None or (last - now).total_seconds() > _STEP_BACK_SECONDS:
        return now
    return max(last, now)


def _seconds_until(due: datetime) -> float:
    return (due - _now()).total_seconds()


def _resolve_schedule(route: TimerRoute, settings: Mapping[str, str]) -> str:
    schedule = route.schedule
    if is_setting_reference(schedule):
        setting = schedule.strip("%")
        schedule = settings.get(setting, "")
        if not schedule:
            raise RuntimeConfigError({setting: f"is not set; the timer {route.name!r} takes its schedule from it"})
    try:
        if len(schedule.split()) != 6:
            raise CroniterBadCronError("NCRONTAB has six fields: second minute hour day month day-of-week")
        next_tick(schedule, datetime.now(UTC))
    except (ValueError, KeyError) as error:
        raise RuntimeConfigError({route.schedule: f"schedule of timer {route.name!r}: {error}"}) from None
    return schedule
