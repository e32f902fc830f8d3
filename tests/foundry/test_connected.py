from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from azure.ai.agents.models import AzureFunctionStorageQueue, AzureFunctionTool

from aos.errors import FoundryRefused
from aos.foundry.connected import TemporaryAgents, connected_azure_function_agent
from tests.foundry.project import DEPLOYMENT, Project


def foo() -> AzureFunctionTool:
    """A function that is offered to the agent, and that no message here asks for."""
    endpoint = "https://account.queue.core.windows.net"
    queues = [
        AzureFunctionStorageQueue(queue_name=f"azure-function-foo-{way}", storage_service_endpoint=endpoint)
        for way in ("input", "output")
    ]
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
    return AzureFunctionTool("foo", "Get answers from the foo bot.", parameters, *queues)


@pytest.fixture
async def threads(shared_project: Project) -> AsyncIterator[Project]:
    project = Project(shared_project.emulator, "threads")
    yield project
    await project.heal()
    await project.close()


async def left(project: Project) -> list[str]:
    """Ids of all agents and threads of an app of the tests."""
    client = project.clients.agents
    agents = [agent.id async for agent in client.list_agents() if (agent.metadata or {}).get("aos_app") == "temporary"]
    listed = client.threads.list()
    return agents + [thread.id async for thread in listed if (thread.metadata or {}).get("aos_app") == "temporary"]


async def asked(project: Project, query: str, timeout: float = 60.0) -> str:
    client = project.clients.agents
    return await connected_azure_function_agent(
        client, query, foo(), model=DEPLOYMENT, app_name="temporary", timeout=timeout
    )


def ask(message: str) -> str:
    return f"@tool ask_function_agent {json.dumps({'message': message})}"


async def test_the_orchestrator_is_told_what_the_other_agent_says_and_nothing_stays(threads: Project) -> None:
    before = await threads.calls("POST /threads")
    answer = await asked(threads, f"{ask('@say the bar is open')}\n@say so be it")
    assert answer == "so be it"
    assert await threads.calls("POST /threads") == before + 2
    assert await left(threads) == []


async def test_an_agent_that_fails_is_told_to_the_orchestrator(threads: Project) -> None:
    assert "content_filter" in await asked(threads, ask("@fail content_filter"))
    assert await left(threads) == []


async def test_a_run_that_fails_says_why_and_nothing_stays(threads: Project) -> None:
    with pytest.raises(FoundryRefused, match="ended as failed: server_error"):
        await asked(threads, "@fail server_error")
    assert await left(threads) == []


@pytest.mark.parametrize("after", [0.0, 0.01, 0.05, 0.2])
async def test_nothing_stays_of_what_was_cancelled(threads: Project, after: float) -> None:
    asking = asyncio.create_task(asked(threads, f"{ask('@say yes')}\n@say done"))
    await asyncio.sleep(after)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await left(threads) == []


async def test_nothing_stays_of_what_took_too_long(threads: Project) -> None:
    with pytest.raises(TimeoutError):
        await asked(threads, "@say hi", timeout=0.05)
    assert await left(threads) == []


async def test_what_cannot_be_deleted_is_said(threads: Project, caplog: pytest.LogCaptureFixture) -> None:
    client = threads.clients.agents
    async with TemporaryAgents(client, "temporary") as agents:
        thread = await agents.thread()
        await threads.fail(400, thread.id)
    assert f"thread {thread.id} could not be deleted and stays in Foundry" in caplog.text
    await client.threads.delete(thread.id)


async def test_what_somebody_else_deleted_is_no_error(threads: Project, caplog: pytest.LogCaptureFixture) -> None:
    client = threads.clients.agents
    async with TemporaryAgents(client, "temporary") as agents:
        agent = await agents.agent("short-lived", model=DEPLOYMENT, instructions="Be brief.")
        await client.delete_agent(agent.id)
    assert "could not be deleted" not in caplog.text


async def test_a_run_that_takes_too_long_says_so(threads: Project) -> None:
    client = threads.clients.agents
    async with TemporaryAgents(client, "temporary") as agents:
        agent = await agents.agent("slow", model=DEPLOYMENT, instructions="Be brief.")
        thread = await agents.thread()
        with pytest.raises(TimeoutError, match="no answer within 0 s"):
            await agents.run(agent, thread, "@say hi", timeout=0.0)
    assert await left(threads) == []
