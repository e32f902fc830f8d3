"""The figures: what the tools compute from the ledger. Every function reads one snapshot of the file."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import date
from typing import Literal

from mcp.server.mcpserver.exceptions import ToolError

from examples.company_ledger.models import (
    Account,
    BudgetAnalysis,
    BudgetLine,
    Change,
    Department,
    FinancialReport,
    Kpis,
    Overview,
    ReportLine,
    Result,
    Transaction,
    Transactions,
)

COMPANY = "Larkspur Instruments"
BUSINESS = "Makes and services measuring instruments for laboratories and process plants."
CURRENCY = "EUR"


@dataclass(frozen=True)
class Period:
    """A year, or a quarter of one."""

    year: int
    quarter: int | None = None

    def __str__(self) -> str:
        return f"{self.year}" if self.quarter is None else f"{self.year}-Q{self.quarter}"

    @property
    def first(self) -> str:
        return date(self.year, 1 if self.quarter is None else 3 * self.quarter - 2, 1).isoformat()

    @property
    def end(self) -> str:
        """The first day after the period."""
        if self.quarter in (None, 4):
            return date(self.year + 1, 1, 1).isoformat()
        return date(self.year, 3 * self.quarter + 1, 1).isoformat()

    @property
    def last_quarter(self) -> int:
        return self.quarter or 4

    def previous(self) -> Period:
        if self.quarter is None:
            return Period(self.year - 1)
        return Period(self.year - 1, 4) if self.quarter == 1 else Period(self.year, self.quarter - 1)


def euro(cents: int) -> float:
    return cents / 100


def percent(part: int, whole: int) -> float | None:
    """`part` as percent of the size of `whole`, two decimals; None where `whole` is zero."""
    return round(100 * part / abs(whole), 2) if whole else None


@dataclass(frozen=True)
class Totals:
    """Sums of a period in cents."""

    revenue: int
    cost_of_sales: int
    operating_expenses: int

    @property
    def gross_profit(self) -> int:
        return self.revenue - self.cost_of_sales

    @property
    def operating_profit(self) -> int:
        return self.gross_profit - self.operating_expenses

    def result(self) -> Result:
        return Result(
            revenue=euro(self.revenue),
            cost_of_sales=euro(self.cost_of_sales),
            gross_profit=euro(self.gross_profit),
            gross_margin_percent=percent(self.gross_profit, self.revenue),
            operating_expenses=euro(self.operating_expenses),
            operating_profit=euro(self.operating_profit),
            operating_margin_percent=percent(self.operating_profit, self.revenue),
        )


def covered(db: sqlite3.Connection) -> tuple[date, date, int]:
    """First and last day with a transaction, and how many there are."""
    first, last, count = db.execute("SELECT min(date), max(date), count(*) FROM transactions").fetchone()
    return date.fromisoformat(first), date.fromisoformat(last), count


def totals(db: sqlite3.Connection, period: Period) -> Totals | None:
    """Sums of a period; None when nothing was booked in it."""
    rows = db.execute(
        "SELECT type, sum(cents) FROM transactions JOIN accounts ON code = account"
        " WHERE date >= ? AND date < ? GROUP BY type",
        (period.first, period.end),
    ).fetchall()
    sums = {str(kind): int(cents) for kind, cents in rows}
    if not sums:
        return None
    return Totals(sums.get("revenue", 0), sums.get("cost_of_sales", 0), sums.get("operating_expense", 0))


def required_totals(db: sqlite3.Connection, period: Period) -> Totals:
    found = totals(db, period)
    if found is None:
        first, last, _ = covered(db)
        raise ToolError(
            f"nothing is booked in {period}; the ledger covers {first} to {last}: ask for a period in that range"
        )
    return found


def heads(db: sqlite3.Connection, period: Period) -> int:
    """People at the end of the period; where the records end earlier, the last known number."""
    (number,) = db.execute(
        "SELECT sum(heads) FROM headcount WHERE (year, quarter) = (SELECT year, quarter FROM headcount"
        " WHERE (year, quarter) <= (?, ?) ORDER BY year DESC, quarter DESC LIMIT 1)",
        (period.year, period.last_quarter),
    ).fetchone()
    return number or 0


def overview(db: sqlite3.Connection) -> Overview:
    first, last, count = covered(db)
    year = Period(last.year)
    departments = db.execute(
        "SELECT id, name, responsible, heads FROM departments JOIN headcount ON department = id"
        " WHERE (year, quarter) = (SELECT year, quarter FROM headcount ORDER BY year DESC, quarter DESC LIMIT 1)"
        " ORDER BY id"
    ).fetchall()
    (customers,) = db.execute("SELECT active FROM customers ORDER BY year DESC, quarter DESC LIMIT 1").fetchone()
    return Overview(
        company=COMPANY,
        business=BUSINESS,
        currency=CURRENCY,
        first_transaction=first,
        last_transaction=last,
        transactions=count,
        departments=[
            Department(id=row["id"], name=row["name"], responsible=row["responsible"], headcount=row["heads"])
            for row in departments
        ],
        customers=customers,
        latest_year=last.year,
        latest_year_result=required_totals(db, year).result(),
    )


def kpis(db: sqlite3.Connection, period: Period) -> Kpis:
    now, before = required_totals(db, period), totals(db, period.previous())
    quarter_from = period.quarter or 1
    won, lost = db.execute(
        "SELECT coalesce(sum(won), 0), coalesce(sum(lost), 0) FROM customers"
        " WHERE year = ? AND quarter BETWEEN ? AND ?",
        (period.year, quarter_from, period.last_quarter),
    ).fetchone()
    (active,) = db.execute(
        "SELECT active FROM customers WHERE (year, quarter) <= (?, ?) ORDER BY year DESC, quarter DESC LIMIT 1",
        (period.year, period.last_quarter),
    ).fetchone()
    change = None
    if before is not None:
        result, earlier = now.result(), before.result()
        points = None
        if result.gross_margin_percent is not None and earlier.gross_margin_percent is not None:
            points = round(result.gross_margin_percent - earlier.gross_margin_percent, 2)
        change = Change(
            compared_with=str(period.previous()),
            revenue_percent=percent(now.revenue - before.revenue, before.revenue),
            cost_of_sales_percent=percent(now.cost_of_sales - before.cost_of_sales, before.cost_of_sales),
            operating_profit_percent=percent(now.operating_profit - before.operating_profit, before.operating_profit),
            gross_margin_points=points,
            headcount=heads(db, period) - heads(db, period.previous()),
        )
    return Kpis(
        **now.result().model_dump(),
        period=str(period),
        headcount=heads(db, period),
        customers=active,
        customers_won=won,
        customers_lost=lost,
        change=change,
    )


def report(db: sqlite3.Connection, period: Period) -> FinancialReport:
    now = required_totals(db, period)
    rows = db.execute(
        "SELECT code, name, type, coalesce(sum(cents), 0) AS cents FROM accounts"
        " LEFT JOIN transactions ON code = account AND date >= ? AND date < ? GROUP BY code ORDER BY code",
        (period.first, period.end),
    ).fetchall()
    lines = [
        ReportLine(
            account=row["code"],
            name=row["name"],
            type=row["type"],
            amount=euro(row["cents"]),
            share_of_revenue_percent=percent(row["cents"], now.revenue),
        )
        for row in rows
    ]
    return FinancialReport(**now.result().model_dump(), period=str(period), lines=lines)


def accounts(db: sqlite3.Connection) -> list[Account]:
    rows = db.execute("SELECT code, name, type, department FROM accounts ORDER BY code").fetchall()
    return [Account(code=r["code"], name=r["name"], type=r["type"], department=r["department"]) for r in rows]


def transactions(
    db: sqlite3.Connection,
    account: str | None,
    department: str | None,
    from_date: date | None,
    to_date: date | None,
    limit: int,
) -> Transactions:
    if from_date and to_date and from_date > to_date:
        raise ToolError(f"from_date {from_date} lies after to_date {to_date}; exchange them")
    conditions = {
        "account = ?": account,
        "department = ?": department,
        "date >= ?": from_date and from_date.isoformat(),
        "date <= ?": to_date and to_date.isoformat(),
    }
    used = {condition: value for condition, value in conditions.items() if value is not None}
    where = " AND ".join(used) or "1"
    values = list(used.values())
    matching, cents = db.execute(
        f"SELECT count(*), coalesce(sum(cents), 0) FROM transactions WHERE {where}",  # noqa: S608 - conditions above
        values,
    ).fetchone()
    rows = db.execute(
        f"SELECT * FROM transactions WHERE {where} ORDER BY date DESC, id DESC LIMIT ?",  # noqa: S608
        [*values, limit],
    ).fetchall()
    return Transactions(transactions=[transaction(row) for row in rows], matching=matching, total_amount=euro(cents))


def transaction(row: sqlite3.Row) -> Transaction:
    return Transaction(
        id=row["id"],
        date=row["date"],
        account=row["account"],
        department=row["department"],
        amount=euro(row["cents"]),
        description=row["description"],
    )


def budget_analysis(db: sqlite3.Connection, department: str, period: Period) -> BudgetAnalysis:
    rows = db.execute(
        "SELECT quarter, cents FROM budgets"
        " WHERE department = ? AND year = ? AND quarter BETWEEN ? AND ? ORDER BY quarter",
        (department, period.year, period.quarter or 1, period.last_quarter),
    ).fetchall()
    if not rows:
        years = [str(row[0]) for row in db.execute("SELECT DISTINCT year FROM budgets ORDER BY year")]
        raise ToolError(f"{department} has no budget for {period}; there are budgets for {' and '.join(years)}")
    (name,) = db.execute("SELECT name FROM departments WHERE id = ?", (department,)).fetchone()
    quarters = []
    budget_total = actual_total = 0
    for row in rows:
        quarter = Period(period.year, row["quarter"])
        (actual,) = db.execute(
            "SELECT coalesce(sum(cents), 0) FROM transactions JOIN accounts ON code = account"
            " WHERE transactions.department = ? AND type <> 'revenue' AND date >= ? AND date < ?",
            (department, quarter.first, quarter.end),
        ).fetchone()
        quarters.append(budget_line(str(quarter), row["cents"], actual))
        budget_total += row["cents"]
        actual_total += actual
    status: Literal["within budget", "over budget"] = "within budget" if actual_total <= budget_total else "over budget"
    return BudgetAnalysis(
        department=department,
        name=name,
        basis="Spending: cost of sales and operating expense; revenue is not budgeted.",
        quarters=quarters,
        total=budget_line(str(period), budget_total, actual_total),
        status=status,
    )


def budget_line(period: str, budget: int, actual: int) -> BudgetLine:
    return BudgetLine(
        period=period,
        budget=euro(budget),
        actual=euro(actual),
        variance=euro(budget - actual),
        variance_percent=percent(budget - actual, budget),
    )
