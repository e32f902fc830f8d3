from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from runtime import RouteRegistry, RuntimeConfigError, TimerRoute, TimerTick, timers
from runtime.timers import Timer, next_tick

MONDAY = datetime(2026, 1, 5, 10, 0, 0, tzinfo=UTC)


def route(schedule: str, *, run_on_startup: bool = False) -> TimerRoute:
    return RouteRegistry().register_timer("sweep", schedule, lambda tick: tick, run_on_startup=run_on_startup)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("*/30 * * * * *", MONDAY + timedelta(seconds=30)),
        ("0 */5 * * * *", MONDAY + timedelta(minutes=5)),
        ("15 30 9-17 * * *", MONDAY + timedelta(minutes=30, seconds=15)),
        ("0 0 8 * * 1", MONDAY + timedelta(days=6, hours=22)),
        ("0 0 8 * * Mon-Fri", MONDAY + timedelta(hours=22)),
        ("0 0 0 1 * *", datetime(2026, 2, 1, tzinfo=UTC)),
        # Both days: the first Monday of a month that is not over yet, and a Friday the 13th.
        ("0 0 9 1-7 * MON", datetime(2026, 2, 2, 9, tzinfo=UTC)),
        ("0 0 0 13 * FRI", datetime(2026, 2, 13, tzinfo=UTC)),
    ],
)
def test_next_tick_reads_ncrontab_with_seconds_first(schedule: str, due: datetime) -> None:
    assert next_tick(schedule, MONDAY) == due


@pytest.mark.parametrize("schedule", ["0 99 * * * *", "a b c d e f", "0 0 0 31 2 *"])
def test_an_unusable_schedule_names_the_timer(schedule: str) -> None:
    with pytest.raises(RuntimeConfigError, match="schedule of timer 'sweep'"):
        Timer(route(schedule), {}, run=ignore)


def test_a_schedule_may_be_a_setting() -> None:
    with pytest.raises(RuntimeConfigError, match="%SWEEP%: schedule of timer"):
        Timer(route("%SWEEP%"), {"SWEEP": "* * * * *"}, run=ignore)
    Timer(route("%SWEEP%"), {"SWEEP": "0 * * * * *"}, run=ignore)


async def ignore(route: TimerRoute, tick: TimerTick) -> None:
    del route, tick


class Clock:
    """Time that passes while the timer sleeps, and as its handler says."""

    def __init__(self) -> None:
        self.now = MONDAY + timedelta(seconds=0.4)

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timers, "_now", made)
    monkeypatch.setattr(timers, "asyncio", made)
    return made


def run_until_cancelled(timer: Timer) -> None:
    """In a loop of its own: timers that sleep in the tests' loop must not come to feel the clock."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(timer.run())


def test_ticks_come_on_the_second_even_after_one_that_raised(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    ticks: list[TimerTick] = []
    at: list[datetime] = []

    async def run(timer: TimerRoute, tick: TimerTick) -> None:
        assert timer.name == tick.name == "sweep"
        ticks.append(tick)
        at.append(clock.now)
        if len(ticks) == 3:
            raise asyncio.CancelledError
        raise RuntimeError(f"logged\nRequestId:{len(ticks)}")

    run_until_cancelled(Timer(route("* * * * * *", run_on_startup=True), {}, run))
    told = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
    assert told == [("timer sweep failed", True), ("timer sweep failed again: RuntimeError: logged", False)]
    assert [tick.scheduled_for for tick in ticks] == at == [MONDAY + timedelta(seconds=s) for s in (0.4, 1, 2)]
    assert not any(tick.past_due for tick in ticks)


def test_ticks_missed_while_the_handler_runs_are_not_made_up_for(clock: Clock) -> None:
    ticks: list[datetime] = []

    async def run(_: TimerRoute, tick: TimerTick) -> None:
        ticks.append(tick.scheduled_for)
        if len(ticks) == 2:
            raise asyncio.CancelledError
        clock.now += timedelta(seconds=1.2)

    run_until_cancelled(Timer(route("* * * * * *"), {}, run))
    assert ticks == [MONDAY + timedelta(seconds=1), MONDAY + timedelta(seconds=3)]


@pytest.mark.parametrize(("back", "again"), [(0.5, False), (3600.0, True)])
def test_a_small_step_back_of_the_clock_repeats_no_tick(clock: Clock, back: float, again: bool) -> None:
    """A large one corrects a clock that was wrong."""
    ticks: list[datetime] = []

    async def run(_: TimerRoute, tick: TimerTick) -> None:
        ticks.append(tick.scheduled_for)
        if len(ticks) == 2:
            raise asyncio.CancelledError
        clock.now -= timedelta(seconds=back)

    run_until_cancelled(Timer(route("* * * * * *"), {}, run))
    assert (ticks[1] < ticks[0]) == again
    assert ticks[1] != ticks[0]
