"""Histories of conversations: what the Foundry service keeps for its agents, the custom runtime keeps itself.

A history only grows, one model step at a time: input and answer of a step are written together, and only if nobody
wrote since they were read. So a crash leaves a step either wholly there, where recovery finds it, or not at all.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from aos.custom.faults import HistoryGone, ModelRefused, ModelUnavailable
from aos.kernel.types import ConversationKey
from aos.storage.account import StorageAccount, storage_errors

CONTAINER = "aos-conversations"
TAIL = 4 * 1024 * 1024
"""Bytes read at most, the newest ones: far more than fits into the context of a model."""
LARGEST_STEP = 4 * 1024 * 1024
"""Bytes of one step; what one block of an append blob holds on every service version."""


class HistoryItem(BaseModel):
    """One item of a conversation.

    Attributes:
        number: Its place, from 1.
        text: Of a message, or what a tool said (`output`).
        arguments: As the model wrote them.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    kind: Literal["user", "text", "call", "output"]
    text: str = ""
    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """A history as read: its newest items, oldest first, and the version that an append refers to."""

    items: tuple[HistoryItem, ...]
    version: str

    @property
    def last(self) -> int:
        return self.items[-1].number if self.items else 0


class Histories(Protocol):
    async def create(self, name: str, key: ConversationKey) -> None:
        """Begins an empty history."""
        ...

    async def read(self, name: str) -> History:
        """Raises `HistoryGone` if there is none."""
        ...

    async def append(self, name: str, version: str, items: Sequence[HistoryItem]) -> None:
        """Adds the items of a step.

        Raises:
            ModelUnavailable: Somebody else added to it since `version`.
            HistoryGone: It was deleted, or is full.
            ModelRefused: The step is too large.
        """
        ...

    async def delete(self, name: str) -> None:
        """Removes a history; one that is not there is no error."""
        ...


def changed(name: str) -> ModelUnavailable:
    """Another step was written meanwhile: recovery reads it and goes on from there."""
    return ModelUnavailable(f"History {name} was changed by another step.", sent=True, code="conversation_locked")


def gone(name: str) -> HistoryGone:
    return HistoryGone(f"There is no history {name} (any more).")


class MemoryHistories:
    """Histories of one process, for agents that run without a storage account."""

    def __init__(self) -> None:
        self._items: dict[str, list[HistoryItem]] = {}

    async def create(self, name: str, key: ConversationKey) -> None:
        self._items[name] = []

    async def read(self, name: str) -> History:
        items = self._items.get(name)
        if items is None:
            raise gone(name)
        return History(tuple(items), str(len(items)))

    async def append(self, name: str, version: str, items: Sequence[HistoryItem]) -> None:
        known = self._items.get(name)
        if known is None:
            raise gone(name)
        if str(len(known)) != version:
            raise changed(name)
        known += items

    async def delete(self, name: str) -> None:
        self._items.pop(name, None)


class BlobHistories:
    """Histories as append blobs in container `aos-conversations`: a line of JSON per item, a block per step."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def create(self, name: str, key: ConversationKey) -> None:
        container = await self._account.container(CONTAINER)
        metadata = {"aos_agent": key.agent_id, "aos_conversation": key.conversation_id}
        with storage_errors(f"history {name}"):
            await container.get_blob_client(_blob(name)).create_append_blob(metadata=metadata)

    async def read(self, name: str) -> History:
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

        container = await self._account.container(CONTAINER)
        blob = container.get_blob_client(_blob(name))
        with storage_errors(f"history {name}"):
            try:
                stream = await blob.download_blob(offset=0, length=TAIL)
                size = int(str(stream.properties.content_range).rpartition("/")[2])
                if size > TAIL:
                    # The range ends where the blob did: what came since would be missed under a newer version.
                    stream = await blob.download_blob(
                        offset=size - TAIL,
                        length=TAIL,
                        etag=stream.properties.etag,
                        match_condition=MatchConditions.IfNotModified,
                    )
                data, version = await stream.readall(), str(stream.properties.etag)
            except ResourceNotFoundError:
                raise gone(name) from None
            except ResourceModifiedError:
                raise changed(name) from None
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                # An empty blob has no ranges.
                properties = await blob.get_blob_properties()
                if properties.size:
                    raise changed(name) from None
                size, data, version = 0, b"", str(properties.etag)
        if size > TAIL:
            # The line that the range cut in two.
            data = data[data.find(b"\n") + 1 :]
        lines = data.split(b"\n")[:-1]
        return History(tuple(HistoryItem.model_validate_json(line) for line in lines), version)

    async def append(self, name: str, version: str, items: Sequence[HistoryItem]) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

        data = "".join(f"{item.model_dump_json(exclude_defaults=True)}\n" for item in items).encode()
        if len(data) > LARGEST_STEP:
            raise ModelRefused(
                f"A step of {len(data)} bytes is too large for the history; at most {LARGEST_STEP} fit.",
                code="too_large",
            )
        container = await self._account.container(CONTAINER)
        with storage_errors(f"history {name}"):
            try:
                await container.get_blob_client(_blob(name)).append_block(
                    # As a stream: a large body in one piece holds up the event loop.
                    io.BytesIO(data),
                    length=len(data),
                    etag=version,
                    match_condition=MatchConditions.IfNotModified,
                )
            except ResourceModifiedError:
                raise changed(name) from None
            except ResourceNotFoundError:
                raise gone(name) from None
            except HttpResponseError as error:
                if getattr(error, "error_code", None) == "BlockCountExceedsLimit":
                    # 50,000 steps: the conversation goes on in a new history.
                    raise gone(name) from error
                raise

    async def delete(self, name: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        container = await self._account.container(CONTAINER)
        with storage_errors(f"history {name}"), suppress(ResourceNotFoundError):
            await container.delete_blob(_blob(name))


def _blob(name: str) -> str:
    return f"{name}.jsonl"
