"""What was said in a conversation: shown page by page, and forgotten when somebody asks for that."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any, Literal

from pydantic import BaseModel

from aos.errors import Conflict, ConversationBusy, StorageUnavailable, UnknownConversation
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.kernel import Kernel
from aos.kernel.ports import Change, ConversationStore, FoundryPort, HistoryEntry, Lease, Snapshot
from aos.kernel.types import Conversation, ConversationKey
from aos.views import operation_view, time_view

log = logging.getLogger("aos.conversations")

PAGE = 50
"""Messages shown at once."""
LEASE = 120.0
"""Seconds for which a conversation that is being forgotten takes up no message."""
ARRIVALS = 30
"""Late results that are dropped in one write."""


class ToolCallView(BaseModel):
    """One tool call of a turn; `arguments` is the text that was sent, `agent` the connected agent that was asked."""

    id: str
    server: str
    tool: str
    arguments: str
    status: str
    duration_ms: int | None = None
    agent: str | None = None
    approval: dict[str, Any] | None = None


class UsageView(BaseModel):
    """Tokens of a turn; `adopted` counts steps that were taken over after a crash, whose tokens are unknown."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    adopted: int | None = None


class ErrorView(BaseModel):
    """Why a turn ended without an answer."""

    code: str
    title: str
    detail: str


class HistoryItem(BaseModel):
    """A message and what became of it. Without `status`: that is not kept any more."""

    operation_id: str
    accepted_at: str
    message: str
    event_type: str | None = None
    attempt: int = 1
    status: Literal["queued", "running", "waiting", "completed", "failed", "cancelled"] | None = None
    waiting_on: str | None = None
    reply: str | None = None
    truncated: bool | None = None
    error: ErrorView | None = None
    tool_calls: list[ToolCallView] = []
    usage: UsageView | None = None
    model: str | None = None
    agent_version: str | None = None


class RolloverView(BaseModel):
    """Where the conversation went on in another one in Foundry, because it had grown long.

    Attributes:
        turns: How many had ended by then.
        carried: What the new one was given of the old: `summary`, `recent`, or `nothing`.
    """

    at: str
    turns: int
    carried: str


class ConversationView(BaseModel):
    """Body of `GET agents/{agent_id}/conversations/{conversation_id}`; `next` is `after` of the next page.

    `rolled_over` counts how often the conversation was rolled over, `rollovers` are the last of them.
    """

    agent_id: str
    conversation_id: str
    turns: int
    rolled_over: int = 0
    rollovers: list[RolloverView] = []
    items: list[HistoryItem]
    next: str | None = None


class Conversations:
    """The conversations of all agents, as callers see them."""

    def __init__(
        self, kernel: Kernel, store: ConversationStore, foundry: FoundryPort, clock: Clock | None = None
    ) -> None:
        self._kernel = kernel
        self._store = store
        self._foundry = foundry
        self._clock = clock or SystemClock()

    async def page(self, key: ConversationKey, after: int = 0) -> ConversationView:
        """Up to `PAGE` messages, in the order in which they were accepted.

        Args:
            after: Where the page before ended.

        Raises:
            UnknownConversation: The agent has none of this id.
        """
        snapshot, entries = await asyncio.gather(self._store.read(key), self._store.history(key, after, PAGE + 1))
        if snapshot.etag is None and not snapshot.inbox and not entries:
            raise UnknownConversation(f"Agent {key.agent_id!r} has no conversation {key.conversation_id!r}.")
        shown = entries[:PAGE]
        return ConversationView(
            agent_id=key.agent_id,
            conversation_id=key.conversation_id,
            turns=snapshot.state.turns,
            rolled_over=snapshot.state.rolled_over,
            rollovers=[
                RolloverView(at=time_view(mark.at), turns=mark.turns, carried=mark.carried)
                for mark in snapshot.state.rollovers
            ],
            items=[_item(entry) for entry in shown],
            next=str(shown[-1].message.seq) if len(entries) > PAGE else None,
        )

    async def delete(self, key: ConversationKey) -> None:
        """Forgets a conversation: what AOS keeps of it, and the conversation in Foundry.

        Of its operations remains how they ended. One that does not exist (any more) is no error. What is said
        afterwards begins anew.

        Raises:
            ConversationBusy: A message is in work, or waits.
            FoundryUnavailable, FoundryRefused, StorageUnavailable: Not all of it was done; asking again goes on.
        """
        snapshot = await self._store.read(key)
        self._require_rest(key, snapshot)
        if snapshot.etag is None:
            return
        fence = snapshot.lease.fence + 1
        held = Lease(f"deletion.{uuid.uuid4().hex}", self._clock.now() + LEASE, fence)
        change = Change(snapshot.state, held, arrivals=snapshot.arrivals[:ARRIVALS])
        try:
            etag = await self._store.commit(key, snapshot.etag, change)
        except Conflict:
            raise _busy(key) from None
        erased = False
        try:
            async with asyncio.timeout(LEASE - 30.0):
                for remote_id in _remote_ids(snapshot.state):
                    await self._foundry.delete_conversation(remote_id)
                await self._store.erase(key, etag)
            erased = True
        except Conflict:
            raise _busy(key) from None
        except TimeoutError:
            raise StorageUnavailable("Forgetting the conversation takes long; ask again to go on.") from None
        finally:
            if not erased:
                # The next message should not have to wait for the end of the lease.
                await self._release(key, etag, Change(snapshot.state, Lease("", 0.0, fence)))
        log.info("conversation %s/%s was forgotten", *key)
        # What was accepted meanwhile saw the lease and relies on who holds it.
        for message in (await self._store.read(key)).inbox[:1]:
            self._kernel.start(await self._kernel.operation(message.operation_id))

    def _require_rest(self, key: ConversationKey, snapshot: Snapshot) -> None:
        state, lease = snapshot.state, snapshot.lease
        held = lease.owner != "" and lease.until > self._clock.now()
        if held or state.turn is not None or state.outbox or snapshot.inbox:
            raise _busy(key)

    async def _release(self, key: ConversationKey, etag: str, change: Change) -> None:
        try:
            await self._store.commit(key, etag, change)
        except Conflict:
            log.info("conversation %s/%s is held by somebody else already", *key)


def _remote_ids(state: Conversation) -> list[str]:
    """The conversation in Foundry, and those that were left behind when it was rolled over."""
    left = [*state.left, *(mark.remote_id for mark in state.rollovers)]
    return left if state.remote_id is None else [*left, state.remote_id]


def _busy(key: ConversationKey) -> ConversationBusy:
    return ConversationBusy(
        f"A message of conversation {key.conversation_id!r} is in work, or waits for a tool or a person; delete it "
        "when that has ended, or cancel it (DELETE /api/operations/{operation_id})."
    )


def _item(entry: HistoryEntry) -> HistoryItem:
    message, operation = entry.message, entry.operation
    item = HistoryItem(
        operation_id=message.operation_id,
        accepted_at=time_view(message.accepted_at),
        message=message.text,
        event_type=message.event_type or None,
        attempt=message.attempt,
    )
    if operation is None or operation.attempt != message.attempt:
        # A later attempt is an entry of its own.
        return item
    return HistoryItem.model_validate(operation_view(operation) | item.model_dump(exclude_unset=True))
