"""Writes the data set in `data/`: `python -m examples.company_ledger.generate`.

The company and every figure are invented. Only `random.Random.random()` is drawn from, because it is the one method
whose sequence Python keeps for a given seed in all versions (documentation of `random`, "Notes on Reproducibility").
"""

from __future__ import annotations

import csv
from calendar import monthrange
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from random import Random

DATA = Path(__file__).parent / "data"
SEED = 20240102
YEARS = (2024, 2025)

ACCOUNTS = (
    # code, name, type, department that books on it unless a posting names another
    ("4000", "Instrument sales", "revenue", "sales"),
    ("4100", "Service contracts", "revenue", "sales"),
    ("4200", "Training and consulting", "revenue", "sales"),
    ("5000", "Components and materials", "cost_of_sales", "operations"),
    ("5100", "Freight and customs", "cost_of_sales", "operations"),
    ("5200", "Hosting of customer services", "cost_of_sales", "technology"),
    ("6000", "Salaries and social security", "operating_expense", "executive"),
    ("6100", "Campaigns and trade fairs", "operating_expense", "marketing"),
    ("6200", "Prototypes and laboratory", "operating_expense", "technology"),
    ("6300", "Rent and utilities", "operating_expense", "operations"),
    ("6400", "Software and devices", "operating_expense", "technology"),
    ("6500", "Travel", "operating_expense", "sales"),
    ("6600", "Legal, audit and advice", "operating_expense", "finance"),
)
DEPARTMENTS = (
    # id, name, responsible role, headcount in the first quarter, hires per year, monthly salary cost per head (EUR)
    ("executive", "Executive office", "ceo", 3, 0, 9800),
    ("finance", "Finance and administration", "cfo", 5, 1, 5600),
    ("marketing", "Marketing", "cmo", 6, 2, 5200),
    ("operations", "Operations and production", "coo", 18, 4, 4300),
    ("sales", "Sales and customer service", "cmo", 9, 3, 5900),
    ("technology", "Technology and research", "cto", 14, 5, 6700),
)
BUYERS = (
    "Alder Clinics",
    "Bergamot Foods",
    "Cinder Steel",
    "Dovetail Labs",
    "Estuary Water",
    "Fjord Energy",
    "Garnet Pharma",
)
INSTRUMENTS = ("flow meters", "pH probes", "gas analysers", "dew point sensors", "spectrometers")
CAMPAIGNS = ("Search advertising", "Trade fair stand", "Customer magazine", "Webinar series")

Posting = tuple[date, str, str, int, str]
"""Date, account, department, amount in cents, description."""


class Draw:
    """Figures drawn from one seeded sequence."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - a data set, not a secret

    def cents(self, around: float, spread: float) -> int:
        """An amount within `around` euro plus or minus the share `spread`, in cents."""
        return self.whole(around * 100, spread)

    def whole(self, around: float, spread: float) -> int:
        return round(around * (1 + spread * (2 * self._random.random() - 1)))

    def day(self, year: int, month: int) -> date:
        return date(year, month, 1 + int(self._random.random() * monthrange(year, month)[1]))

    def one_of(self, values: Sequence[str]) -> str:
        return values[int(self._random.random() * len(values))]

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability


def headcount(department: tuple[str, str, str, int, int, int], quarter_index: int) -> int:
    """Heads of a department at the end of a quarter; quarters are counted from the first year's first."""
    return department[3] + department[4] * quarter_index // 4


def month_postings(draw: Draw, year: int, month: int) -> Iterator[Posting]:
    """What the company books in one month: growth of about 1 % a month, a dip in August, a peak in December."""
    index = (year - YEARS[0]) * 12 + month - 1
    growth = 1.011**index
    season = {8: 0.78, 11: 1.08, 12: 1.22}.get(month, 1.0)
    for _ in range(7):
        buyer, goods = draw.one_of(BUYERS), draw.one_of(INSTRUMENTS)
        yield draw.day(year, month), "4000", "sales", draw.cents(83_000 * growth * season, 0.45), f"{buyer}: {goods}"
    if draw.chance(0.25):
        buyer = draw.one_of(BUYERS)
        yield (
            draw.day(year, month),
            "4000",
            "sales",
            -draw.cents(11_500, 0.5),
            f"{buyer}: credit note for returned goods",
        )
    yield date(year, month, 1), "4100", "sales", draw.cents(52_000 * growth, 0.03), "Service contracts of the month"
    if draw.chance(0.6):
        yield draw.day(year, month), "4200", "sales", draw.cents(14_000, 0.5), f"{draw.one_of(BUYERS)}: training"
    for _ in range(2):
        goods = draw.one_of(INSTRUMENTS)
        amount = draw.cents(88_000 * growth * season, 0.2)
        yield draw.day(year, month), "5000", "operations", amount, f"Components for {goods}"
    yield draw.day(year, month), "5100", "operations", draw.cents(11_500 * growth * season, 0.15), "Freight and customs"
    yield date(year, month, 28), "5200", "technology", draw.cents(8_200 * growth, 0.06), "Hosting of customer services"
    for department in DEPARTMENTS:
        heads = headcount(department, index // 3)
        yield date(year, month, 25), "6000", department[0], heads * department[5] * 100, f"Payroll of {heads}"
    for _ in range(2):
        yield draw.day(year, month), "6100", "marketing", draw.cents(9_800, 0.4), draw.one_of(CAMPAIGNS)
    yield draw.day(year, month), "6200", "technology", draw.cents(15_500 * growth, 0.35), "Prototypes and laboratory"
    yield date(year, month, 1), "6300", "operations", 2_140_000 if year == YEARS[0] else 2_225_000, "Rent and utilities"
    yield date(year, month, 3), "6400", "technology", draw.cents(7_400 * growth, 0.1), "Software subscriptions"
    traveller = draw.one_of([department[0] for department in DEPARTMENTS])
    yield draw.day(year, month), "6500", traveller, draw.cents(4_300, 0.6), "Travel"
    if month % 3 == 0:
        yield draw.day(year, month), "6600", "finance", draw.cents(12_500, 0.3), "Audit and legal advice"


def budgets(postings: Sequence[Posting], draw: Draw) -> Iterator[tuple[int, int, str, int]]:
    """A spending budget per department and quarter: what was spent, missed by up to 12 %, in whole hundreds of euro."""
    revenue = {code for code, _, kind, _ in ACCOUNTS if kind == "revenue"}
    for year in YEARS:
        for quarter in (1, 2, 3, 4):
            for department, *_ in DEPARTMENTS:
                spent = sum(
                    cents
                    for day, account, owner, cents, _ in postings
                    if owner == department
                    and account not in revenue
                    and (day.year, (day.month + 2) // 3) == (year, quarter)
                )
                yield year, quarter, department, round(draw.cents(spent / 100, 0.12) / 10_000) * 100


def customers(draw: Draw) -> Iterator[tuple[int, int, int, int, int]]:
    """Year, quarter, customers at its end, won and lost in it."""
    active = 118
    for year in YEARS:
        for quarter in (1, 2, 3, 4):
            won, lost = draw.whole(11, 0.35), draw.whole(5, 0.6)
            active += won - lost
            yield year, quarter, active, won, lost


def euro(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def write(folder: Path) -> None:
    """Writes the CSV files of the data set into `folder`."""
    draw = Draw(SEED)
    postings = [posting for year in YEARS for month in range(1, 13) for posting in month_postings(draw, year, month)]
    postings.sort(key=lambda posting: posting[0])
    tables: dict[str, tuple[str, list[tuple[object, ...]]]] = {
        "accounts": ("code,name,type,department", list(ACCOUNTS)),
        "departments": ("id,name,responsible", [department[:3] for department in DEPARTMENTS]),
        "transactions": (
            "id,date,account,department,amount,description",
            [
                (number, day.isoformat(), account, department, euro(cents), text)
                for number, (day, account, department, cents, text) in enumerate(postings, start=1)
            ],
        ),
        "budgets": ("year,quarter,department,amount", list(budgets(postings, draw))),
        "headcount": (
            "year,quarter,department,heads",
            [
                (year, quarter, department[0], headcount(department, (year - YEARS[0]) * 4 + quarter - 1))
                for year in YEARS
                for quarter in (1, 2, 3, 4)
                for department in DEPARTMENTS
            ],
        ),
        "customers": ("year,quarter,active,won,lost", list(customers(draw))),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (header, rows) in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            file.write(header + "\n")
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    write(DATA)
