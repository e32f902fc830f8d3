from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from emulators.foundry.model import FunctionSpec, JsonObject
from emulators.foundry.offline.plan import Plan, plan_calls

PREFIX = "company-ledger_"


def maybe(**schema: JsonValue) -> JsonObject:
    """An optional value as pydantic writes it."""
    return {"anyOf": [schema, {"type": "null"}], "default": None}


def tool(name: str, description: str, properties: JsonObject, *required: str) -> FunctionSpec:
    schema: JsonObject = {"type": "object", "properties": properties, "required": [*required]}
    return FunctionSpec(PREFIX + name, description, schema)


YEAR: JsonObject = {"type": "integer", "minimum": 2000, "maximum": 2100}
QUARTER = maybe(type="string", pattern="^Q[1-4]$")
DEPARTMENT: JsonObject = {"type": "string", "enum": ["finance", "marketing", "sales", "technology"]}
LEDGER = (
    tool("get_company_overview", "Company profile: name, industry, fiscal year, headcount and annual figures.", {}),
    tool(
        "get_kpis",
        "Key performance indicators (revenue, gross margin, operating costs, customers) of a year or quarter.",
        {"year": maybe(**YEAR), "quarter": QUARTER},
    ),
    tool(
        "list_transactions",
        "List transactions, optionally of one account and a range of dates.",
        {
            "account": maybe(type="string"),
            "from_date": maybe(type="string", format="date"),
            "to_date": maybe(type="string", format="date"),
            "limit": {"type": "integer", "default": 20, "minimum": 1, "maximum": 100},
        },
    ),
    tool(
        "get_budget_analysis",
        "Compare the budget of a department with its actual spending.",
        {"department": DEPARTMENT},
        "department",
    ),
    tool(
        "record_transaction",
        "Record a transaction on an account of the ledger.",
        {
            "account": {"type": "string"},
            "amount": {"type": "number", "exclusiveMinimum": 0},
            "description": {"type": "string"},
            "date": maybe(type="string", format="date"),
        },
        "account",
        "amount",
        "description",
    ),
)
Call = tuple[str, JsonObject]


def calls(plan: Plan) -> list[Call]:
    return [(call.name.removeprefix(PREFIX), json.loads(call.arguments)) for call in plan.calls]


READS: list[tuple[str, list[Call]]] = [
    (
        "What was our revenue in Q3 2025 and how does it compare with Q2?",
        [("get_kpis", {"year": 2025, "quarter": "Q3"}), ("get_kpis", {"year": 2025, "quarter": "Q2"})],
    ),
    ("What were the costs in the third quarter of 2024?", [("get_kpis", {"year": 2024, "quarter": "Q3"})]),
    ("Compare the revenue of 2024 and 2025.", [("get_kpis", {"year": 2024}), ("get_kpis", {"year": 2025})]),
    ("How many customers did we have in Q2 2025?", [("get_kpis", {"year": 2025, "quarter": "Q2"})]),
    ("What are our latest KPIs?", [("get_kpis", {})]),
    ("Give me an overview of the company", [("get_company_overview", {})]),
    (
        "Show me the company overview and the KPIs for Q1 2025",
        [("get_company_overview", {}), ("get_kpis", {"year": 2025, "quarter": "Q1"})],
    ),
    (
        "List the last 5 transactions on account Travel in March 2025",
        [
            (
                "list_transactions",
                {"account": "Travel", "from_date": "2025-03-01", "to_date": "2025-03-31", "limit": 5},
            )
        ],
    ),
    (
        "Show transactions from 3 January 2025 to February 15, 2025",
        [("list_transactions", {"from_date": "2025-01-03", "to_date": "2025-02-15"})],
    ),
    (
        "Show transactions in Q4 2024",
        [("list_transactions", {"from_date": "2024-10-01", "to_date": "2024-12-31"})],
    ),
    ("Show all transactions until 2024-06-30", [("list_transactions", {"to_date": "2024-06-30"})]),
    ("Show the top 500 transactions", [("list_transactions", {"limit": 100})]),
    ("Show me our record of transactions for account Travel", [("list_transactions", {"account": "Travel"})]),
    ("How is marketing doing against its budget?", [("get_budget_analysis", {"department": "marketing"})]),
    (
        "Compare the sales budget with the marketing budget",
        [
            ("get_budget_analysis", {"department": "sales"}),
            ("get_budget_analysis", {"department": "marketing"}),
        ],
    ),
    ("Please use get_company_overview to tell me about the revenue", [("get_company_overview", {})]),
    ("run company-ledger_get_kpis", [("get_kpis", {})]),
]
WRITES: list[tuple[str, list[Call]]] = [
    (
        "Record a transaction of $1,200.50 on account Travel for the team offsite",
        [("record_transaction", {"account": "Travel", "amount": 1200.5, "description": "team offsite"})],
    ),
    (
        "Please book 3k on account \"Office Supplies\" with description 'new chairs' dated 2025-03-01",
        [
            (
                "record_transaction",
                {
                    "account": "Office Supplies",
                    "amount": 3000,
                    "description": "new chairs",
                    "date": "2025-03-01",
                },
            )
        ],
    ),
    (
        'Could you add a transaction: account 6500, amount 2.5 million, description "campaign"',
        [("record_transaction", {"account": "6500", "amount": 2_500_000, "description": "campaign"})],
    ),
]


@pytest.mark.parametrize(("message", "expected"), READS + WRITES)
def test_a_message_leads_to_calls(message: str, expected: list[Call]) -> None:
    plan = plan_calls(message, LEDGER)
    assert calls(plan) == expected
    assert plan_calls(message, LEDGER) == plan


@pytest.mark.parametrize(
    "message",
    [
        "Hello!",
        "Who are you?",
        "What can you do?",
        "Thanks, a great overview.",
        "What did I say about the budget?",
        "What is the capital of France?",
        "Our revenue is important to me. Remember that.",
        "Transfer 500 EUR to Bob",
        "",
    ],
)
def test_a_message_that_needs_no_tool_leads_to_none(message: str) -> None:
    assert plan_calls(message, LEDGER) == Plan(())


def test_a_change_is_never_made_with_invented_arguments() -> None:
    plan = plan_calls("Record a transaction on account Travel", LEDGER)
    assert plan.calls == ()
    assert plan.lacking == ((f"{PREFIX}record_transaction", ("amount", "description")),)


def test_an_option_that_the_message_does_not_name_is_asked_for() -> None:
    plan = plan_calls("Compare the budget of engineering", LEDGER)
    assert (plan.calls, plan.lacking) == ((), ((f"{PREFIX}get_budget_analysis", ("department",)),))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("And in Q2?", [("get_kpis", {"year": 2025, "quarter": "Q2"})]),
        ("What about 2024?", [("get_kpis", {"year": 2024})]),
    ],
)
def test_a_follow_up_asks_what_was_asked_before(message: str, expected: list[Call]) -> None:
    assert calls(plan_calls(message, LEDGER, earlier=["What was our revenue in Q3 2025?"])) == expected


def test_a_choice_of_tool_is_obeyed() -> None:
    forced = plan_calls("Hello!", LEDGER, f"{PREFIX}get_company_overview")
    assert calls(forced) == [("get_company_overview", {})]
    assert [name for name, _ in calls(plan_calls("Any news on revenue?", LEDGER, "required"))] == ["get_kpis"]


def test_without_tools_there_is_no_plan() -> None:
    assert plan_calls("What was our revenue?", ()) == Plan(())


def test_a_single_word_tool_is_found_by_its_description() -> None:
    weather = FunctionSpec(
        "forecast",
        "Weather of a city",
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    )
    (call,) = plan_calls("What's the weather in New York tomorrow?", (weather,)).calls
    assert json.loads(call.arguments) == {"city": "New York"}
