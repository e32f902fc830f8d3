"""The holidays of three calendars, from the rules that their keepers publish.

TARGET: European Central Bank, T2 closing days. USFED: 5 U.S.C. 6103 and the Federal Reserve's service schedule (a
holiday on a Saturday is not moved, one on a Sunday is kept on Monday). ENGLAND: Banking and Financial Dealings Act 1971
with the proclaimed changes of single years.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache
from typing import Literal

Calendar = Literal["TARGET", "USFED", "ENGLAND"]

FIRST_YEAR, LAST_YEAR = 2007, 2100
"""From 2007 on the rules of all three are those given here; Juneteenth joined in 2021."""

MONDAY, THURSDAY = 0, 3
SATURDAY, SUNDAY = 5, 6


def easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar (Meeus, Astronomical Algorithms, chapter 8)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    month, day = divmod(h + m - 7 * ((a + 11 * h + 22 * m) // 451) + 114, 31)
    return date(year, month, day + 1)


@lru_cache(maxsize=512)
def holidays(calendar: Calendar, year: int) -> dict[date, str]:
    """The holidays of a year by day, in order; for those that are moved, the day on which they are kept."""
    match calendar:
        case "TARGET":
            found = _target(year)
        case "USFED":
            found = _usfed(year)
        case "ENGLAND":
            found = _england(year)
    return dict(sorted(found.items()))


def is_business_day(calendar: Calendar, day: date) -> bool:
    """Whether it is neither a weekend nor a holiday."""
    return day.weekday() < SATURDAY and day not in holidays(calendar, day.year)


def _target(year: int) -> dict[date, str]:
    sunday = easter(year)
    return {
        date(year, 1, 1): "New Year's Day",
        sunday - timedelta(2): "Good Friday",
        sunday + timedelta(1): "Easter Monday",
        date(year, 5, 1): "Labour Day",
        date(year, 12, 25): "Christmas Day",
        date(year, 12, 26): "Christmas Holiday",
    }


def _usfed(year: int) -> dict[date, str]:
    fixed = {
        date(year, 1, 1): "New Year's Day",
        date(year, 7, 4): "Independence Day",
        date(year, 11, 11): "Veterans Day",
        date(year, 12, 25): "Christmas Day",
    }
    if year >= 2021:
        fixed[date(year, 6, 19)] = "Juneteenth National Independence Day"
    kept = {day + timedelta(1) if day.weekday() == SUNDAY else day: name for day, name in fixed.items()}
    return kept | {
        _nth(year, 1, MONDAY, 3): "Birthday of Martin Luther King, Jr.",
        _nth(year, 2, MONDAY, 3): "Washington's Birthday",
        _last_monday(year, 5): "Memorial Day",
        _nth(year, 9, MONDAY, 1): "Labor Day",
        _nth(year, 10, MONDAY, 2): "Columbus Day",
        _nth(year, 11, THURSDAY, 4): "Thanksgiving Day",
    }


def _england(year: int) -> dict[date, str]:
    sunday = easter(year)
    found = {
        sunday - timedelta(2): "Good Friday",
        sunday + timedelta(1): "Easter Monday",
        _nth(year, 5, MONDAY, 1): "Early May bank holiday",
        _last_monday(year, 5): "Spring bank holiday",
        _last_monday(year, 8): "Summer bank holiday",
    }
    fixed = [
        (date(year, 1, 1), "New Year's Day"),
        (date(year, 12, 25), "Christmas Day"),
        (date(year, 12, 26), "Boxing Day"),
    ]
    # Those that need a substitute take what the others leave.
    for day, name in sorted(fixed, key=lambda pair: pair[0].weekday() >= SATURDAY):
        found[_next_free(day, found)] = name
    for old, new in _MOVED.get(year, {}).items():
        found[new] = found.pop(old)
    return found | _PROCLAIMED.get(year, {})


_MOVED = {
    2012: {date(2012, 5, 28): date(2012, 6, 4)},
    2020: {date(2020, 5, 4): date(2020, 5, 8)},
    2022: {date(2022, 5, 30): date(2022, 6, 2)},
}
_PROCLAIMED = {
    2011: {date(2011, 4, 29): "Wedding of Prince William"},
    2012: {date(2012, 6, 5): "Diamond Jubilee of Elizabeth II"},
    2022: {
        date(2022, 6, 3): "Platinum Jubilee of Elizabeth II",
        date(2022, 9, 19): "State funeral of Elizabeth II",
    },
    2023: {date(2023, 5, 8): "Coronation of Charles III"},
}


def _next_free(day: date, taken: dict[date, str]) -> date:
    """The day, or its substitute: the next weekday that is no holiday."""
    while day.weekday() >= SATURDAY or day in taken:
        day += timedelta(1)
    return day


def _nth(year: int, month: int, weekday: int, number: int) -> date:
    first = date(year, month, 1)
    return first + timedelta((weekday - first.weekday()) % 7 + 7 * (number - 1))


def _last_monday(year: int, month: int) -> date:
    last = date(year, month, 31)
    return last - timedelta(last.weekday())
