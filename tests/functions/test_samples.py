"""The samples for function tools as they are usually written, against the local stack: the threads SDK, synchronous."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from azure.ai.agents import AgentsClient
from azure.ai.agents.models import AzureFunctionStorageQueue, AzureFunctionTool
from azure.ai.projects import AIProjectClient
from azure.core.credentials import AccessToken
from azure.core.exceptions import ResourceNotFoundError
from azure.core.pipeline.policies import HeadersPolicy
from azure.storage.queue.aio import QueueClient

from aos import functions
from aos.errors import SettingError
from aos.functions.tool import InvalidFunctionTool
from emulators.azurite import Azurite
from emulators.foundry import FoundryEmulator

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "The question to ask."},
        "outputqueueuri": {"type": "string", "description": "The full output queue URI."},
    },
}


class Identity:
    """What the emulator takes for a credential."""

    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        return AccessToken("local", 4_102_444_800)


@pytest_asyncio.fixture(scope="module")
async def emulator() -> AsyncIterator[FoundryEmulator]:
    async with FoundryEmulator() as running:
        yield running


@pytest.fixture
def client(emulator: FoundryEmulator) -> Iterator[AgentsClient]:
    """`AIProjectClient(...).agents` of azure-ai-projects 1.x."""
    policy = HeadersPolicy({"api-key": "local"})
    with AgentsClient(emulator.endpoint, Identity(), authentication_policy=policy) as client:
        yield client


@pytest.fixture
def endpoint(azurite: Azurite) -> str:
    return f"http://127.0.0.1:{azurite.ports['AOS_QUEUE_PORT']}/devstoreaccount1"


async def foo(azurite: Azurite, queue_in: str, queue_out: str) -> None:
    """The foo bot: answers one call."""
    connection = azurite.connection_string
    async with (
        QueueClient.from_connection_string(connection, queue_in) as calls,
        QueueClient.from_connection_string(connection, queue_out) as replies,
        asyncio.timeout(60),
    ):
        message = None
        while message is None:
            await asyncio.sleep(0.05)
            try:
                message = await calls.receive_message()
            except ResourceNotFoundError:
                continue
        call = json.loads(base64.b64decode(message.content))
        reply = {"Value": f"The answer to {call['query']!r} is foo.", "CorrelationId": call["CorrelationId"]}
        await replies.send_message(base64.b64encode(json.dumps(reply).encode()).decode())


def ask(project_agents: AgentsClient, tools: list[Any], cleanup: list[str], function: str = "foo") -> str:
    """Create the agent, create a thread, process a run, read the answer, clean up."""
    agent = project_agents.create_agent(
        model="llama-3.3-70b",
        name="azure-function-agent-foo",
        instructions="You are a helpful support agent. Use the function for every question.",
        tools=tools,
    )
    thread = project_agents.threads.create()
    try:
        project_agents.messages.create(
            thread_id=thread.id,
            role="user",
            content=f'@tool {function} {{"query": "What is the most prevalent element?"}}',
        )
        run = project_agents.runs.create_and_process(thread_id=thread.id, agent_id=agent.id, polling_interval=1)
        assert run.status == "completed", f"Run failed: {run.last_error}"
        text = project_agents.messages.get_last_message_text_by_role(thread.id, "assistant")  # type: ignore[arg-type] # takes the value, too
        assert text is not None
        return str(text.text.value)
    finally:
        project_agents.delete_agent(agent.id)
        project_agents.threads.delete(thread.id)
        cleanup += [agent.id, thread.id]


async def test_the_sample_goes_round(client: AgentsClient, azurite: Azurite, endpoint: str) -> None:
    name = uuid.uuid4().hex[:8]
    tool = AzureFunctionTool(
        name="foo",
        description="Get answers from the foo bot.",
        parameters=PARAMETERS,
        input_queue=AzureFunctionStorageQueue(
            queue_name=f"azure-function-{name}-input", storage_service_endpoint=endpoint
        ),
        output_queue=AzureFunctionStorageQueue(
            queue_name=f"azure-function-{name}-output", storage_service_endpoint=endpoint
        ),
    )
    gone: list[str] = []
    function = asyncio.create_task(foo(azurite, f"azure-function-{name}-input", f"azure-function-{name}-output"))
    answer = await asyncio.to_thread(ask, client, list(tool.definitions), gone)
    await function
    assert "is foo." in answer
    with pytest.raises(ResourceNotFoundError):
        await asyncio.to_thread(client.get_agent, gone[0])
    with pytest.raises(ResourceNotFoundError):
        await asyncio.to_thread(client.threads.get, gone[1])


async def test_the_same_with_queues_named_after_the_function(
    client: AgentsClient, azurite: Azurite, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_SERVICE_ENDPOINT", endpoint)
    name = f"foo-{uuid.uuid4().hex[:8]}"
    tool = functions.AzureFunctionTool.named(name, "Get answers from the foo bot.", PARAMETERS)
    function = asyncio.create_task(foo(azurite, f"azure-function-{name}-input", f"azure-function-{name}-output"))
    answer = await asyncio.to_thread(ask, client, list(tool.definitions), [], name)
    await function
    assert "is foo." in answer


async def test_several_agents_and_a_run_that_fails(client: AgentsClient, capsys: pytest.CaptureFixture[str]) -> None:
    "Multiple agent instances, run failure handling, the cleanup sequence."

    def sample(scale_factor: int) -> list[str]:
        agents = []
        for index in range(scale_factor):
            agents.append(client.create_agent(model="llama-3.3-70b", name=f"agent-{index}", instructions="..."))
        thread = client.threads.create()
        client.messages.create(thread_id=thread.id, role="user", content="@fail content_filter")
        run = client.runs.create_and_process(thread_id=thread.id, agent_id=agents[0].id, polling_interval=1)
        if run.status == "failed":
            print(f"Run failed: {run.last_error}")
        for agent in agents:
            client.delete_agent(agent.id)
        client.threads.delete(thread.id)
        return [*(agent.id for agent in agents), thread.id]

    gone = await asyncio.to_thread(sample, 3)
    assert "Run failed: {'code': 'content_filter'" in capsys.readouterr().out
    assert len(set(gone)) == 4
    with pytest.raises(ResourceNotFoundError):
        await asyncio.to_thread(client.get_agent, gone[0])


def test_the_tool_is_an_entry_of_the_registry(endpoint: str) -> None:
    tool = functions.AzureFunctionTool.named("foo", "Get answers.", PARAMETERS, endpoint=endpoint)
    assert tool.registry_entry == {
        "name": "foo",
        "description": "Get answers.",
        "parameters": PARAMETERS,
        "input_queue": "azure-function-foo-input",
        "output_queue": "azure-function-foo-output",
    }


def test_the_tool_has_the_wire_form_of_the_service(endpoint: str) -> None:
    (definition,) = functions.AzureFunctionTool.named("foo", "Get answers.", PARAMETERS, endpoint=endpoint).definitions

    def binding(direction: str) -> dict[str, object]:
        queue = {"queue_name": f"azure-function-foo-{direction}", "queue_service_endpoint": endpoint}
        return {"type": "storage_queue", "storage_queue": queue}

    assert definition.as_dict() == {
        "type": "azure_function",
        "azure_function": {
            "function": {"name": "foo", "description": "Get answers.", "parameters": PARAMETERS},
            "input_binding": binding("input"),
            "output_binding": binding("output"),
        },
    }


def test_a_missing_endpoint_and_bad_parameters_are_named(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.delenv("STORAGE_SERVICE_ENDPOINT", raising=False)
    monkeypatch.delenv("STORAGE_SERVICE_ENDPONT", raising=False)
    with pytest.raises(SettingError, match="Missing STORAGE_SERVICE_ENDPOINT"):
        functions.AzureFunctionTool.named("foo", "", PARAMETERS)
    with pytest.raises(InvalidFunctionTool, match="/parameters/type"):
        functions.AzureFunctionTool.named("foo", "", {"type": "string"}, endpoint=endpoint)


def test_the_current_project_client_has_no_create_agent(emulator: FoundryEmulator) -> None:
    with AIProjectClient(emulator.endpoint, Identity()) as project:
        assert not hasattr(project.agents, "create_agent")
        assert not hasattr(project.agents, "threads")
