"""What the kernel needs from the world; adapters in `aos/foundry`, `aos/storage`, `aos/mcp`, ... provide it.

All methods raise errors of `aos.errors`: a `TransientError` when trying again may help, another `AosError` when not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from aos.kernel.events import PlannedCall
from aos.kernel.records import record
from aos.kernel.types import (
    AgentRef,
    Arrival,
    Conversation,
    ConversationKey,
    FunctionCall,
    Limits,
    Message,
    ModelReply,
    Operation,
    Outgoing,
    ToolOutput,
)


@record(frozen=True, slots=True)
class FunctionDefinition:
    """A tool as the model sees it. `parameters` is a JSON Schema (2020-12) of type object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@record(frozen=True, slots=True)
class ServiceFunction:
    """An Azure Function that the service calls itself: calls go into one storage queue, replies come from another.

    Attributes:
        endpoint: Of the queue service, such as `https://<account>.queue.core.windows.net`.
    """

    definition: FunctionDefinition
    input_queue: str
    output_queue: str
    endpoint: str


@record(frozen=True, slots=True)
class ServiceAgent:
    """A connected agent that the service runs itself. `version` is that of its `AgentRef`."""

    name: str
    description: str
    version: str


@record(frozen=True, slots=True)
class AgentSpec:
    """All that makes an agent in Foundry what it is. Two specs with the same hash are the same agent.

    Attributes:
        functions: Tools whose calls come back to AOS.
        service_functions, service_agents: Tools that the service deals with itself; nothing of that comes back.
    """

    agent_id: str
    deployment: str
    instructions: str
    functions: tuple[FunctionDefinition, ...]
    service_functions: tuple[ServiceFunction, ...] = ()
    service_agents: tuple[ServiceAgent, ...] = ()


@record(frozen=True, slots=True)
class RemoteItem:
    """An item of a Foundry conversation, reduced to what recovery compares.

    Attributes:
        kind: `user`, `text` (of the model), `call` or `output`.
        text: Of a message.
    """

    item_id: str
    kind: str
    text: str = ""
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class FoundryPort(Protocol):
    """The Foundry Agent Service, whichever generation of its API."""

    async def ensure_agent(self, spec: AgentSpec) -> AgentRef:
        """Finds the agent version made from exactly this spec, or makes it. Twice the same spec makes nothing new."""
        ...

    async def forget_agent(self, agent_id: str) -> None:
        """Foundry no longer has the agent: `ensure_agent` looks again."""
        ...

    async def look_up_agents(self, agent_ids: Collection[str]) -> frozenset[str]:
        """These agents are about to be ensured: reads what is known of them at once, not one by one.

        Returns:
            Ids of the agents that this app is known to have made and not removed, whether asked for or not.
        """
        ...

    async def remove_agent(self, agent_id: str) -> bool:
        """Deletes the agent with all its versions, as far as this app made them. Twice is harmless.

        Returns:
            Whether there was anything to delete.
        """
        ...

    async def open_conversation(self, key: ConversationKey) -> str:
        """Makes a conversation and returns its id."""
        ...

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> ModelReply:
        """Adds tool outputs and then the user's text to the conversation and lets the model take one step.

        Args:
            on_text: Somebody listens: called with each piece of the model's text as it comes, as far as the service
                streams. The reply holds the whole text all the same.

        Raises:
            FoundryUnavailable: With `sent=True` when the step may have happened all the same.
            ConversationGone: The conversation does not exist (any more).
            FoundryRefused: It will not work, however often it is tried.
        """
        ...

    async def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        """The items after `anchor` (all, if it is None), oldest first."""
        ...

    async def delete_conversation(self, remote_id: str) -> None:
        """Removes a conversation; one that is not there (any more) is no error."""
        ...

    async def check(self) -> None:
        """Returns when the service answers an authorized request, else raises what is wrong."""
        ...

    async def close(self) -> None: ...


class AgentBinding(Protocol):
    """An agent ready to take turns: its version in Foundry and its tools."""

    @property
    def ref(self) -> AgentRef: ...

    @property
    def running_since(self) -> float:
        """When an operator last started the agent after a stop: the time of what waited for that begins there."""
        ...

    @property
    def limits(self) -> Limits | None:
        """Bounds of its turns; None: those of the kernel."""
        ...

    def plan(self, call: FunctionCall) -> PlannedCall:
        """Looks a function call up in the agent's tools and checks its arguments against the tool's schema."""
        ...


class AgentDirectory(Protocol):
    async def bind(self, agent_id: str) -> AgentBinding:
        """The agent as the registry defines it now.

        Raises:
            UnknownAgent, AgentDisabled: As it says.
            AgentStopped: An operator stopped it; its messages wait, however long.
            AgentNotReady: Its tools or its Foundry agent are not there yet.
        """
        ...

    async def bound_to(self, agent_id: str, ref: AgentRef) -> AgentBinding:
        """The agent as it was when a turn began with `ref`, if this process still knows it; else as it is now.

        Raises:
            As `bind`, but a turn in work goes on while its agent is stopped or disabled.
        """
        ...

    async def forget(self, agent_id: str) -> None:
        """Foundry no longer has the agent's version: the next `bind` makes it ready anew."""
        ...


class Outlet(Protocol):
    """Where effects leave the process."""

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        """Sends all of them, or raises; sending one twice is harmless."""
        ...

    async def wake(self, key: ConversationKey, delay: float) -> None:
        """Asks that some process drives the conversation again, `delay` seconds from now."""
        ...


@record(frozen=True, slots=True)
class Lease:
    """Who may step a conversation. `fence` grows with every owner."""

    owner: str = ""
    until: float = 0.0
    fence: int = 0


@record(frozen=True, slots=True)
class Snapshot:
    """A conversation as read: its state and what has arrived for it.

    Attributes:
        etag: Of the state; None when there is no state yet.
        inbox: Accepted messages that no turn has taken up, in order of acceptance.
        arrivals: Tool results, cancellations, ... that nobody has taken up.
    """

    state: Conversation
    lease: Lease
    etag: str | None
    inbox: tuple[Message, ...] = ()
    arrivals: tuple[Arrival, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to be done: no turn, nothing that arrived, nothing to be sent."""
        state = self.state
        return state.turn is None and not (self.inbox or self.arrivals or state.outbox)


@record(frozen=True, slots=True)
class Change:
    """One atomic write: the new state and lease, the arrivals that it consumed, the operations that changed.

    Stores forget the due entry of an operation in it that ended and whose reply is not (or no longer) in the outbox: if
    the change gives the lease back, at the latest with the next read of the conversation.

    Attributes:
        told: Operations that were written as ended before, and whose replies are out now. They are not written again:
            a further attempt may have begun meanwhile.
    """

    state: Conversation
    lease: Lease
    messages: tuple[Message, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    operations: tuple[Operation, ...] = ()
    told: tuple[Operation, ...] = ()


@record(frozen=True, slots=True)
class Acceptance:
    """What is to be accepted.

    Attributes:
        fingerprint: Hash of what the message says; the same operation id with another fingerprint is a conflict.
        fresh: The conversation is new with this operation (its id was derived from it), so nothing needs to be read.
        backlog: How many messages may wait in the conversation.
        unique: The operation id was made for this very message, so that no other one can have it.
    """

    key: ConversationKey
    message: Message
    fingerprint: str
    fresh: bool = False
    backlog: int = 100
    unique: bool = False


@record(frozen=True, slots=True)
class HistoryEntry:
    """A message that was accepted once, and what became of it, as far as that is still known."""

    message: Message
    operation: Operation | None


@record(frozen=True, slots=True)
class Due:
    """An entry of the due table: look at this conversation at this time. `row` identifies the entry."""

    key: ConversationKey
    operation_id: str
    at: float
    row: str


class ConversationStore(Protocol):
    """Conversations, their arrivals, and the operations.

    Arrivals only insert; only the holder of the lease writes the state. One suite runs over every implementation:
    `tests/storage/test_conversations.py`.
    """

    async def accept(self, acceptance: Acceptance) -> tuple[Operation, bool]:
        """Stores a message at the end of the conversation's inbox, with its operation and its due entry.

        Returns:
            The operation, and whether it is new. The same operation id again returns what is there, unless it failed
            (or was cancelled) and the message has a higher attempt: that starts, once.

        Raises:
            OperationConflict: The id is known with another fingerprint.
            BacklogFull: Too many messages wait in the conversation.
        """
        ...

    async def known(self, operation_id: str, fingerprint: str) -> Operation | None:
        """The operation, if its acceptance finished.

        Raises:
            OperationConflict: The id is known with another fingerprint.
        """
        ...

    async def add_arrival(self, key: ConversationKey, arrival: Arrival) -> bool:
        """Stores what arrived. False: something with its `request_id` is there already."""
        ...

    async def read(self, key: ConversationKey) -> Snapshot:
        """The conversation and what has arrived for it.

        Raises:
            ConversationUnreadable: The detail names the row.
        """
        ...

    async def commit(self, key: ConversationKey, etag: str | None, change: Change) -> str:
        """Writes the change if nobody wrote since `etag`.

        Returns:
            The new ETag.

        Raises:
            Conflict: Somebody did, or took up an arrival that the change consumes.
        """
        ...

    async def renew(self, key: ConversationKey, etag: str, lease: Lease) -> str:
        """Writes only the lease, under the same condition as `commit`."""
        ...

    async def operation(self, operation_id: str) -> Operation | None: ...

    async def end(self, operation: Operation) -> None:
        """Writes how an operation ended whose conversation cannot be read, and takes its message out of the inbox.

        Raises:
            Conflict: Somebody went on with it meanwhile.
        """
        ...

    async def locate(self, operation_id: str) -> ConversationKey | None:
        """The conversation that an operation belongs to."""
        ...

    async def history(self, key: ConversationKey, after: int, limit: int) -> list[HistoryEntry]:
        """What was accepted behind a place of the conversation, in its order.

        Args:
            after: A `Message.seq`; 0 is the beginning.
        """
        ...

    async def erase(self, key: ConversationKey, etag: str) -> None:
        """Forgets the conversation: its state, its history, what was answered and called.

        Of its operations remains how they ended, so that a repeated message is still known as one. What was accepted
        and not taken up stays. Erasing again what is half erased goes on with it.

        Raises:
            Conflict: Somebody wrote the state since `etag`.
        """
        ...

    async def unfinished(self) -> Mapping[str, int]:
        """How many operations of each agent have not ended, as far as the due entries tell."""
        ...

    async def due(self, before: float, limit: int) -> list[Due]:
        """Entries that are due, oldest first."""
        ...

    async def move_due(self, entry: Due, at: float | None) -> None:
        """Moves an entry to a later time, or removes it (`None`)."""
        ...
