"""An Azure Function as a tool, end to end: agent, input queue, function app, output queue, agent, answer."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceExistsError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from aos.functions.orders import LONGEST_PAUSE
from emulators.child import Child
from examples.azure_function_tool.loans import Loan, cost_of
from examples.azure_function_tool.routes import INPUT_QUEUE, NAME, OUTPUT_QUEUE, REGISTRY_ENTRY
from tests.e2e.harness import PATIENCE, ROOT, World

TERMS = {"principal": 200_000, "annual_rate_percent": 4.5, "months": 360}
CALL = f"@tool {NAME} {json.dumps(TERMS)}"
SERVER = f"azure_function:{INPUT_QUEUE}/{OUTPUT_QUEUE}"


def app(world: World) -> Child:
    """The function app of the example, in a process of its own."""
    environment = {**os.environ, **world.stack.environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "examples.azure_function_tool"]
    return Child("loan-cost", command, env=environment, log=world.state / "loan-cost.log")


async def started(child: Child) -> Child:
    ready = child.line("loan-cost waits for calls")
    await child.start()
    await child.ready(ready, PATIENCE)
    return child


async def called(calls: QueueClient) -> None:
    """Returns when a call lies in the input queue."""
    while True:
        if await calls.peek_messages():
            return
        await asyncio.sleep(0.05)


def correlation_of(message: QueueMessage) -> str:
    """The CorrelationId of a call."""
    return str(json.loads(base64.b64decode(message.content))["CorrelationId"])


@pytest_asyncio.fixture(scope="module")
async def lender(aos: World) -> AsyncIterator[World]:
    """An agent with the example's function, which nobody runs yet."""
    registry = (ROOT / "agent_registry.json").read_bytes()
    entry = {
        "agent_id": "lender",
        "purpose": "Lends money",
        "domain_knowledge": {"domain": "ceo"},
        "azure_functions": [REGISTRY_ENTRY],
    }
    agents = [*json.loads(registry)["agents"], entry]
    await aos.put_registry("agent_registry.json", json.dumps({"agents": agents}).encode())
    await aos.app.ready("lender")
    yield aos
    await aos.put_registry("agent_registry.json", registry)
    await aos.app.until("agents", lambda body: len(body["agents"]) == 5)


async def test_an_answer_rests_on_what_the_function_worked_out(lender: World) -> None:
    child = await started(app(lender))
    try:
        body = await lender.app.ask("lender", CALL)
    finally:
        await child.stop()
    assert body["status"] == "completed", body
    (call,) = body["tool_calls"]
    assert (call["server"], call["tool"], call["status"]) == (SERVER, NAME, "succeeded")
    # The output queue was AOS's to give, and the function replied there.
    assert json.loads(call["arguments"])["outputqueueuri"].endswith(f"/devstoreaccount1/{OUTPUT_QUEUE}")
    assert cost_of(Loan.model_validate(TERMS)).total_interest in body["reply"]
    # It was looked for soon: else it would have been found after the longest pause.
    assert call["duration_ms"] < LONGEST_PAUSE * 1000


# Should the process die over a message of the bus, that stays locked for a minute.
@pytest.mark.slow
async def test_a_call_outlives_the_processes_on_both_sides(lender: World) -> None:
    response = await lender.app.http.post(
        "agents/lender", json={"message": CALL, "timeout_seconds": 1}, headers={"prefer": "respond-async"}
    )
    operation = response.json()["operation_id"]
    connection = lender.stack.environment["AZURE_STORAGE_CONNECTION_STRING"]
    async with QueueClient.from_connection_string(connection, INPUT_QUEUE) as calls, asyncio.timeout(PATIENCE):
        await called(calls)
    await lender.app.kill()
    child = await started(app(lender))
    try:
        await lender.app.restart()
        body = await lender.app.until(f"operations/{operation}", lambda body: body["status"] == "completed", 150)
    finally:
        await child.stop()
    assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]
    assert cost_of(Loan.model_validate(TERMS)).total_interest in body["reply"]


async def test_one_command_shows_the_service_calling_the_function(lender: World) -> None:
    environment = {**os.environ, **lender.stack.environment, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.azure_function_tool", "--ask", CALL),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    answer, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert cost_of(Loan.model_validate(TERMS)).total_interest in answer.decode()


async def test_a_function_that_gives_up_is_told_and_parked(lender: World) -> None:
    connection = lender.stack.environment["AZURE_STORAGE_CONNECTION_STRING"]
    response = await lender.app.http.post("agents/lender", json={"message": CALL}, headers={"prefer": "respond-async"})
    operation = response.json()["operation_id"]
    async with (
        QueueClient.from_connection_string(connection, INPUT_QUEUE) as calls,
        QueueClient.from_connection_string(connection, f"{INPUT_QUEUE}-poison") as poison,
    ):
        async with asyncio.timeout(PATIENCE):
            # A process that died over a call may have put it into the queue twice: one may be left of another test.
            while (message := await calls.receive_message()) is None or operation not in correlation_of(message):
                if message is not None:
                    await calls.delete_message(message)
                await asyncio.sleep(0.05)
        # As the Functions host does after the fifth time.
        with suppress(ResourceExistsError):
            await poison.create_queue()
        await poison.send_message(message.content)
        await calls.delete_message(message)
    body = await lender.app.until(f"operations/{operation}", lambda body: body["status"] == "completed")
    assert [call["status"] for call in body["tool_calls"]] == ["failed"]
    assert "the function failed each time" in body["reply"]
    letter = await lender.client.receive("aos-poison")
    assert letter.application_properties is not None
    assert letter.application_properties[b"DeadLetterReason"] == b"FunctionPoison"


@pytest.mark.slow
async def test_an_output_queue_with_a_trigger_is_read_when_no_call_waits(lender: World) -> None:
    await lender.app.kill()
    await lender.app.restart({"AOS_FUNCTION_OUTPUT_QUEUES": OUTPUT_QUEUE})
    connection = lender.stack.environment["AZURE_STORAGE_CONNECTION_STRING"]
    try:
        async with QueueClient.from_connection_string(connection, OUTPUT_QUEUE) as replies:
            await replies.send_message(json.dumps({"Value": 1, "CorrelationId": "nobody"}))
            letter = await lender.client.receive("aos-poison")
    finally:
        await lender.app.kill()
        await lender.app.restart()
    assert letter.application_properties is not None
    assert letter.application_properties[b"DeadLetterReason"] == b"UnknownCorrelationId"
