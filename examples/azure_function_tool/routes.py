"""The function app: one queue trigger, which answers each call in the output queue.

A call is `{...arguments, "CorrelationId"}`; its reply is `{"Value": ..., "CorrelationId": ...}`. The same call may come
twice (queues deliver at least once): working it out again gives the same reply, so nothing has to be remembered.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from examples.azure_function_tool.loans import Loan, cost_of
from runtime import RouteRegistry, StorageMessage

if TYPE_CHECKING:
    from azure.storage.queue.aio import QueueServiceClient

NAME = "loan-cost"
INPUT_QUEUE = f"azure-function-{NAME}-input"
OUTPUT_QUEUE = f"azure-function-{NAME}-output"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "principal": {"type": "number", "exclusiveMinimum": 0, "description": "Amount borrowed."},
        "annual_rate_percent": {"type": "number", "minimum": 0, "maximum": 100, "description": "Rate per year, in %."},
        "months": {"type": "integer", "minimum": 1, "maximum": 600, "description": "Number of monthly payments."},
        "outputqueueuri": {"type": "string", "description": "The full output queue URI."},
    },
    "required": ["principal", "annual_rate_percent", "months"],
}
REGISTRY_ENTRY: dict[str, Any] = {
    "name": NAME,
    "description": "Works out the monthly payment and the total interest of a loan, to the cent.",
    "parameters": PARAMETERS,
}
"""For `azure_functions` of an agent in agent_registry.json."""


class Call(BaseModel):
    """What every call holds beside its arguments."""

    model_config = ConfigDict(extra="allow")

    correlation_id: str = Field(alias="CorrelationId", min_length=1)
    output_queue_uri: str | None = Field(default=None, alias="outputqueueuri")


class Replies:
    """Puts replies into queues of one storage account."""

    def __init__(self, service: QueueServiceClient) -> None:
        self._service = service

    async def send(self, queue: str, reply: Mapping[str, object]) -> None:
        """Base64, as the Functions host writes; the queue is made if it is not there."""
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        client = self._service.get_queue_client(queue)
        content = base64.b64encode(json.dumps(reply).encode()).decode()
        try:
            await client.send_message(content)
        except ResourceNotFoundError:
            with suppress(ResourceExistsError):
                await client.create_queue()
            await client.send_message(content)

    def queue_of(self, uri: str | None) -> str:
        """The queue that a caller wants its reply in: one of this account, or the usual one.

        Raises:
            ValueError: It lies elsewhere. A caller must not decide to whom this app writes.
        """
        if uri is None:
            return OUTPUT_QUEUE
        queue = uri.rpartition("/")[2]
        if uri != self._service.get_queue_client(queue).url.partition("?")[0]:
            raise ValueError("outputqueueuri names a queue of another account")
        return queue


async def loan_cost(message: StorageMessage) -> None:
    """Works out one loan. Terms that cannot be are told to the caller; a call without CorrelationId is poison."""
    replies: Replies = message.app
    body = message.json()
    call = Call.model_validate(body)
    queue = replies.queue_of(call.output_queue_uri)
    value: object
    try:
        value = cost_of(Loan.model_validate(body)).model_dump()
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
        value = {"error": "; ".join(problems)}
    await replies.send(queue, {"Value": value, "CorrelationId": call.correlation_id})


def routes(connection: str = "AzureWebJobsStorage") -> RouteRegistry:
    """The routes of the app; `connection` is the setting that holds the storage account."""
    registry = RouteRegistry()
    registry.register_storage_queue(INPUT_QUEUE, loan_cost, connection=connection, name="loan_cost")
    return registry


@asynccontextmanager
async def open_replies(connection: str, settings: Mapping[str, str]) -> AsyncIterator[Replies]:
    """The account of the setting: a connection string, or `__queueServiceUri` and the identity of the app."""
    from azure.identity.aio import DefaultAzureCredential
    from azure.storage.queue.aio import QueueServiceClient

    text = settings.get(connection, "").strip()
    if text:
        async with QueueServiceClient.from_connection_string(text) as service:
            yield Replies(service)
        return
    client_id = settings.get(f"{connection}__clientId", "").strip()
    async with (
        DefaultAzureCredential(**({"managed_identity_client_id": client_id} if client_id else {})) as credential,
        QueueServiceClient(settings[f"{connection}__queueServiceUri"], credential=credential) as service,
    ):
        yield Replies(service)
