"""Threads: conversations of the service, which keeps all that is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from aos.errors import ConversationGone
from aos.foundry.clients import FoundryClients
from aos.foundry.faults import foundry_errors
from aos.kernel.clock import Clock
from aos.ml.errors import InvalidModelRequest
from aos.ml.foundry_types import ThreadInfo

LAST_ACCESSED = "aos_last_accessed"
AGENT = "aos_agent"
APP = "aos_app"
OURS = frozenset({LAST_ACCESSED, AGENT, APP})
PAIRS = 16
"""Pairs of metadata that the service keeps; keys up to 64 characters, values up to 512."""
MOST_ITEMS = 20_000
SHORT = 30.0
"""Seconds for a request that asks no model."""


class FoundryThreads:
    """Creates, describes and deletes threads."""

    def __init__(self, clients: FoundryClients, app_name: str, clock: Clock) -> None:
        self._clients = clients
        self._app_name = app_name
        self._clock = clock

    async def create(self, metadata: Mapping[str, str]) -> str:
        """A new thread's id.

        Raises:
            InvalidModelRequest: The service would not keep this metadata.
        """
        _check(metadata)
        own = {**metadata, APP: self._app_name, LAST_ACCESSED: self._now()}
        with foundry_errors("creating a thread"):
            made = await self._clients.openai.conversations.create(metadata=own, timeout=SHORT)
            thread_id = str(made.id)
        return thread_id

    async def info(self, thread_id: str) -> ThreadInfo:
        """What the service knows of a thread.

        Raises:
            ConversationGone: There is no such thread.
        """
        with foundry_errors("reading a thread"):
            found = await self._clients.openai.conversations.retrieve(thread_id, timeout=SHORT)
            metadata = _texts(found.metadata)
            created = datetime.fromtimestamp(found.created_at, UTC)
            sent = seen = 0
            pages = self._clients.openai.conversations.items.list(thread_id, order="asc", limit=100, timeout=SHORT)
            async for item in pages:
                seen += 1
                sent += item.type == "message" and item.role == "user"
                if seen == MOST_ITEMS:
                    break
        return ThreadInfo(
            thread_id=thread_id,
            agent_id=metadata.get(AGENT),
            created_at=created,
            last_accessed=_time(metadata.get(LAST_ACCESSED)),
            message_count=sent,
            metadata={key: value for key, value in metadata.items() if key not in OURS},
        )

    async def delete(self, thread_id: str) -> bool:
        """Deletes a thread; False if there is none."""
        try:
            with foundry_errors("deleting a thread"):
                deleted = await self._clients.openai.conversations.delete(thread_id, timeout=SHORT)
                return bool(deleted.deleted)
        except ConversationGone:
            return False

    async def touch(self, thread_id: str, agent: str) -> None:
        """Notes in the thread's metadata that an agent answered in it now."""
        with foundry_errors("noting the use of a thread"):
            # An update replaces all of it: what others wrote since it was read is read again, not written over.
            found = await self._clients.openai.conversations.retrieve(thread_id, timeout=SHORT)
            metadata = _texts(found.metadata)
            if len(metadata.keys() | OURS) > PAIRS:
                return  # a thread made elsewhere, whose metadata is full
            own = {**metadata, APP: self._app_name, AGENT: agent, LAST_ACCESSED: self._now()}
            await self._clients.openai.conversations.update(thread_id, metadata=own, timeout=SHORT)

    async def last_item(self, thread_id: str) -> str | None:
        """The newest item of a thread: what comes after it is news.

        Asked each time: other processes go on with a thread, too, and what they were answered is none of ours.
        """
        with foundry_errors("reading a thread"):
            page = await self._clients.openai.conversations.items.list(thread_id, order="desc", limit=1, timeout=SHORT)
            return page.data[0].id if page.data else None

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")


def _check(metadata: Mapping[str, str]) -> None:
    if reserved := sorted(OURS & metadata.keys()):
        raise InvalidModelRequest(f"metadata: {reserved[0]} is reserved.")
    if len(metadata) > PAIRS - len(OURS):
        raise InvalidModelRequest(f"metadata: {len(metadata)} pairs; at most {PAIRS - len(OURS)} are kept.")
    for key, value in metadata.items():
        if not isinstance(value, str) or not 0 < len(key) <= 64 or len(value) > 512:
            raise InvalidModelRequest(
                f"metadata: {key[:64]!r}: keys have 1 to 64 characters, values text of up to 512."
            )


def _texts(metadata: object) -> dict[str, str]:
    return {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None  # written by somebody else
