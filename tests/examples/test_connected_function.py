"""An orchestrator, the agent that it asks, and the example's queue-triggered function behind that one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from aos.config import load_settings
from aos.errors import FoundryRefused
from aos.foundry.clients import FoundryClients
from aos.foundry.connected import connected_azure_function_agent
from aos.functions import AzureFunctionTool
from emulators.azurite import Azurite
from emulators.foundry import FoundryEmulator
from examples.azure_function_tool.loans import Loan, cost_of
from examples.azure_function_tool.routes import NAME, open_replies, routes
from runtime import AsgiRuntime, Keys, RuntimeConfig

ROOT = Path(__file__).parents[2]
MODEL = "llama-3.3-70b"
TERMS = {"principal": 200_000, "annual_rate_percent": 4.5, "months": 360}
INTEREST = cost_of(Loan.model_validate(TERMS)).total_interest
DELEGATION: list[Literal["aos", "service"]] = ["aos", "service"]


@pytest_asyncio.fixture(scope="module")
async def emulator() -> AsyncIterator[FoundryEmulator]:
    async with FoundryEmulator() as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def clients(emulator: FoundryEmulator) -> AsyncIterator[FoundryClients]:
    settings = load_settings({"AZURE_AI_PROJECT_ENDPOINT": emulator.endpoint, "AZURE_AI_API_KEY": "local"})
    clients = FoundryClients(settings)
    yield clients
    await clients.close()


def endpoint(azurite: Azurite) -> str:
    return f"http://127.0.0.1:{azurite.ports['AOS_QUEUE_PORT']}/devstoreaccount1"


@asynccontextmanager
async def function_app(azurite: Azurite) -> AsyncIterator[None]:
    """The example's function app, on its route registry."""
    settings = {"STORAGE": azurite.connection_string}
    async with open_replies("STORAGE", settings) as replies:
        host = AsgiRuntime(
            RuntimeConfig(app_name="loan-cost"), routes("STORAGE"), lambda: replies, keys=Keys(), settings=settings
        )
        async with host.app.router.lifespan_context(host.app):
            yield


def loan_tool(azurite: Azurite, name: str = NAME) -> AzureFunctionTool:
    return AzureFunctionTool.named(name, "Works out what a loan costs.", {"type": "object"}, endpoint=endpoint(azurite))


def question(delegation: str, call: str) -> str:
    """An order to the orchestrator to give the other agent an order."""
    return f"@tool ask_function_agent {json.dumps({'query' if delegation == 'service' else 'message': call})}"


async def left(clients: FoundryClients) -> list[str]:
    """Ids of all agents and threads of the project: nobody else uses it."""
    agents = [agent.id async for agent in clients.agents.list_agents()]
    return agents + [thread.id async for thread in clients.agents.threads.list()]


@pytest.mark.parametrize("delegation", DELEGATION)
async def test_the_answer_comes_from_the_function_and_nothing_stays(
    clients: FoundryClients, azurite: Azurite, delegation: Literal["aos", "service"]
) -> None:
    async with function_app(azurite):
        answer = await connected_azure_function_agent(
            clients.agents,
            question(delegation, f"@tool {NAME} {json.dumps(TERMS)}"),
            loan_tool(azurite),
            model=MODEL,
            delegation=delegation,
            timeout=60.0,
        )
    assert INTEREST in answer
    assert await left(clients) == []


@pytest.mark.parametrize("delegation", DELEGATION)
async def test_nothing_stays_when_it_is_cancelled_while_the_function_works(
    clients: FoundryClients, azurite: Azurite, delegation: Literal["aos", "service"]
) -> None:
    name = f"slow-{uuid.uuid4().hex[:8]}"
    tool = loan_tool(azurite, name)
    asking = asyncio.create_task(
        connected_azure_function_agent(
            clients.agents,
            question(delegation, f"@tool {name} {json.dumps(TERMS)}"),
            tool,
            model=MODEL,
            delegation=delegation,
        )
    )
    async with QueueClient.from_connection_string(azurite.connection_string, tool.input_queue.queue_name) as calls:
        message = None
        async with asyncio.timeout(60):
            while message is None:
                await asyncio.sleep(0.05)
                try:
                    message = await calls.receive_message()
                except ResourceNotFoundError:
                    continue
    assert json.loads(base64.b64decode(message.content))["months"] == 360
    assert len(await left(clients)) == 4, "two agents and their threads"
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await left(clients) == []


@pytest.mark.parametrize("delegation", DELEGATION)
async def test_nothing_stays_of_what_the_function_never_answers(
    clients: FoundryClients, azurite: Azurite, delegation: Literal["aos", "service"]
) -> None:
    name = f"deaf-{uuid.uuid4().hex[:8]}"
    orders = question(delegation, f"@tool {name} {json.dumps(TERMS)}")
    with pytest.raises(TimeoutError):
        await connected_azure_function_agent(
            clients.agents, orders, loan_tool(azurite, name), model=MODEL, delegation=delegation, timeout=1.5
        )
    assert await left(clients) == []


async def test_nothing_stays_when_the_run_fails_after_the_function_answered(
    clients: FoundryClients, azurite: Azurite
) -> None:
    # The second call has no query: with it the service fails the run, once the first one has its answer.
    orders = f"{question('service', f'@tool {NAME} {json.dumps(TERMS)}')}\n@tool ask_function_agent {{}}"
    async with function_app(azurite):
        with pytest.raises(FoundryRefused, match="tool_user_error"):
            await connected_azure_function_agent(
                clients.agents, orders, loan_tool(azurite), model=MODEL, delegation="service", timeout=60.0
            )
    assert await left(clients) == []


async def test_the_documentation_asks_the_function(
    clients: FoundryClients, emulator: FoundryEmulator, azurite: Azurite
) -> None:
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/delegation.md").read_text(), flags=re.MULTILINE | re.DOTALL
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PROJECT_ENDPOINT_ENT": emulator.endpoint,
        "AZURE_AI_API_KEY": "local",
        "MODEL_DEPLOYMENT_NAME": MODEL,
        "STORAGE_SERVICE_ENDPOINT": endpoint(azurite),
    }
    async with function_app(azurite):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, question("aos", f"@tool {NAME} {json.dumps(TERMS)}")),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        answer, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert INTEREST in answer.decode()
    assert await left(clients) == []
