"""The errors of AOS.

Every error carries a stable `code` (what programs compare), a `title` (one sentence for people), and a `detail` that
names the field, the value and the remedy. Subclasses say how an error is meant: `TransientError` may succeed when tried
again, everything else will not.
"""

from __future__ import annotations


class AosError(Exception):
    """Base of all errors raised on purpose by AOS.

    Args:
        detail: What happened and what to do about it; shown to callers, so it must not contain secrets.
        code: Overrides the class's code where one class covers several cases.
    """

    code = "internal_error"
    title = "The operation failed."

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        # It may quote what another service said, in JSON with half a character, which nothing can store.
        self.detail = detail if detail.isascii() else detail.encode(errors="replace").decode()
        if code is not None:
            self.code = code


class TransientError(AosError):
    """Something that AOS depends on is unavailable for now: the same request may succeed later.

    Args:
        detail: See `AosError`.
        retry_after: Seconds after which to try again, where the other side said so.
    """

    code = "unavailable"
    title = "A service that AOS depends on is unavailable."

    def __init__(self, detail: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after = retry_after


class SettingError(TransientError):
    """A setting is missing or wrong. The detail names the setting and a valid value.

    Transient, because messages wait until the operator has mended it.
    """

    code = "bad_setting"
    title = "A setting is missing or wrong."


class UnknownAgent(AosError):
    code = "unknown_agent"
    title = "No agent has this id."


class AgentDisabled(AosError):
    code = "agent_disabled"
    title = "The agent is disabled in the registry."


class AgentNotReady(TransientError):
    """The agent exists but cannot take a turn yet: its tools or its Foundry agent are not there."""

    code = "agent_starting"
    title = "The agent is not ready yet."


class AgentStopped(AgentNotReady):
    """An operator stopped the agent: what is sent to it over the bus waits until it is started."""

    code = "agent_stopped"
    title = "The agent is stopped."


class UnknownOperation(AosError):
    code = "unknown_operation"
    title = "No operation has this id."


class OperationConflict(AosError):
    """The idempotency key (or MessageId) was used before with another body."""

    code = "idempotency_conflict"
    title = "The idempotency key was used before with a different request."


class OperationFinal(AosError):
    code = "operation_final"
    title = "The operation has ended."


class UnknownApproval(AosError):
    code = "unknown_approval"
    title = "No call waits for this approval."


class ApprovalSettled(AosError):
    code = "approval_settled"
    title = "The approval was decided before."


class UnknownConversation(AosError):
    code = "unknown_conversation"
    title = "The agent has no conversation of this id."


class ConversationBusy(AosError):
    code = "conversation_busy"
    title = "A message of the conversation is in work."


class BacklogFull(TransientError):
    code = "backlog_full"
    title = "Too many messages wait."


class FoundryUnavailable(TransientError):
    """The Foundry Agent Service did not answer, or said that it is overloaded.

    Attributes:
        sent: True when the request may have reached the service, so that its effect is unknown.
    """

    code = "foundry_unavailable"
    title = "The Foundry Agent Service is unavailable."

    def __init__(self, detail: str, *, sent: bool, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)
        self.sent = sent


class CircuitOpen(FoundryUnavailable):
    """The deployment failed so often that it is left alone for a while; nothing was sent."""

    code = "circuit_open"
    title = "The model deployment is unavailable."

    def __init__(self, detail: str, *, retry_after: float) -> None:
        super().__init__(detail, sent=False, retry_after=retry_after)


class FoundryRefused(AosError):
    """The Foundry Agent Service refused the request for good: bad model, content filter, context too long, ..."""

    code = "foundry_refused"
    title = "The Foundry Agent Service refused the request."


class RequestRefused(FoundryRefused):
    """The service refused the request itself, before it asked a model."""


class ConversationGone(FoundryRefused):
    """The Foundry conversation was deleted outside AOS, or is one of the other generation of the API.

    Attributes:
        successor: Id of the conversation that takes its place and holds what was said; None: that is lost.
    """

    code = "conversation_gone"
    title = "The Foundry conversation no longer exists."

    def __init__(self, detail: str, *, successor: str | None = None) -> None:
        super().__init__(detail)
        self.successor = successor


class AgentGone(FoundryRefused):
    """The agent, or its version, was deleted in Foundry outside AOS. It is made again for the next message."""

    code = "agent_not_found"
    title = "Agent not found on Foundry runtime."


class StorageUnavailable(TransientError):
    code = "storage_unavailable"
    title = "The storage account is unavailable."


class BusUnavailable(TransientError):
    code = "bus_unavailable"
    title = "The Service Bus namespace is unavailable."


class UnknownEntity(AosError):
    code = "unknown_entity"
    title = "The Service Bus namespace has no such queue or topic."


class EntityRefuses(UnknownEntity):
    """Nobody can be told anything there in this way either: it wants sessions, and the message has none."""

    code = "entity_refuses"
    title = "The queue or topic does not take this message."


class ConversationUnreadable(TransientError):
    """A row of the conversation is not what AOS writes, so that nothing can go on in it.

    Transient, because another version of AOS may read it, and an operator may mend it; the sweep ends the operations
    that wait for that too long.
    """

    code = "conversation_unreadable"
    title = "The stored conversation cannot be read."


class Conflict(AosError):
    """Somebody else changed the record first (ETag, lease). Raised by stores, handled by their callers."""

    code = "conflict"
    title = "The record was changed by somebody else."
