"""What happens to a conversation (events), and what is to be done about it (effects)."""

from __future__ import annotations

from aos.kernel.records import record
from aos.kernel.types import (
    AgentRef,
    Carried,
    Decision,
    Failure,
    FunctionCall,
    Limits,
    Message,
    ModelReply,
    Operation,
    Outgoing,
    ToolOutput,
    ToolResult,
    Usage,
)

# --- events


@record(frozen=True, slots=True)
class TurnStarted:
    """The next accepted message is taken up, to be answered by this version of the agent."""

    at: float
    message: Message
    agent: AgentRef
    limits: Limits | None = None


@record(frozen=True, slots=True)
class MessageRefused:
    """The next accepted message cannot become a turn: its agent is gone or disabled."""

    at: float
    message: Message
    failure: Failure


@record(frozen=True, slots=True)
class MessageCancelled:
    """An accepted message that no turn has taken up is to be left out, whatever the conversation does meanwhile."""

    at: float
    message: Message
    by: str


@record(frozen=True, slots=True)
class TurnCancelled:
    """The turn of this operation is to end now."""

    at: float
    operation_id: str
    by: str


@record(frozen=True, slots=True)
class PlannedCall:
    """A function call of the model, looked up in the agent's tools.

    Attributes:
        approval: Whether a person has to approve the call before it is made.
        refusal: Set when the call must not be made (unknown tool, arguments that violate the schema): what the model is
            told instead.
        time_limit: Seconds after which its result is given up.
        agent: Of a connected agent: its id; the argument `message` is what it is asked.
    """

    call: FunctionCall
    server: str = ""
    tool: str = ""
    time_limit: float = 0.0
    refusal: str | None = None
    approval: bool = False
    agent: str = ""


@record(frozen=True, slots=True)
class ModelAnswered:
    """The model step `step` ended with text or calls."""

    at: float
    step: int
    reply: ModelReply
    planned: tuple[PlannedCall, ...] = ()


@record(frozen=True, slots=True)
class ModelFailed:
    """The model step `step` cannot succeed."""

    at: float
    step: int
    failure: Failure


@record(frozen=True, slots=True)
class Settled:
    """What an unsettled Foundry conversation holds was looked up between two turns.

    Attributes:
        anchor: Id of its last item.
        orphans: The answers that it still waits for.
    """

    anchor: str | None
    orphans: tuple[ToolOutput, ...]


@record(frozen=True, slots=True)
class PutOff:
    """What the conversation needs next (Foundry, the tool catalogue) is unavailable; it is tried again at `until`."""

    until: float


@record(frozen=True, slots=True)
class ConversationLost:
    """The Foundry conversation is gone. `remote_id` is the one that takes its place, empty."""

    at: float
    step: int
    remote_id: str


@record(frozen=True, slots=True)
class RolledOver:
    """The turn goes on in a new Foundry conversation, `remote_id`, whose first input begins with `carried`.

    Attributes:
        what: That is.
        usage: Of the summary.
    """

    at: float
    step: int
    remote_id: str
    carried: str
    what: Carried
    usage: Usage


@record(frozen=True, slots=True)
class ResultArrived:
    """A tool answered."""

    at: float
    result: ToolResult


@record(frozen=True, slots=True)
class ApprovalDecided:
    """A person decided whether a call is to be made."""

    at: float
    decision: Decision


@record(frozen=True, slots=True)
class TimePassed:
    """Time went by: deadlines may have passed."""

    at: float


Event = (
    TurnStarted
    | MessageRefused
    | MessageCancelled
    | TurnCancelled
    | Settled
    | ModelAnswered
    | ModelFailed
    | ConversationLost
    | RolledOver
    | PutOff
    | ResultArrived
    | ApprovalDecided
    | TimePassed
)

# --- effects (beside `Outgoing`)


@record(frozen=True, slots=True)
class CallModel:
    """Ask the model for the current step of the turn."""

    step: int


@record(frozen=True, slots=True)
class Record:
    """Show callers this state of the operation; saved in the same transaction as the conversation's state."""

    operation: Operation


Effect = CallModel | Record | Outgoing
