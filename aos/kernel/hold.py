"""A conversation in the hands of the process that works on it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from aos.errors import AosError, Conflict, TransientError
from aos.kernel.backoff import back_off
from aos.kernel.events import (
    ApprovalDecided,
    Event,
    MessageCancelled,
    PutOff,
    Record,
    ResultArrived,
    TurnCancelled,
)
from aos.kernel.ports import Lease, Snapshot
from aos.kernel.records import replace
from aos.kernel.turn import step
from aos.kernel.types import (
    Arrival,
    Cancellation,
    Conversation,
    ConversationKey,
    Decision,
    Failure,
    Limits,
    Message,
    Operation,
    ToolResult,
)

log = logging.getLogger("aos.kernel")

BATCH = 30
"""Messages, and arrivals, taken up in one write: stores bound the rows of a transaction."""


@dataclass(slots=True, eq=False)
class Hold:
    """A conversation while this process works on it.

    Attributes:
        recovering: The turn was found in the middle of a model step: Foundry may have the answer already.
        held: The lease is this process's, as far as it knows.
        changed: There is something to be saved.
        resumed: By the wake-up that a put-off step asked for.
        reopened: The Foundry conversation was lost and replaced, and no step has worked since.
        wake: Seconds after which the conversation is to be woken; set when it was put off.
        taken_messages, taken_arrivals: Consumed since the last save.
        operations: Changed since the last save.
        ended: Of them those that have just ended.
        told: Ended before, and their replies have left since the last save.
        writing: The state is being written, or waits for that; its lease gets its time by it.
        renewal: The task that writes the lease alone, while it does; the state is written after it.
    """

    key: ConversationKey
    state: Conversation
    lease: Lease
    etag: str | None
    inbox: list[Message]
    arrivals: tuple[Arrival, ...]
    limits: Limits
    recovering: bool
    held: bool = False
    changed: bool = False
    resumed: bool = False
    reopened: bool = False
    wake: float | None = None
    taken_messages: list[Message] = field(default_factory=list)
    taken_arrivals: list[Arrival] = field(default_factory=list)
    operations: dict[str, Operation] = field(default_factory=dict)
    ended: list[Operation] = field(default_factory=list)
    told: list[Operation] = field(default_factory=list)
    writing: bool = False
    renewal: asyncio.Task[None] | None = None

    def require(self, now: float) -> None:
        """Has the work end here if the lease is not this process's any more, by its own clock.

        Raises:
            Conflict: It was lost or ran out: somebody else may be at work in the Foundry conversation.
        """
        if not self.held or self.lease.until <= now:
            raise Conflict(f"The lease of {self.key.agent_id}/{self.key.conversation_id} ran out.")

    def apply(self, event: Event) -> None:
        """Feeds the machine an event; what it records waits for the next save."""
        state, effects = step(self.state, event, self.limits)
        if state is not self.state:
            self.state = state
            self.changed = True
        for effect in effects:
            if isinstance(effect, Record):
                self.operations[effect.operation.operation_id] = effect.operation
                if effect.operation.final:
                    self.ended.append(effect.operation)

    def put_off(self, error: TransientError, now: float, deadline: float) -> PutOff:
        """What is needed is unavailable: to be woken after a pause, at the deadline at the latest."""
        self.wake = min(back_off(self.state.retries, error.retry_after), max(1.0, deadline - now))
        return PutOff(now + self.wake)

    def next_message(self) -> Message:
        """The oldest message in the inbox."""
        return self._placed(self.inbox[0])

    def took(self) -> None:
        """The oldest message was taken up."""
        self.taken_messages.append(self.inbox.pop(0))
        self.changed = True

    def take_arrivals(self, now: float) -> None:
        """Feeds the machine tool results, decisions and cancellations."""
        for arrival in self.arrivals:
            if isinstance(arrival, ToolResult):
                self.apply(ResultArrived(now, arrival))
            elif isinstance(arrival, Decision):
                self.apply(ApprovalDecided(now, arrival))
            else:
                self._cancel(arrival, now)
            self.taken_arrivals.append(arrival)
            self.changed = True
        self.arrivals = ()

    def add(self, snapshot: Snapshot) -> None:
        """Adds what arrived since the conversation was read."""
        known = {message.operation_id for message in self.inbox}
        self.inbox.extend(message for message in snapshot.inbox if message.operation_id not in known)
        self.arrivals = snapshot.arrivals[:BATCH]

    def _cancel(self, wanted: Cancellation, now: float) -> None:
        self.apply(TurnCancelled(now, wanted.operation_id, wanted.by))
        for message in self.inbox:
            if message.operation_id == wanted.operation_id:
                self.apply(MessageCancelled(now, self._placed(message), wanted.by))
                self.inbox.remove(message)
                self.taken_messages.append(message)
                return

    def _placed(self, message: Message) -> Message:
        """The message in its turn: one that took long to be stored may find its place passed already."""
        passed = self.state.last_seq
        return message if message.seq > passed else replace(message, seq=passed + 1)


def hold_of(snapshot: Snapshot, key: ConversationKey, lease: Lease, limits: Limits) -> Hold:
    """What was read, for working on it under this lease."""
    turn = snapshot.state.turn
    recovering = turn is not None and turn.phase == "model"
    return Hold(
        key, snapshot.state, lease, snapshot.etag, list(snapshot.inbox), snapshot.arrivals[:BATCH], limits, recovering
    )


def unforeseen(error: Exception, what: str) -> TransientError:
    """An error that nobody foresaw: tried again until a deadline ends that, and told in the log with all it has."""
    log.error("%s failed with an error that nobody foresaw", what, exc_info=error)
    return TransientError(f"{what} failed: {type(error).__name__}: {error}", code="internal_error")


def failure_of(error: AosError) -> Failure:
    """The error as callers see it."""
    return Failure(error.code, error.title, error.detail)
