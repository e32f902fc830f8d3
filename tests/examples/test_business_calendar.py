"""The calendars against days that their keepers published, and the server over streamable HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from examples.business_calendar.holidays import Calendar, easter, holidays, is_business_day

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("year", "day"),
    [
        (2008, "03-23"),
        (2011, "04-24"),
        (2019, "04-21"),
        (2024, "03-31"),
        (2025, "04-20"),
        (2026, "04-05"),
        (2038, "04-25"),
    ],
)
def test_easter(year: int, day: str) -> None:
    assert easter(year) == date.fromisoformat(f"{year}-{day}")


@pytest.mark.parametrize(
    ("calendar", "year", "days"),
    [
        ("TARGET", 2025, "01-01 04-18 04-21 05-01 12-25 12-26"),
        ("USFED", 2023, "01-02 01-16 02-20 05-29 06-19 07-04 09-04 10-09 11-11 11-23 12-25"),
        ("USFED", 2020, "01-01 01-20 02-17 05-25 07-04 09-07 10-12 11-11 11-26 12-25"),
        ("ENGLAND", 2021, "01-01 04-02 04-05 05-03 05-31 08-30 12-27 12-28"),
        ("ENGLAND", 2022, "01-03 04-15 04-18 05-02 06-02 06-03 08-29 09-19 12-26 12-27"),
        ("ENGLAND", 2023, "01-02 04-07 04-10 05-01 05-08 05-29 08-28 12-25 12-26"),
        ("ENGLAND", 2020, "01-01 04-10 04-13 05-08 05-25 08-31 12-25 12-28"),
        ("ENGLAND", 2012, "01-02 04-06 04-09 05-07 06-04 06-05 08-27 12-25 12-26"),
    ],
)
def test_holidays_as_they_were_published(calendar: Calendar, year: int, days: str) -> None:
    assert [f"{day:%m-%d}" for day in holidays(calendar, year)] == days.split()


def test_a_substitute_keeps_its_name() -> None:
    found = holidays("ENGLAND", 2022)
    assert (found[date(2022, 12, 26)], found[date(2022, 12, 27)]) == ("Boxing Day", "Christmas Day")


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.business_calendar", "--port", "0"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    yield (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
    process.terminate()
    await process.wait()


async def call(url: str, tool: str, **arguments: Any) -> dict[str, Any]:
    async with Client(url, read_timeout_seconds=60) as client:
        result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    content: dict[str, Any] | None = result.structured_content
    assert content is not None
    return content


async def test_due_dates(url: str) -> None:
    due = await call(url, "add_business_days", calendar="TARGET", start="2026-04-02", business_days=3)
    assert (due["date"], due["weekday"]) == ("2026-04-09", "Thursday")  # Good Friday and Easter Monday lie between
    back = await call(url, "add_business_days", calendar="TARGET", start="2026-04-09", business_days=-3)
    assert back["date"] == "2026-04-02"
    at_hand = await call(url, "add_business_days", calendar="ENGLAND", start="2026-12-26", business_days=0)
    assert at_hand["date"] == "2026-12-29"


async def test_counting_days(url: str) -> None:
    found = await call(url, "count_business_days", calendar="USFED", from_date="2026-06-30", to_date="2026-07-31")
    assert (found["calendar_days"], found["business_days"]) == (31, 23)
    found = await call(url, "count_business_days", calendar="USFED", from_date="2026-11-20", to_date="2026-11-27")
    assert [day["name"] for day in found["holidays"]] == ["Thanksgiving Day"]
    day = await call(url, "get_day", calendar="TARGET", date="2026-05-01")
    assert (day["business_day"], day["holiday"], day["next_business_day"]) == (False, "Labour Day", "2026-05-04")


async def test_what_cannot_be_counted_is_said(url: str) -> None:
    async with Client(url, read_timeout_seconds=60) as client:
        result = await client.call_tool(
            "count_business_days", {"calendar": "TARGET", "from_date": "2026-02-01", "to_date": "2026-01-01"}
        )
        assert result.is_error
        assert "give them in order" in str(result.content[0])
        tools = (await client.list_tools()).tools
    assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)


async def test_a_foreign_host_header_is_refused(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        answer = await http.post(url, headers={"host": "evil.example"}, json={})
    assert answer.status_code == 421


@given(
    st.sampled_from(["TARGET", "USFED", "ENGLAND"]), st.dates(date(2008, 1, 1), date(2099, 1, 1)), st.integers(1, 60)
)
def test_counting_undoes_adding(calendar: Calendar, start: date, number: int) -> None:
    from examples.business_calendar.server import add_business_days, count_business_days

    end = add_business_days(calendar, start, number).date
    assert is_business_day(calendar, end)
    assert count_business_days(calendar, start, end).business_days == number
    assert end - start >= timedelta(number)
