"""What a loan with equal monthly payments costs, to the cent."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CENT = Decimal("0.01")


class Loan(BaseModel):
    """The terms. A rate of 4.5 is 4.5 % a year, charged monthly."""

    model_config = ConfigDict(extra="ignore")

    principal: Annotated[Decimal, Field(gt=0, le=1_000_000_000, description="Amount borrowed.")]
    annual_rate_percent: Annotated[Decimal, Field(ge=0, le=100, description="Nominal rate per year, in percent.")]
    months: Annotated[int, Field(ge=1, le=600, description="Number of monthly payments.")]


class Cost(BaseModel):
    """Amounts as decimal text: `monthly_payment` but for the last one, which takes up what rounding left."""

    monthly_payment: str
    last_payment: str
    total_paid: str
    total_interest: str


def cost_of(loan: Loan) -> Cost:
    """Runs the whole schedule: interest is rounded to the cent every month, as banks do."""
    with localcontext() as context:
        context.prec = 40
        rate = loan.annual_rate_percent / 1200
        growth = (1 + rate) ** loan.months
        exact = loan.principal / loan.months if rate == 0 else loan.principal * rate * growth / (growth - 1)
        payment = max(_cents(exact), CENT)
        left, paid, last = _cents(loan.principal), Decimal(0), Decimal(0)
        for month in range(1, loan.months + 1):
            owed = left + _cents(left * rate)
            last = owed if month == loan.months or owed < payment else payment
            left, paid = owed - last, paid + last
            if left == 0:
                break
        return Cost(
            monthly_payment=str(payment),
            last_payment=str(last),
            total_paid=str(paid),
            total_interest=str(paid - _cents(loan.principal)),
        )


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP)
