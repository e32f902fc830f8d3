"""The ledger's tools through the real client over stdio; figures against sums taken from the CSV files here."""

from __future__ import annotations

import asyncio
import csv
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import TextResourceContents

from examples.company_ledger.database import DATA, Ledger, LedgerUnusable, default_path
from examples.company_ledger.generate import write

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["-m", "examples.company_ledger"]
Json = dict[str, Any]  # JSON as it comes off the wire


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


TYPES = {row["code"]: row["type"] for row in rows("accounts")}
BOOKED = rows("transactions")


def booked(year: int, quarters: tuple[int, ...], *, kind: str = "", account: str = "", department: str = "") -> Decimal:
    """The sum of what the CSV file holds for a year's quarters, by type, account or department."""
    return sum(
        (
            Decimal(row["amount"])
            for row in BOOKED
            if row["date"][:4] == str(year)
            and (int(row["date"][5:7]) + 2) // 3 in quarters
            and kind in ("", TYPES[row["account"]])
            and account in ("", row["account"])
            and department in ("", row["department"])
        ),
        Decimal(0),
    )


def exact(amount: float) -> Decimal:
    return Decimal(str(amount))


@asynccontextmanager
async def connected(database: Path) -> AsyncIterator[Client]:
    """A client over stdio; one task enters and leaves it, as it demands, which a fixture alone would not do."""
    server = StdioServerParameters(
        command=sys.executable, args=ARGUMENTS, env={"PYTHONPATH": str(ROOT), "COMPANY_LEDGER_DB": str(database)}
    )
    ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    finished = asyncio.Event()

    async def own() -> None:
        async with Client(server, read_timeout_seconds=60) as client:
            ready.set_result(client)
            await finished.wait()

    def failed(task: asyncio.Task[None]) -> None:
        if not ready.done():
            ready.set_exception(task.exception() or ConnectionError("the client was not entered"))

    owner = asyncio.create_task(own())
    owner.add_done_callback(failed)
    yield await ready
    finished.set()
    await owner


@pytest_asyncio.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with connected(tmp_path_factory.mktemp("ledger") / "books" / "ledger.db") as connection:
        yield connection


async def call(client: Client, tool: str, **arguments: object) -> Json:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    content: Json | None = result.structured_content
    assert content is not None
    return content


async def refused(client: Client, tool: str, **arguments: object) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return "".join(block.text for block in result.content if block.type == "text")


def test_the_data_set_is_what_its_generator_writes(tmp_path: Path) -> None:
    write(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in DATA.iterdir()
    }


async def test_every_tool_describes_its_arguments_and_says_whether_it_writes(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {
        "get_company_overview",
        "get_kpis",
        "get_financial_report",
        "list_transactions",
        "get_budget_analysis",
        "list_accounts",
        "record_transaction",
    }
    for tool in tools.values():
        assert tool.description
        assert "\n" not in tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (tool.name != "record_transaction")
        assert tool.annotations.idempotent_hint is (tool.name != "record_transaction")
        assert tool.annotations.destructive_hint is False
        assert tool.input_schema["additionalProperties"] is False
        assert all(property_["description"] for property_ in tool.input_schema["properties"].values())
        assert tool.output_schema is not None
    account = tools["record_transaction"].input_schema["properties"]["account"]
    assert account["enum"] == list(TYPES)
    department = tools["get_budget_analysis"].input_schema["properties"]["department"]
    assert department["enum"] == [row["id"] for row in rows("departments")]
    assert tools["list_transactions"].input_schema["properties"]["limit"]["maximum"] == 100
    assert tools["record_transaction"].input_schema["required"] == ["account", "amount", "description"]


@pytest.mark.parametrize(
    ("year", "quarter", "before"),
    [(2024, 1, None), (2024, 3, (2024, 2)), (2025, 1, (2024, 4)), (2025, None, (2024, None)), (2024, None, None)],
)
async def test_key_figures(
    client: Client, year: int, quarter: int | None, before: tuple[int, int | None] | None
) -> None:
    kpis = await call(client, "get_kpis", year=year, **({} if quarter is None else {"quarter": quarter}))
    quarters = (1, 2, 3, 4) if quarter is None else (quarter,)
    revenue, cost, expense = (
        booked(year, quarters, kind=kind) for kind in ("revenue", "cost_of_sales", "operating_expense")
    )
    assert exact(kpis["revenue"]) == revenue
    assert exact(kpis["cost_of_sales"]) == cost
    assert exact(kpis["gross_profit"]) == revenue - cost
    assert exact(kpis["operating_profit"]) == revenue - cost - expense
    assert kpis["gross_margin_percent"] == round(float((revenue - cost) / revenue * 100), 2)
    last = str(quarters[-1])
    heads = [row for row in rows("headcount") if (row["year"], row["quarter"]) == (str(year), last)]
    assert kpis["headcount"] == sum(int(row["heads"]) for row in heads)
    customers = [row for row in rows("customers") if row["year"] == str(year) and int(row["quarter"]) in quarters]
    assert kpis["customers"] == int(customers[-1]["active"])
    assert kpis["customers_won"] == sum(int(row["won"]) for row in customers)
    assert kpis["customers_lost"] == sum(int(row["lost"]) for row in customers)
    if before is None:
        assert kpis["change"] is None
    else:
        earlier = booked(before[0], (1, 2, 3, 4) if before[1] is None else (before[1],), kind="revenue")
        assert kpis["change"]["compared_with"] == (f"{before[0]}-Q{before[1]}" if before[1] else f"{before[0]}")
        assert kpis["change"]["revenue_percent"] == round(float((revenue - earlier) / earlier * 100), 2)


async def test_financial_report_adds_up_account_by_account(client: Client) -> None:
    report = await call(client, "get_financial_report", year=2025, quarter=4)
    assert report["period"] == "2025-Q4"
    assert {line["account"]: exact(line["amount"]) for line in report["lines"]} == {
        code: booked(2025, (4,), account=code) for code in TYPES
    }
    by_type = {
        kind: sum(exact(li["amount"]) for li in report["lines"] if li["type"] == kind) for kind in set(TYPES.values())
    }
    assert exact(report["operating_profit"]) == (
        by_type["revenue"] - by_type["cost_of_sales"] - by_type["operating_expense"]
    )


@pytest.mark.parametrize("quarter", [None, 2])
async def test_budget_analysis(client: Client, quarter: int | None) -> None:
    quarters = (1, 2, 3, 4) if quarter is None else (quarter,)
    found = await call(client, "get_budget_analysis", department="technology", year=2024, quarter=quarter)
    budgets = {
        int(row["quarter"]): Decimal(row["amount"])
        for row in rows("budgets")
        if (row["year"], row["department"]) == ("2024", "technology") and int(row["quarter"]) in quarters
    }
    spent = {
        number: sum(
            (
                booked(2024, (number,), kind=kind, department="technology")
                for kind in ("cost_of_sales", "operating_expense")
            ),
            Decimal(0),
        )
        for number in quarters
    }
    assert {line["period"]: (exact(line["budget"]), exact(line["actual"])) for line in found["quarters"]} == {
        f"2024-Q{number}": (budgets[number], spent[number]) for number in quarters
    }
    variance = sum(budgets.values()) - sum(spent.values())
    assert exact(found["total"]["variance"]) == variance
    assert found["total"]["variance_percent"] == round(float(variance / sum(budgets.values()) * 100), 2)
    assert found["status"] == ("within budget" if variance >= 0 else "over budget")


async def test_the_budget_of_sales_does_not_count_revenue(client: Client) -> None:
    found = await call(client, "get_budget_analysis", department="sales", year=2025)
    assert exact(found["total"]["actual"]) == booked(2025, (1, 2, 3, 4), kind="operating_expense", department="sales")


async def test_transactions_are_filtered_newest_first_and_summed(client: Client) -> None:
    found = await call(
        client,
        "list_transactions",
        account="6100",
        department="marketing",
        from_date="2024-03-01",
        to_date="2024-12-31",
        limit=5,
    )
    expected = [row for row in BOOKED if row["account"] == "6100" and "2024-03-01" <= row["date"] <= "2024-12-31"]
    assert found["matching"] == len(expected) == 20
    assert exact(found["total_amount"]) == sum(Decimal(row["amount"]) for row in expected)
    newest = sorted(expected, key=lambda row: (row["date"], int(row["id"])), reverse=True)[:5]
    assert [transaction["id"] for transaction in found["transactions"]] == [int(row["id"]) for row in newest]


async def test_overview_and_accounts(client: Client) -> None:
    overview = await call(client, "get_company_overview")
    assert overview["first_transaction"] == BOOKED[0]["date"]
    heads = {row["department"]: int(row["heads"]) for row in rows("headcount")}  # the last quarter wins
    assert {found["id"]: found["headcount"] for found in overview["departments"]} == heads
    accounts = (await call(client, "list_accounts"))["accounts"]
    assert accounts == rows("accounts")


async def test_resources(client: Client) -> None:
    assert {str(found.uri) for found in (await client.list_resources()).resources} == {
        "ledger://accounts",
        "ledger://departments",
    }
    (content,) = (await client.read_resource("ledger://accounts")).contents
    assert isinstance(content, TextResourceContents)
    assert "Instrument sales" in content.text
    with pytest.raises(MCPError, match="ledger://nothing"):
        await client.read_resource("ledger://nothing")


@pytest.mark.parametrize(
    ("tool", "arguments", "hint"),
    [
        ("get_kpis", {"year": 2030}, "the ledger covers 2024-01-01 to"),
        ("get_kpis", {"year": 2025, "quarter": 5}, "quarter"),
        ("get_kpis", {"year": 2025, "quater": 2}, "quater"),
        ("get_kpis", {}, "year"),
        ("get_budget_analysis", {"department": "finance", "year": 2030}, "there are budgets for 2024 and 2025"),
        ("get_budget_analysis", {"department": "garden", "year": 2025}, "'technology'"),
        ("list_transactions", {"limit": 101}, "less than or equal to 100"),
        ("list_transactions", {"from_date": "2025-02-01", "to_date": "2025-01-01"}, "exchange them"),
        ("list_transactions", {"from_date": "yesterday"}, "from_date"),
        ("record_transaction", {"account": "9999", "amount": 1, "description": "x y z"}, "'6600'"),
        ("record_transaction", {"account": "6500", "amount": 0, "description": "a trip"}, "at most two decimals"),
        ("record_transaction", {"account": "6500", "amount": 1.005, "description": "a trip"}, "at most two decimals"),
        ("record_transaction", {"account": "6500", "amount": 1, "description": "     "}, "description is blank"),
        (
            "record_transaction",
            {"account": "6500", "amount": 1, "description": "trip", "date": "2023-12-31"},
            "2024-01-01",
        ),
        ("record_transaction", {"account": "6500", "amount": 2e7, "description": "a trip"}, "less than or equal"),
    ],
)
async def test_errors_name_the_argument_and_the_way_out(client: Client, tool: str, arguments: Json, hint: str) -> None:
    before = (await call(client, "list_transactions"))["matching"]
    assert hint in await refused(client, tool, **arguments)
    assert (await call(client, "list_transactions"))["matching"] == before


async def test_tomorrow_cannot_be_booked(client: Client) -> None:
    tomorrow = date.today() + timedelta(days=2)  # two, because the server's day may change meanwhile
    text = await refused(
        client, "record_transaction", account="6500", amount=1, description="trip", date=tomorrow.isoformat()
    )
    assert "outside the open books" in text


async def test_recording_persists_across_servers_and_moves_the_figures(tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"
    async with connected(database) as client:
        before = await call(client, "get_kpis", year=2025, quarter=4)
        recorded = await call(
            client,
            "record_transaction",
            account="6500",
            amount=1234.56,
            description="  Flight to the Rotterdam plant ",
            date="2025-12-30",
            department="operations",
        )
        assert recorded["id"] == len(BOOKED) + 1
    async with connected(database) as client:
        after = await call(client, "get_kpis", year=2025, quarter=4)
        assert exact(before["operating_profit"]) - exact(after["operating_profit"]) == Decimal("1234.56")
        listed = await call(
            client, "list_transactions", account="6500", from_date="2025-12-30", department="operations"
        )
        assert recorded["transaction"] in listed["transactions"]
        assert recorded["transaction"]["description"] == "Flight to the Rotterdam plant"
        default = await call(client, "record_transaction", account="6100", amount=-10, description="Refunded stand fee")
        assert default["transaction"]["department"] == "marketing"
        assert date.today() - date.fromisoformat(default["transaction"]["date"]) <= timedelta(days=1)


async def test_many_writers_and_readers_on_two_servers_at_once(tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"
    async with connected(database) as one, connected(database) as two:  # both meet the missing file

        async def record(client: Client, number: int) -> int:
            made = await call(
                client, "record_transaction", account="6400", amount=number + 0.25, description=f"Licence {number}"
            )
            await call(client, "get_company_overview")
            number_of_row: int = made["id"]
            return number_of_row

        numbers = await asyncio.gather(*(record(client, number) for number in range(10) for client in (one, two)))
    assert sorted(numbers) == list(range(len(BOOKED) + 1, len(BOOKED) + 21))
    with closing(sqlite3.connect(database)) as connection:
        (cents,) = connection.execute(
            "SELECT sum(cents) FROM transactions WHERE description LIKE 'Licence %'"
        ).fetchone()
    assert cents == 2 * sum(100 * number + 25 for number in range(10))


@pytest.fixture
def over_http(tmp_path: Path) -> Iterator[str]:
    """The address of the server on streamable HTTP."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COMPANY_LEDGER_DB": str(tmp_path / "ledger.db")}
    with subprocess.Popen(
        [sys.executable, *ARGUMENTS, "--http", "0"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


async def test_the_same_server_over_http(over_http: str) -> None:
    async with Client(over_http, read_timeout_seconds=60) as client:
        kpis = await call(client, "get_kpis", year=2025)
    assert exact(kpis["revenue"]) == booked(2025, (1, 2, 3, 4), kind="revenue")


def test_where_the_database_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPANY_LEDGER_DB", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"
    monkeypatch.delenv("COMPANY_LEDGER_DB")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "aos-company-ledger" / "ledger.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".local" / "state" / "aos-company-ledger" / "ledger.db"


def test_a_file_that_is_no_ledger_is_left_alone_and_named(tmp_path: Path) -> None:
    stranger = tmp_path / "letter.db"
    stranger.write_text("Dear reader, this is not a database, and it is long enough to be taken for one. " * 20)
    with pytest.raises(LedgerUnusable, match=r"letter\.db cannot be read as a ledger"):
        Ledger(stranger)
    assert stranger.read_text().startswith("Dear reader")
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(LedgerUnusable, match="ledger version 0, this program needs 1"):
        Ledger(tmp_path / "other.db")
    with pytest.raises(LedgerUnusable, match="set COMPANY_LEDGER_DB to a file in a writable folder"):
        Ledger(stranger / "below" / "ledger.db")


def test_the_program_reports_an_unusable_file_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COMPANY_LEDGER_DB": str(tmp_path / "file" / "ledger.db")}
    ended = subprocess.run([sys.executable, *ARGUMENTS], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("company-ledger: cannot create the ledger")
    assert "Traceback" not in ended.stderr
