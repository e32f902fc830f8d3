"""Storage queues of applications: JSON or text in, JSON or text out, of any size.

Messages are base64, as the queue triggers of Azure Functions expect by default; plain ones are read too. A body over
48 KiB (a message holds 64 KiB of base64) lies in a blob, and the message says which: `{"$blob": {...}}`.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from pydantic import ValidationError

from aos.errors import AosError
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.names import checked
from aos.storage.payloads import BlobRef, PayloadGone, Payloads

if TYPE_CHECKING:
    from azure.storage.queue import QueueMessage as Received
    from azure.storage.queue.aio import QueueClient

log = logging.getLogger("aos.storage")

T = TypeVar("T")

LARGEST_INLINE = 48 * 1024
LARGEST_BODY = 64 * 1024 * 1024
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Of a pair of escapes, or a half of one that stands alone."""
MOST = 32
"""Messages that the service hands out at once."""


class MessageTooLarge(AosError):
    code = "too_large"
    title = "The message is too large."


class MessageGone(AosError):
    """It was deleted before, or its time with this receiver ran out and another one has it."""

    code = "message_gone"
    title = "The message is no longer this receiver's."


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A received message. It is handed out again after its visibility time-out unless it is deleted.

    Attributes:
        body: Parsed JSON, or the text if it is none.
        dequeue_count: How often it was handed out, this time included.
        problem: Why the body could not be read (its blob is gone); `body` is then the message as it came.
    """

    message_id: str
    body: Any
    dequeue_count: int
    inserted_at: datetime | None
    receipt: str = field(repr=False)
    problem: str | None = None
    blob: BlobRef | None = None


class Queues:
    """The queues of an account."""

    def __init__(self, account: StorageAccount, payloads: Payloads) -> None:
        self._account = account
        self._payloads = payloads

    async def send(self, queue: str, body: Any, *, delay: float = 0, time_to_live: float | None = None) -> str:
        """Puts a message at the end of a queue.

        Args:
            body: Text as it is, bytes as UTF-8 text, anything else as JSON.
            delay: Seconds until it can be received, up to 7 days.
            time_to_live: Seconds until it is dropped; None: never.

        Returns:
            The service's id of the message.

        Raises:
            MessageTooLarge: Over `LARGEST_BODY`.
            TypeError: The body is no JSON, or bytes that are no text.
        """
        if isinstance(body, bytes):
            try:
                body.decode()
            except UnicodeDecodeError as error:
                raise TypeError(f"queue {queue}: the bytes are not UTF-8 ({error.reason}); send base64") from None
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        if len(data) > LARGEST_BODY:
            raise MessageTooLarge(f"queue {queue}: {len(data)} bytes; at most {LARGEST_BODY}. Send a blob's name.")
        checked("queue", queue)
        if len(data) > LARGEST_INLINE:
            ref = await self._payloads.put(data, _prefix(queue))
            data = json.dumps({"$blob": ref.model_dump()}).encode()
        content, lives = base64.b64encode(data).decode(), -1 if time_to_live is None else max(1, int(time_to_live))

        async def send(client: QueueClient) -> str:
            sent = await client.send_message(content, visibility_timeout=int(delay) or None, time_to_live=lives)
            return str(sent.id)

        return await self._with(queue, send)

    async def receive(self, queue: str, *, limit: int = MOST, visibility_timeout: float = 30) -> Sequence[QueueMessage]:
        """Takes up to `limit` messages, which nobody else gets for `visibility_timeout` seconds.

        Raises:
            ValueError: `limit` is not 1 to 32.
        """
        if not 1 <= limit <= MOST:
            raise ValueError(f"limit is {limit}: a queue hands out 1 to {MOST} messages at once")
        checked("queue", queue)
        received: list[QueueMessage] = []

        async def receive(client: QueueClient) -> list[Received]:
            pages = client.receive_messages(
                messages_per_page=limit, max_messages=limit, visibility_timeout=int(visibility_timeout)
            )
            return [message async for message in pages]

        for message in await self._with(queue, receive):
            body, blob, problem = await self.read_body(queue, str(message.content))
            received.append(
                QueueMessage(
                    message_id=message.id,
                    body=body,
                    dequeue_count=message.dequeue_count or 1,
                    inserted_at=message.inserted_on,
                    receipt=str(message.pop_receipt),
                    problem=problem,
                    blob=blob,
                )
            )
        return received

    async def _with(self, queue: str, do: Callable[[QueueClient], Awaitable[T]]) -> T:
        """Does something with a queue; one that somebody deleted meanwhile is made again first."""
        client = await self._account.queue(queue)
        with storage_errors(f"queue {queue}"):
            try:
                return await do(client)
            except ResourceNotFoundError:
                log.warning("queue %s was deleted: it is made again", queue)
                return await do(await self._account.queue(queue, again=True))

    async def delete(self, queue: str, message: QueueMessage) -> None:
        """Removes a message that was dealt with, and the blob that held its body.

        Raises:
            MessageGone: Somebody else has it by now.
        """
        client = await self._account.queue(checked("queue", queue))
        with storage_errors(f"queue {queue}"):
            try:
                await client.delete_message(message.message_id, message.receipt)
            except ResourceNotFoundError:
                raise MessageGone(f"queue {queue}: message {message.message_id} is not this receiver's.") from None
            except HttpResponseError as error:
                if error.status_code != 400 or "PopReceiptMismatch" not in str(error):
                    raise
                raise MessageGone(f"queue {queue}: message {message.message_id} is not this receiver's.") from None
        if message.blob is not None:
            await self._payloads.remove(message.blob)

    async def drop(self, blob: BlobRef) -> None:
        """Removes the blob that held the body of a message that was dealt with."""
        await self._payloads.remove(blob)

    async def read_body(self, queue: str, content: str) -> tuple[Any, BlobRef | None, str | None]:
        """The body of a message as it came out of a queue: what it says, its blob if it lies in one, and why it could
        not be read if so."""
        body = _parsed(_plain(content))
        if not (isinstance(body, Mapping) and body.keys() == {"$blob"}):
            return body, None, None
        try:
            ref = BlobRef.model_validate(body["$blob"])
        except ValidationError:
            return body, None, None  # the sender's own business
        if not ref.name.startswith(f"{_prefix(queue)}/") or ".." in ref.name:
            return body, None, f"The message names the blob {ref.name!r}, which was not made for this queue."
        try:
            return _parsed((await self._payloads.get(ref, limit=LARGEST_BODY)).decode()), ref, None
        except PayloadGone as error:
            return body, None, error.detail
        except UnicodeDecodeError as error:
            return body, ref, f"The blob {ref.name!r} is not UTF-8 text: {error.reason}."


def _prefix(queue: str) -> str:
    return f"queues/{queue}"


def _plain(content: str) -> str:
    try:
        return base64.b64decode(content, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return content


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
        if _HALF.search(text):
            # Halves of characters, which JSON may hold and nothing else can: `?` stands for them.
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        # Nested too deeply, it is no more use than what is no JSON, and must not keep the queue from the others.
        return text
    return value
