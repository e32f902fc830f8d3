"""Azure Functions as tools of the service itself: calls go into an input queue, replies come from an output queue.

A call is a message ``{...arguments, "CorrelationId"}``, its reply ``{"Value", "CorrelationId"}``, both base64. Only
queues on this machine are used (Azurite, whose account and key are public): an emulator has no business elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from emulators.azurite.server import ACCOUNT_KEY, ACCOUNT_NAME
from emulators.foundry.model import JsonObject

if TYPE_CHECKING:
    from azure.storage.queue.aio import QueueClient

log = logging.getLogger("emulators.foundry")

POLL_SECONDS = 0.1
HIDDEN_SECONDS = 5
"""A message that answers no call of ours is left to others for so long."""
LARGEST_MESSAGE = 48 * 1024
WORN_OUT = 5
"""Deliveries after which a message that answers no call goes to `{queue}-poison`."""


class StorageQueue(BaseModel):
    """A queue and its service, such as ``http://127.0.0.1:10001/devstoreaccount1``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    queue_name: str = Field(pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")
    queue_service_endpoint: str = Field(pattern=r"^https?://.+")


class Binding(BaseModel):
    """One side of the function."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["storage_queue"] = "storage_queue"
    storage_queue: StorageQueue


class FunctionPart(BaseModel):
    """The function as the model sees it."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: JsonObject | None = None


class AzureFunction(BaseModel):
    """The inner object of a tool of type ``azure_function``."""

    model_config = ConfigDict(extra="ignore")

    function: FunctionPart
    input_binding: Binding
    output_binding: Binding


def azure_functions(tools: JsonValue) -> dict[str, AzureFunction]:
    """The Azure Functions among checked tool definitions, by name."""
    found: dict[str, AzureFunction] = {}
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type") == "azure_function":
            function = AzureFunction.model_validate(tool.get("azure_function"))
            found[function.function.name] = function
    return found


class QueueUnusable(Exception):
    """The tool's queue cannot be used from here; the model is told why."""


class FunctionCaller:
    """Calls functions and waits for their replies; one reader per output queue, however many calls wait."""

    def __init__(self) -> None:
        self._waiting: dict[StorageQueue, dict[str, asyncio.Future[str]]] = {}
        self._readers: dict[StorageQueue, asyncio.Task[None]] = {}

    async def call(self, function: AzureFunction, correlation_id: str, arguments: str) -> str:
        """What the function replied, as text; or why it could not be called. Waits until there is a reply."""
        source, target = function.output_binding.storage_queue, function.input_binding.storage_queue
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(source, {})
        waiting[correlation_id] = future
        try:
            _check_local(source)
            await _put(target, correlation_id, arguments)
            if source not in self._readers or self._readers[source].done():
                self._readers[source] = asyncio.create_task(self._read(source), name=f"replies {source.queue_name}")
            return await future
        except QueueUnusable as error:
            return json.dumps({"error": str(error)})
        finally:
            waiting.pop(correlation_id, None)

    async def close(self) -> None:
        """Stop reading."""
        for task in self._readers.values():
            task.cancel()
        await asyncio.gather(*self._readers.values(), return_exceptions=True)

    async def _read(self, source: StorageQueue) -> None:
        from azure.core.exceptions import AzureError

        waiting = self._waiting[source]
        while waiting:
            try:
                async with _opened(source) as queue:
                    while waiting:
                        if not await self._page(source, queue):
                            await asyncio.sleep(POLL_SECONDS)
            except (AzureError, QueueUnusable) as error:
                log.warning("output queue %s: %s", source.queue_name, error)
                await asyncio.sleep(1.0)

    async def _page(self, source: StorageQueue, queue: QueueClient) -> int:
        waiting = self._waiting[source]
        taken = 0
        async for message in queue.receive_messages(
            messages_per_page=32, max_messages=32, visibility_timeout=HIDDEN_SECONDS
        ):
            taken += 1
            value, correlation_id = _reply(str(message.content))
            future = waiting.get(correlation_id) if correlation_id is not None else None
            if future is not None:
                if not future.done():
                    future.set_result(value)  # first: it is lost if the message is deleted and nobody says so
                await queue.delete_message(message)
            elif (message.dequeue_count or 1) >= WORN_OUT:
                async with _opened(
                    source.model_copy(update={"queue_name": f"{source.queue_name[:56]}-poison"})
                ) as poison:
                    await poison.send_message(message.content)
                await queue.delete_message(message)
        return taken


async def _put(target: StorageQueue, correlation_id: str, arguments: str) -> None:
    try:
        given: object = json.loads(arguments or "{}")
    except ValueError as error:
        raise QueueUnusable(f"the arguments are not JSON: {error}") from None
    if not isinstance(given, dict):
        raise QueueUnusable("the arguments are not a JSON object")
    body = json.dumps({**given, "CorrelationId": correlation_id}, ensure_ascii=False).encode()
    if len(body) > LARGEST_MESSAGE:
        raise QueueUnusable(f"the arguments have {len(body)} bytes; at most {LARGEST_MESSAGE} fit into a message")
    async with _opened(target) as queue:
        await queue.send_message(base64.b64encode(body).decode())


@contextlib.asynccontextmanager
async def _opened(queue: StorageQueue) -> AsyncIterator[QueueClient]:
    from azure.core.exceptions import AzureError, ResourceExistsError
    from azure.storage.queue.aio import QueueClient

    _check_local(queue)
    credential = {"account_name": ACCOUNT_NAME, "account_key": ACCOUNT_KEY}
    async with QueueClient(
        queue.queue_service_endpoint, queue.queue_name, credential=credential, retry_total=1
    ) as client:
        try:
            with contextlib.suppress(ResourceExistsError):
                await client.create_queue()
        except AzureError as error:
            raise QueueUnusable(f"queue {queue.queue_name} cannot be reached: {type(error).__name__}") from error
        yield client


def _check_local(queue: StorageQueue) -> None:
    parts = urlsplit(queue.queue_service_endpoint)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise QueueUnusable(
            f"the emulator calls functions over queues on this machine only; this one is at {parts.hostname}"
        )


def _reply(content: str) -> tuple[str, str | None]:
    """The value of a reply as text, and the call that it belongs to."""
    with contextlib.suppress(ValueError):  # plain text, ASCII or not, is taken as it is
        content = base64.b64decode(content, validate=True).decode()
    try:
        reply = _Reply.model_validate_json(content)
    except ValidationError:
        return "", None
    value = reply.value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), reply.correlation_id


class _Reply(BaseModel):
    value: JsonValue = Field(alias="Value")
    correlation_id: str = Field(alias="CorrelationId")
