"""What a message states that could be an argument: quoted texts, quarters, years, dates, numbers, names."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_name) if name}
_MONTHS |= {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_MONTH = "(" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_YEAR = r"((?:19|20)\d\d)"
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4}
_SCALES = {"k": 1_000, "thousand": 1_000, "m": 1_000_000, "million": 1_000_000, "bn": 10**9, "billion": 10**9}

_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|(?<!\w)'([^'\n]+)'(?!\w)|`([^`\n]+)`")
_URL = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)]")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_ISO_DATE = re.compile(r"\b((?:19|20)\d\d)-(\d\d)-(\d\d)\b")
_DAY_MONTH = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+{_YEAR}\b", re.IGNORECASE)
_MONTH_DAY = re.compile(rf"\b{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+{_YEAR}\b", re.IGNORECASE)
_MONTH_YEAR = re.compile(rf"\b{_MONTH}\s+(?:of\s+)?{_YEAR}\b", re.IGNORECASE)
_QUARTER = re.compile(
    rf"\bQ([1-4])\b(?:\s*(?:of\s+)?[/-]?\s*{_YEAR}\b)?|\b{_YEAR}[\s/-]*Q([1-4])\b"
    rf"|\b(first|second|third|fourth)\s+quarter\b(?:\s+(?:of\s+)?{_YEAR}\b)?",
    re.IGNORECASE,
)
_PLAIN_YEAR = re.compile(rf"(?<![\d.,$€£-]){_YEAR}(?![\d%]|[.,]\d|\s*(?:k|thousand|million|m|bn|billion)\b)")
_CODE = re.compile(r"\b[A-Z]{2,}-?\d[\w-]*\b")
_NUMBER = re.compile(
    r"(?P<money>[$€£]|\b(?:USD|EUR|GBP)\s)?\s*(?P<digits>-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)"
    r"(?:\s*(?P<scale>k|thousand|million|m|bn|billion)\b)?(?P<after>\s*(?:%|percent\b|USD\b|EUR\b|GBP\b|dollars?\b|euros?\b))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time: a year, a quarter or month of a year; the year may be unknown."""

    year: int | None
    quarter: int | None = None
    month: int | None = None

    def bounds(self) -> tuple[str, str] | None:
        """First and last day in ISO form, or None without a year."""
        if self.year is None:
            return None
        first, last = 1, 12
        if self.quarter is not None:
            first, last = 3 * self.quarter - 2, 3 * self.quarter
        elif self.month is not None:
            first = last = self.month
        days = calendar.monthrange(self.year, last)[1]
        return f"{self.year}-{first:02d}-01", f"{self.year}-{last:02d}-{days:02d}"


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how it was written; ``before`` and ``after`` are the words around it, lower case."""

    value: int | float
    money: bool = False
    percent: bool = False
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was found in ``text``, each list in order of mention."""

    text: str
    quoted: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    periods: tuple[Period, ...] = ()
    years: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()
    chosen: dict[str, JsonValue] = field(default_factory=dict)

    def only_period(self, period: Period) -> Evidence:
        """The same message as if it spoke of one period alone."""
        years = self.years if period.year is None else (period.year,)
        return replace(self, periods=(period,), years=years)

    def only_year(self, year: int) -> Evidence:
        """The same message as if it spoke of one year alone."""
        return replace(self, years=(year,))

    def choose(self, name: str, value: JsonValue) -> Evidence:
        """The same message as if property ``name`` could only be ``value``."""
        return replace(self, chosen={**self.chosen, name: value})


def gather(text: str, earlier: str = "") -> Evidence:
    """Read a message. What one reading consumed is hidden from the next, so a year is not also an amount.

    ``earlier`` is what was said before: the year last named there holds for a message that names none.
    """
    rest = text
    found: dict[str, list[str]] = {"urls": [], "emails": [], "dates": [], "codes": [], "years": []}
    periods: list[Period] = []

    def consume(pattern: re.Pattern[str], take: Callable[[re.Match[str]], bool]) -> None:
        nonlocal rest

        def hide(match: re.Match[str]) -> str:
            return " " * len(match.group()) if take(match) else match.group()

        rest = pattern.sub(hide, rest)

    def keep(name: str) -> Callable[[re.Match[str]], bool]:
        def take(match: re.Match[str]) -> bool:
            found[name].append(match.group())
            return True

        return take

    def day(year: str, month: int, number: str) -> bool:
        if not 1 <= month <= 12 or not 1 <= int(number) <= calendar.monthrange(int(year), month)[1]:
            return False
        found["dates"].append(f"{int(year)}-{month:02d}-{int(number):02d}")
        return True

    def quarter(match: re.Match[str]) -> bool:
        q1, y1, y2, q2, word, y3 = match.groups()
        year = y1 or y2 or y3
        number = int(q1 or q2) if q1 or q2 else _ORDINALS[word.lower()]
        periods.append(Period(int(year) if year else None, quarter=number))
        return True

    def month(match: re.Match[str]) -> bool:
        periods.append(Period(int(match[2]), month=_MONTHS[match[1].lower()]))
        return True

    quoted = tuple(next(filter(None, match.groups())).strip() for match in _QUOTED.finditer(text))
    consume(_URL, keep("urls"))
    consume(_EMAIL, keep("emails"))
    consume(_ISO_DATE, lambda m: day(m[1], int(m[2]), m[3]))
    consume(_DAY_MONTH, lambda m: day(m[3], _MONTHS[m[2].lower()], m[1]))
    consume(_MONTH_DAY, lambda m: day(m[3], _MONTHS[m[1].lower()], m[2]))
    consume(_QUARTER, quarter)
    consume(_MONTH_YEAR, month)
    consume(_CODE, keep("codes"))
    consume(_PLAIN_YEAR, keep("years"))
    years = [int(year) for year in found["years"]]
    if earlier and not years and not found["dates"] and all(period.year is None for period in periods):
        years = list(gather(earlier).years[-1:])
    named = [period.year for period in periods if period.year is not None]
    years = list(dict.fromkeys((*named, *years)))
    # "Q3 2025 ... and Q2": a quarter without a year is of the year last named, else of the first one named
    dated: list[Period] = []
    current = years[0] if years else None
    for period in periods:
        current = period.year or current
        dated.append(replace(period, year=current))
    return Evidence(
        text,
        quoted,
        tuple(found["urls"]),
        tuple(found["emails"]),
        tuple(found["dates"]),
        tuple(dict.fromkeys(dated)),
        tuple(years),
        tuple(found["codes"]),
        tuple(_number(match, rest) for match in _NUMBER.finditer(rest)),
    )


def _number(match: re.Match[str], text: str) -> Number:
    digits = match["digits"].replace(",", "")
    value: int | float = float(digits) if "." in digits else int(digits)
    if match["scale"]:
        scaled = value * _SCALES[match["scale"].lower()]
        value = int(scaled) if scaled == int(scaled) else scaled
    after = (match["after"] or "").strip().lower()
    percent = after in ("%", "percent")
    before_words = tuple(re.findall(r"[a-z]+", text[: match.start()].lower())[-4:])
    after_words = tuple(re.findall(r"[a-z]+", text[match.end() :].lower())[:3])
    money = bool(match["money"]) or (bool(after) and not percent)
    return Number(value, money, percent, before_words, after_words)
