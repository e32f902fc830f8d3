"""The MCP server: its tools and resources over one `Ledger`."""

from __future__ import annotations

import json
from datetime import date as Date
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase
from mcp.types import ToolAnnotations
from pydantic import ConfigDict, Field, create_model

from examples.company_ledger import figures
from examples.company_ledger.database import Ledger
from examples.company_ledger.figures import Period
from examples.company_ledger.models import (
    AccountCode,
    AccountFilter,
    Accounts,
    BudgetAnalysis,
    DepartmentFilter,
    DepartmentId,
    FinancialReport,
    Kpis,
    Overview,
    Quarter,
    Recorded,
    Transactions,
    Year,
)

SERVER_NAME = "company-ledger"
VERSION = "1.0.0"
FIRST_DAY = Date(2024, 1, 1)
"""The books begin here; nothing can be recorded before."""

READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
# Recording adds a row and takes nothing away; doing it twice adds two.
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)


class LedgerTools:
    """The tools. They are plain functions, which the SDK runs on worker threads: each opens its own connection."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get_company_overview(self) -> Overview:
        """Who the company is, what the ledger covers, departments with headcount, and the result of the latest year."""
        with self._ledger.open() as db:
            return figures.overview(db)

    def get_kpis(self, year: Year, quarter: Quarter = None) -> Kpis:
        """KPIs: revenue, costs, margins, profit, headcount and customers, and the change against the period before."""
        with self._ledger.open() as db:
            return figures.kpis(db, Period(year, quarter))

    def get_financial_report(self, year: Year, quarter: Quarter = None) -> FinancialReport:
        """Profit and loss of a year or quarter, account by account, with each account's share of revenue."""
        with self._ledger.open() as db:
            return figures.report(db, Period(year, quarter))

    def list_transactions(
        self,
        account: AccountFilter = None,
        department: DepartmentFilter = None,
        from_date: Annotated[Date | None, Field(description="First day, YYYY-MM-DD, inclusive.")] = None,
        to_date: Annotated[Date | None, Field(description="Last day, YYYY-MM-DD, inclusive.")] = None,
        limit: Annotated[int, Field(ge=1, le=100, description="At most this many, newest first.")] = 20,
    ) -> Transactions:
        """Single transactions, newest first, filtered by account, department and dates, with their number and sum."""
        with self._ledger.open() as db:
            return figures.transactions(db, account, department, from_date, to_date, limit)

    def get_budget_analysis(
        self,
        department: Annotated[DepartmentId, Field(description="The department whose spending is compared.")],
        year: Year,
        quarter: Quarter = None,
    ) -> BudgetAnalysis:
        """Budget against actual spending of a department by quarter and in total; a negative variance is overspent."""
        with self._ledger.open() as db:
            return figures.budget_analysis(db, department, Period(year, quarter))

    def list_accounts(self) -> Accounts:
        """The chart of accounts: code, name, type and the department that usually books on it."""
        with self._ledger.open() as db:
            return Accounts(accounts=figures.accounts(db))

    def record_transaction(
        self,
        account: Annotated[
            AccountCode, Field(description="Account to book on, such as 6500 for travel. See list_accounts.")
        ],
        amount: Annotated[
            float,
            Field(
                ge=-10_000_000,
                le=10_000_000,
                description="Euro, at most two decimals, not zero. Negative is a credit note or refund.",
            ),
        ],
        description: Annotated[
            str, Field(min_length=3, max_length=200, description="What it is for, as an auditor should read it.")
        ],
        date: Annotated[
            Date | None, Field(description="Booking day, YYYY-MM-DD, 2024-01-01 to today; today if left out.")
        ] = None,
        department: Annotated[
            DepartmentId | None, Field(description="Department to book on; the account's own if left out.")
        ] = None,
    ) -> Recorded:
        """Records a new transaction in the ledger for good. Calling it twice books twice."""
        cents = round(amount * 100)
        if cents == 0 or abs(amount * 100 - cents) > 1e-4:
            raise ToolError(
                f"amount {amount!r} is not a sum in euro and cent; give a value other than 0 with at most two decimals"
            )
        text = description.strip()
        if len(text) < 3:
            raise ToolError("description is blank; say what the transaction is for in at least 3 characters")
        today = Date.today()
        day = date or today
        if not FIRST_DAY <= day <= today:
            raise ToolError(f"date {day} is outside the open books; give a day from {FIRST_DAY} to {today}")
        with self._ledger.open() as db:
            row = db.execute(
                "INSERT INTO transactions (date, account, department, cents, description)"
                " SELECT ?, code, coalesce(?, department), ?, ? FROM accounts WHERE code = ? RETURNING *",
                (day.isoformat(), department, cents, text, account),
            ).fetchone()
            recorded = figures.transaction(row)
        return Recorded(id=recorded.id, transaction=recorded)


def build_server(ledger: Ledger) -> MCPServer:
    """The server over `ledger`, ready to run on any transport."""
    tools = LedgerTools(ledger)
    server: MCPServer = MCPServer(
        SERVER_NAME,
        title="Company ledger",
        instructions=f"The books of {figures.COMPANY}: results, budgets and transactions in {figures.CURRENCY}.",
        version=VERSION,
        log_level="WARNING",
        tools=[
            _strict(Tool.from_function(function, annotations=annotations))
            for function, annotations in (
                (tools.get_company_overview, READS),
                (tools.get_kpis, READS),
                (tools.get_financial_report, READS),
                (tools.list_transactions, READS),
                (tools.get_budget_analysis, READS),
                (tools.list_accounts, READS),
                (tools.record_transaction, ADDS),
            )
        ],
    )

    @server.resource(
        "ledger://accounts", description="The chart of accounts as JSON.", mime_type="application/json", name="accounts"
    )
    def accounts() -> str:
        return tools.list_accounts().model_dump_json(indent=2)

    @server.resource(
        "ledger://departments",
        description="The departments with their headcount as JSON.",
        mime_type="application/json",
        name="departments",
    )
    def departments() -> str:
        found = tools.get_company_overview().departments
        return json.dumps({"departments": [department.model_dump() for department in found]}, indent=2)

    return server


class _NothingElse(ArgModelBase):
    model_config = ConfigDict(extra="forbid")


def _strict(tool: Tool) -> Tool:
    """Makes a tool refuse arguments that it does not have: a misspelt filter must not silently widen an answer."""
    loose = tool.fn_metadata.arg_model
    tool.fn_metadata.arg_model = create_model(loose.__name__, __base__=(loose, _NothingElse))
    tool.parameters = {**tool.parameters, "additionalProperties": False}
    return tool
