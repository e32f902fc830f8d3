"""The MCP server: its tools over the calendars. All of them only read."""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from examples.business_calendar.holidays import FIRST_YEAR, LAST_YEAR, Calendar, holidays, is_business_day

SERVER_NAME = "business-calendar"
VERSION = "1.0.0"
FARTHEST = 2500
"""Business days that can be counted forth or back: ten years."""

READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

WhichCalendar = Annotated[
    Calendar, Field(description="TARGET: euro payments; USFED: US banks; ENGLAND: bank holidays in England and Wales.")
]
Year = Annotated[int, Field(ge=FIRST_YEAR, le=LAST_YEAR, description="Calendar year, such as 2026.")]
Day = Annotated[Date, Field(description="Day, YYYY-MM-DD.")]


class Holiday(BaseModel):
    date: Date
    weekday: str
    name: str


class Holidays(BaseModel):
    calendar: str
    year: int
    holidays: list[Holiday]


class DayFacts(BaseModel):
    """`next_business_day` is the day itself if it is one."""

    date: Date
    weekday: str
    business_day: bool
    holiday: str | None
    next_business_day: Date


class BusinessDays(BaseModel):
    """`calendar_days` and `business_days` count the days after `from_date` up to and with `to_date`."""

    calendar: str
    from_date: Date
    to_date: Date
    calendar_days: int
    business_days: int
    holidays: list[Holiday]


class Shifted(BaseModel):
    calendar: str
    start: Date
    business_days: int
    date: Date
    weekday: str


def list_holidays(calendar: WhichCalendar, year: Year) -> Holidays:
    """The holidays of a year on which payments rest; those that are moved, on the day on which they are kept."""
    found = [_holiday(day, name) for day, name in holidays(calendar, year).items()]
    return Holidays(calendar=calendar, year=year, holidays=found)


def get_day(calendar: WhichCalendar, date: Day) -> DayFacts:
    """Whether a day is a business day, which holiday it is, and which business day comes at or after it."""
    _check(date)
    following = date
    while not is_business_day(calendar, following):
        following += timedelta(1)
    return DayFacts(
        date=date,
        weekday=f"{date:%A}",
        business_day=following == date,
        holiday=holidays(calendar, date.year).get(date),
        next_business_day=following,
    )


def count_business_days(
    calendar: WhichCalendar,
    from_date: Annotated[Date, Field(description="Day after which counting begins, YYYY-MM-DD.")],
    to_date: Annotated[Date, Field(description="Last day that is counted, YYYY-MM-DD.")],
) -> BusinessDays:
    """How many business days lie between two days, and which holidays fall on weekdays between them."""
    _check(from_date)
    _check(to_date)
    if to_date < from_date:
        raise ToolError(f"to_date {to_date} is before from_date {from_date}; give them in order")
    if (to_date - from_date).days > FARTHEST * 2:
        raise ToolError(f"from {from_date} to {to_date} is too long; ask for at most {FARTHEST * 2} days at once")
    days = [from_date + timedelta(number) for number in range(1, (to_date - from_date).days + 1)]
    return BusinessDays(
        calendar=calendar,
        from_date=from_date,
        to_date=to_date,
        calendar_days=len(days),
        business_days=sum(is_business_day(calendar, day) for day in days),
        holidays=[
            _holiday(day, holidays(calendar, day.year)[day])
            for day in days
            if day.weekday() < 5 and day in holidays(calendar, day.year)
        ],
    )


def add_business_days(
    calendar: WhichCalendar,
    start: Annotated[Date, Field(description="Day from which to count, such as that of an invoice, YYYY-MM-DD.")],
    business_days: Annotated[
        int, Field(ge=-FARTHEST, le=FARTHEST, description="How many business days later; negative: earlier.")
    ],
) -> Shifted:
    """The day that lies so many business days after another, such as when a payment is due; 0: the next one at hand."""
    _check(start)
    step, day, left = timedelta(-1 if business_days < 0 else 1), start, abs(business_days)
    while left or not is_business_day(calendar, day):
        day += step
        _check(day)
        left -= left > 0 and is_business_day(calendar, day)
    return Shifted(calendar=calendar, start=start, business_days=business_days, date=day, weekday=f"{day:%A}")


def build_server() -> MCPServer:
    """The server, ready to run on any transport."""
    server: MCPServer = MCPServer(
        SERVER_NAME,
        title="Business calendar",
        instructions="Holidays and business days of euro payments (TARGET), US banks and England. Days are YYYY-MM-DD.",
        version=VERSION,
        log_level="WARNING",
    )
    for tool in (list_holidays, get_day, count_business_days, add_business_days):
        server.add_tool(tool, annotations=READS)
    return server


def _holiday(day: Date, name: str) -> Holiday:
    return Holiday(date=day, weekday=f"{day:%A}", name=name)


def _check(day: Date) -> None:
    # A holiday of the next year may matter for the last days.
    if not FIRST_YEAR <= day.year < LAST_YEAR:
        raise ToolError(f"{day} is outside the calendars; give a day from {FIRST_YEAR} to {LAST_YEAR - 1}")
