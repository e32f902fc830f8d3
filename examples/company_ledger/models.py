"""What the tools take and give. Amounts are euro with two decimals; shares are percent."""

from __future__ import annotations

from datetime import date as Date
from typing import Annotated, Literal

from pydantic import BaseModel, Field

AccountCode = Literal[
    "4000", "4100", "4200", "5000", "5100", "5200", "6000", "6100", "6200", "6300", "6400", "6500", "6600"
]
AccountType = Literal["revenue", "cost_of_sales", "operating_expense"]
DepartmentId = Literal["executive", "finance", "marketing", "operations", "sales", "technology"]

Year = Annotated[int, Field(ge=2000, le=2100, description="Calendar year, such as 2025; the books begin in 2024.")]
Quarter = Annotated[
    Literal[1, 2, 3, 4] | None, Field(description="Quarter of the year, 1 to 4; leave it out for the whole year.")
]
AccountFilter = Annotated[
    AccountCode | None,
    Field(
        description="Only this account: 4xxx revenue, 5xxx cost of sales, 6xxx operating expense. See list_accounts."
    ),
]
DepartmentFilter = Annotated[DepartmentId | None, Field(description="Only transactions booked on this department.")]

Percent = float | None


class Account(BaseModel):
    code: str
    name: str
    type: AccountType
    department: str = Field(description="Department that a transaction is booked on unless it names another.")


class Accounts(BaseModel):
    accounts: list[Account]


class Department(BaseModel):
    id: str
    name: str
    responsible: str = Field(description="Role that answers for the department, such as cfo.")
    headcount: int


class Result(BaseModel):
    """Profit and loss in five lines."""

    revenue: float
    cost_of_sales: float
    gross_profit: float
    gross_margin_percent: Percent = Field(description="Gross profit as a share of revenue.")
    operating_expenses: float
    operating_profit: float
    operating_margin_percent: Percent = Field(description="Operating profit as a share of revenue.")


class Overview(BaseModel):
    company: str
    business: str
    currency: str
    first_transaction: Date
    last_transaction: Date
    transactions: int
    departments: list[Department]
    customers: int
    latest_year: int
    latest_year_result: Result


class Change(BaseModel):
    """Difference to the period before: percent of the earlier figure, percentage points for the margin."""

    compared_with: str = Field(description="The earlier period, such as 2025-Q1 or 2024.")
    revenue_percent: Percent
    cost_of_sales_percent: Percent
    operating_profit_percent: Percent
    gross_margin_points: float | None
    headcount: int


class Kpis(Result):
    period: str = Field(description="Such as 2025-Q2 or 2025.")
    headcount: int = Field(description="People employed at the end of the period.")
    customers: int = Field(description="Customers at the end of the period.")
    customers_won: int
    customers_lost: int
    change: Change | None = Field(
        description="Against the previous quarter (of a quarter) or year (of a year), if known."
    )


class ReportLine(BaseModel):
    account: str
    name: str
    type: AccountType
    amount: float
    share_of_revenue_percent: Percent


class FinancialReport(Result):
    period: str
    lines: list[ReportLine]


class Transaction(BaseModel):
    id: int
    date: Date
    account: str
    department: str
    amount: float
    description: str


class Transactions(BaseModel):
    transactions: list[Transaction] = Field(description="Newest first.")
    matching: int = Field(description="How many transactions match; more than listed when the limit cut them.")
    total_amount: float = Field(description="Sum over all that match, also those not listed.")


class BudgetLine(BaseModel):
    period: str
    budget: float
    actual: float
    variance: float = Field(description="Budget minus actual: negative means overspent.")
    variance_percent: Percent = Field(description="Variance as a share of the budget.")


class BudgetAnalysis(BaseModel):
    department: str
    name: str
    basis: str
    quarters: list[BudgetLine]
    total: BudgetLine
    status: Literal["within budget", "over budget"]


class Recorded(BaseModel):
    id: int = Field(description="Number of the new transaction.")
    transaction: Transaction
