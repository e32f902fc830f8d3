from __future__ import annotations

import base64
import json
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from aos.registry.azure_functions import AzureFunction
from emulators.azurite import Azurite
from examples.azure_function_tool.loans import Loan, cost_of
from examples.azure_function_tool.routes import (
    INPUT_QUEUE,
    OUTPUT_QUEUE,
    REGISTRY_ENTRY,
    Replies,
    loan_cost,
    open_replies,
)
from runtime import StorageMessage
from tests.functions_worker import FunctionsWorker

ROOT = Path(__file__).parents[2]


def loan(principal: str, rate: str, months: int) -> Loan:
    return Loan(principal=Decimal(principal), annual_rate_percent=Decimal(rate), months=months)


def test_a_mortgage_costs_what_the_annuity_formula_says() -> None:
    cost = cost_of(loan("200000", "4.5", 360))
    assert cost.monthly_payment == "1013.37"  # 200000 * 0.00375 / (1 - 1.00375 ** -360)
    assert abs(Decimal(cost.total_paid) - Decimal("1013.37") * 360) < 5
    assert Decimal(cost.total_interest) == Decimal(cost.total_paid) - 200_000


def test_without_interest_only_the_principal_is_paid() -> None:
    cost = cost_of(loan("100", "0", 3))
    assert (cost.monthly_payment, cost.last_payment) == ("33.33", "33.34")
    assert (cost.total_paid, cost.total_interest) == ("100.00", "0.00")


def test_one_month() -> None:
    cost = cost_of(loan("1200", "12", 1))
    assert (cost.monthly_payment, cost.total_interest) == ("1212.00", "12.00")


@pytest.mark.parametrize("terms", [("0", "5", 12), ("100", "-1", 12), ("100", "101", 12), ("100", "5", 0)])
def test_terms_that_cannot_be(terms: tuple[str, str, int]) -> None:
    with pytest.raises(ValidationError):
        loan(*terms)


def test_its_entry_is_one_that_the_registry_takes() -> None:
    function = AzureFunction.model_validate(REGISTRY_ENTRY)
    assert list(function.faults()) == []
    assert (function.queue_in, function.queue_out) == (INPUT_QUEUE, OUTPUT_QUEUE)


@pytest_asyncio.fixture
async def replies(azurite: Azurite) -> AsyncIterator[Replies]:
    async with open_replies("STORAGE", {"STORAGE": azurite.connection_string}) as opened:
        yield opened


def call(replies: Replies, **body: Any) -> StorageMessage:
    return StorageMessage(json.dumps(body).encode(), INPUT_QUEUE, "m1", app=replies)


async def only(replies: Replies, queue: str) -> dict[str, Any]:
    client = replies._service.get_queue_client(queue)
    (message,) = [message async for message in client.receive_messages()]
    found: dict[str, Any] = json.loads(base64.b64decode(message.content))
    return found


async def test_it_replies_to_the_queue_that_the_caller_names(replies: Replies, azurite: Azurite) -> None:
    queue = f"out-{uuid.uuid4().hex[:8]}"
    uri = replies._service.get_queue_client(queue).url
    await loan_cost(
        call(replies, principal=1200, annual_rate_percent=12, months=1, CorrelationId="c1", outputqueueuri=uri)
    )
    reply = await only(replies, queue)
    assert (reply["CorrelationId"], reply["Value"]["total_interest"]) == ("c1", "12.00")


async def test_terms_that_cannot_be_are_told(replies: Replies) -> None:
    queue = f"out-{uuid.uuid4().hex[:8]}"
    uri = replies._service.get_queue_client(queue).url
    await loan_cost(
        call(replies, principal=-1, annual_rate_percent=1, months=1, CorrelationId="c1", outputqueueuri=uri)
    )
    assert "principal: Input should be greater than 0" in (await only(replies, queue))["Value"]["error"]


async def test_a_reply_goes_to_no_other_account(replies: Replies) -> None:
    with pytest.raises(ValueError, match="another account"):
        await loan_cost(call(replies, CorrelationId="c1", outputqueueuri="https://evil.queue.core.windows.net/q"))


async def test_a_call_that_cannot_be_answered_is_poison(replies: Replies) -> None:
    with pytest.raises(ValidationError):
        await loan_cost(call(replies, principal=1))


async def test_azure_functions_sees_the_trigger(tmp_path: Path) -> None:
    source = (ROOT / "examples/azure_function_tool/function_app.py").read_text(encoding="utf-8")
    (tmp_path / "function_app.py").write_text(source)
    async with FunctionsWorker(tmp_path, environ={"AzureWebJobsStorage": "UseDevelopmentStorage=true"}) as worker:
        trigger = worker.functions["loan_cost"].trigger
    assert (trigger["type"], trigger["queueName"]) == ("queueTrigger", INPUT_QUEUE)
