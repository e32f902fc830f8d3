"""An agent of the threads generation that uses the function: made, asked once, and removed again with its thread."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from examples.azure_function_tool.routes import INPUT_QUEUE, OUTPUT_QUEUE, PARAMETERS, REGISTRY_ENTRY

if TYPE_CHECKING:
    from azure.ai.agents.aio import AgentsClient
    from azure.identity.aio import DefaultAzureCredential

POLL_SECONDS = 1


async def ask(question: str) -> str:
    """The agent's answer. The service calls the function itself, over the account's queues.

    Raises:
        RuntimeError: The run did not complete; says why.
    """
    from azure.ai.agents.models import AzureFunctionStorageQueue, AzureFunctionTool, ListSortOrder

    endpoint = queue_endpoint()
    tool = AzureFunctionTool(
        name=REGISTRY_ENTRY["name"],
        description=REGISTRY_ENTRY["description"],
        parameters={**PARAMETERS, "properties": _without_queue(PARAMETERS["properties"])},
        input_queue=AzureFunctionStorageQueue(queue_name=INPUT_QUEUE, storage_service_endpoint=endpoint),
        output_queue=AzureFunctionStorageQueue(queue_name=OUTPUT_QUEUE, storage_service_endpoint=endpoint),
    )
    async with _identity() as identity, _client(identity) as client:
        agent = await client.create_agent(
            model=os.environ.get("MODEL_DEPLOYMENT_NAME", "llama-3.3-70b"),
            name="azure-function-agent-loan-cost",
            instructions="Answer questions about loans with the function loan-cost.",
            tools=tool.definitions,
        )
        thread = None
        try:
            thread = await client.threads.create()
            await client.messages.create(thread.id, role="user", content=question)
            run = await client.runs.create_and_process(
                thread_id=thread.id, agent_id=agent.id, polling_interval=POLL_SECONDS
            )
            if run.status != "completed":
                raise RuntimeError(f"the run ended as {run.status}: {run.last_error}")
            async for message in client.messages.list(thread.id, order=ListSortOrder.DESCENDING):
                if message.text_messages:
                    return str(message.text_messages[-1].text.value)
            raise RuntimeError("the agent said nothing")
        finally:
            # Also when something failed: agents and threads cost nothing, but nobody else removes them.
            if thread is not None:
                await client.threads.delete(thread.id)
            await client.delete_agent(agent.id)


def queue_endpoint() -> str:
    """`STORAGE_SERVICE_ENDPOINT`, or the queue service of the connection string."""
    from azure.storage.queue import QueueServiceClient

    given = os.environ.get("STORAGE_SERVICE_ENDPOINT")
    if given:
        return given.rstrip("/")
    with QueueServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"]) as service:
        return str(service.url).partition("?")[0].rstrip("/")


def _identity() -> DefaultAzureCredential:
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential()


def _client(identity: DefaultAzureCredential) -> AgentsClient:
    from azure.ai.agents.aio import AgentsClient
    from azure.core.pipeline.policies import HeadersPolicy

    endpoint = os.environ.get("PROJECT_ENDPOINT_ENT") or os.environ["AZURE_AI_PROJECT_ENDPOINT"]
    key = os.environ.get("AZURE_AI_API_KEY")
    policy: dict[str, Any] = {"authentication_policy": HeadersPolicy({"api-key": key})} if key else {}
    return AgentsClient(endpoint, identity, **policy)


def _without_queue(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: schema for name, schema in properties.items() if name != "outputqueueuri"}
