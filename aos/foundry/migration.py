"""From the older generation to the current one: a thread's messages replayed into a conversation.

Only text moves: what runs asked of tools stands in their steps and is no part of a thread. The thread stays.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aos.errors import AosError, Conflict, FoundryRefused
from aos.foundry.clients import FoundryClients
from aos.foundry.faults import foundry_errors
from aos.foundry.thread_wire import Message
from aos.foundry.threads import MANY, PAGE, PREFIX, listed
from aos.foundry.values import present
from aos.kernel.clock import Clock
from aos.kernel.ports import Change, ConversationStore, Lease
from aos.kernel.types import ConversationKey

if TYPE_CHECKING:
    from openai.types.responses import ResponseInputItemParam

log = logging.getLogger("aos.foundry")

BATCH = 20
"""Items that the service takes in one request."""
LEASE = 300.0
"""Seconds that moving one conversation may take."""


async def replay(clients: FoundryClients, thread_id: str) -> str:
    """Makes a conversation that holds what was said in a thread, with the thread's metadata; at most the last 1,000
    messages.

    Returns:
        The conversation's id.

    Raises:
        ConversationGone: There is no such thread.
        FoundryUnavailable, FoundryRefused: From Foundry; nothing is left behind, nor when it is cancelled.
    """
    with foundry_errors("reading a thread"):
        thread = await clients.agents.threads.get(thread_id)
        messages = await listed(clients.agents.messages.list(thread_id, limit=PAGE, order="desc"), Message, MANY)
        metadata = {str(name): str(value) for name, value in (thread.metadata or {}).items()}
    items = [_item(message) for message in reversed(messages) if message.text]
    conversations = clients.openai.conversations
    with foundry_errors("opening a conversation"):
        made = await conversations.create(items=items[:BATCH], metadata=metadata, timeout=30)
        conversation = present(made.id)
    try:
        with foundry_errors("replaying a thread"):
            for start in range(BATCH, len(items), BATCH):
                await conversations.items.create(conversation, items=items[start : start + BATCH], timeout=30)
    except (AosError, asyncio.CancelledError):
        # Also when nobody waits for it any more.
        try:
            with foundry_errors("removing a conversation"):
                await conversations.delete(conversation, timeout=30)
        except AosError as error:
            log.warning("half of thread %s stays in conversation %s: %s", thread_id, conversation, error.detail)
        raise
    log.info("replayed %d messages of %s into %s", len(items), thread_id, conversation)
    return conversation


def _item(message: Message) -> ResponseInputItemParam:
    if message.role == "user":
        return {"type": "message", "role": "user", "content": message.text}
    part: Any = {"type": "output_text", "text": message.text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


class Migration:
    """Moves conversations of ours from threads to conversations of the current generation.

    Each is moved under its lease, between two turns, so it may run beside a serving system.
    """

    def __init__(self, store: ConversationStore, clients: FoundryClients, clock: Clock) -> None:
        self._store = store
        self._clients = clients
        self._clock = clock
        self._owner = f"migration.{uuid.uuid4().hex}"

    async def move(self, key: ConversationKey) -> str | None:
        """Replays the conversation's thread and rewrites our record of it.

        Returns:
            The id of the new conversation in Foundry; None: there is no thread behind it (any more).

        Raises:
            Conflict: It is being worked on.
            FoundryRefused: There is no such conversation.
            FoundryUnavailable: From Foundry.
        """
        snapshot = await self._store.read(key)
        state, lease = snapshot.state, snapshot.lease
        if snapshot.etag is None:
            raise FoundryRefused(
                f"Agent {key.agent_id!r} has no conversation {key.conversation_id!r}.", code="unknown_conversation"
            )
        thread = state.remote_id
        if thread is None or not thread.startswith(PREFIX):
            return None
        busy = lease.owner not in ("", self._owner) and lease.until > self._clock.now()
        if busy or state.turn is not None:
            raise Conflict(f"Conversation {key.conversation_id!r} is in the middle of a turn: try again after it.")
        fence = lease.fence + 1
        taken = Lease(self._owner, self._clock.now() + LEASE, fence)
        etag = await self._store.commit(key, snapshot.etag, Change(state, taken))
        moved = state
        try:
            with foundry_errors("moving a thread"):
                async with asyncio.timeout(LEASE - 30.0):
                    remote_id = await replay(self._clients, thread)
            moved = replace(state, remote_id=remote_id, anchor=None, orphans=(), unsettled=False)
        finally:
            await self._store.commit(key, etag, Change(moved, Lease("", 0.0, fence)))
        return moved.remote_id
