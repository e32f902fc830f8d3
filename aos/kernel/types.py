"""The records of the kernel: what a conversation, a turn and an operation are.

Plain immutable data without I/O, so that the state machine stays pure and the stores can keep it as they like.
Times are seconds since the epoch (UTC) as floats.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from aos.kernel.records import record

Status = Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]
"""Of an operation; the last three are final."""

WaitingOn = Literal["tool", "approval", "agent"]
CallStatus = Literal["pending", "succeeded", "failed", "refused", "rejected", "timed_out", "abandoned"]
Phase = Literal["model", "tools"]
ApprovalState = Literal["pending", "approved", "rejected", "expired", "withdrawn"]
Carried = Literal["summary", "recent", "nothing"]
"""What a new Foundry conversation was given of the one before: a summary of it, or what was said last."""

FINAL: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})


class ConversationKey(NamedTuple):
    """A conversation of one agent. `conversation_id` is ours and stays when the Foundry conversation is rolled over."""

    agent_id: str
    conversation_id: str


@record(frozen=True, slots=True)
class Usage:
    """Tokens of one or several model steps. `adopted` counts steps taken over from Foundry after a crash."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    adopted: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
            self.adopted + other.adopted,
        )


NO_USAGE = Usage()


@record(frozen=True, slots=True)
class AgentRef:
    """One immutable version of an agent in Foundry, and the hash of the definition that it was made from.

    `generation`: of the registry that the definition was read from.
    """

    name: str
    version: str
    definition_hash: str
    deployment: str
    generation: str = ""


@record(frozen=True, slots=True)
class ReplyAddress:
    """Where the sender of a bus message wants the answer: its ReplyTo, CorrelationId and ReplyToSessionId.

    `requester`: the application that asked over `aos-requests`, and is answered in an envelope of its own.
    `workflow`: the workflow whose step it is, which is told that it ended, by a command to AOS itself.
    """

    entity: str
    correlation_id: str | None = None
    session_id: str | None = None
    requester: str = ""
    workflow: str = ""


@record(frozen=True, slots=True)
class Routing:
    """Why a message that named no agent went to the one that it did.

    Attributes:
        by: A `rule` of the registry, the `model`, the `conversation` that it goes on with; the `only` agent, or the
            `default` one.
    """

    by: Literal["rule", "model", "conversation", "only", "default"]
    reason: str


@record(frozen=True, slots=True)
class Origin:
    """The bus message that an operation began with, for parking it when its turn fails.

    Attributes:
        body: As it was sent, which may be a reference to a blob.
    """

    entity: str
    message_id: str
    body: str
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    session_id: str | None = None


@record(frozen=True, slots=True)
class Parent:
    """The call of another agent's turn that a message comes from.

    Attributes:
        operation_id, agent_id, conversation_id: Of that turn.
        request_id: Of the call.
        agents: Who asked whom, from the first agent to the one that made the call.
    """

    operation_id: str
    request_id: str
    agent_id: str
    conversation_id: str
    agents: tuple[str, ...]

    @property
    def depth(self) -> int:
        """1 for the turns that the first agent asked for."""
        return len(self.agents)


@record(frozen=True, slots=True)
class Failure:
    """Why a turn ended without an answer; the shape that callers see as `error`."""

    code: str
    title: str
    detail: str


@record(frozen=True, slots=True)
class ToolOutput:
    """What the model is told about one call."""

    call_id: str
    output: str


@record(frozen=True, slots=True)
class Approval:
    """What a person says of a call before it is made.

    Attributes:
        expires_at: When the call is rejected if nobody has decided.
        by: The name of who decided.
    """

    state: ApprovalState
    expires_at: float
    decided_at: float | None = None
    by: str = ""
    reason: str = ""


@record(frozen=True, slots=True)
class ToolCall:
    """One call of a tool within a turn.

    Attributes:
        call_id: The model's id, by which its answer is matched in Foundry.
        request_id: Ours, `{operation_id}.{step}.{index}`: survives retries, is the key of the tool ledger.
        arguments: JSON object as text, as the model wrote it.
        deadline: When to give up waiting for the result.
        output: What the model is told; set exactly once.
        time_limit: Seconds from when the call is made to its deadline.
        approval: Set when a person has to approve the call; its `request_id` is the approval's id.
        agent: Of a connected agent: its id. The call is a turn of that agent.
    """

    call_id: str
    request_id: str
    function: str
    server: str
    tool: str
    arguments: str
    deadline: float
    requested_at: float
    status: CallStatus = "pending"
    output: str | None = None
    finished_at: float | None = None
    time_limit: float = 0.0
    approval: Approval | None = None
    agent: str = ""

    @property
    def parked(self) -> bool:
        """Whether it waits for a person."""
        return self.output is None and self.approval is not None and self.approval.state == "pending"


@record(frozen=True, slots=True)
class Message:
    """An accepted message: the input of one turn.

    Attributes:
        seq: Its place in the conversation, given at acceptance.
        attempt: 1, or higher when an operator replayed a parked message.
        parent: Set when another agent's turn asks.
        trace: Where it stands in a trace, as `aos.kernel.observing.Observer.place` said when it was accepted.
    """

    operation_id: str
    text: str
    accepted_at: float
    deadline: float
    attempt: int = 1
    seq: int = 0
    event_type: str = ""
    reply_to: ReplyAddress | None = None
    origin: Origin | None = None
    parent: Parent | None = None
    trace: str = ""
    routing: Routing | None = None


@record(frozen=True, slots=True)
class ToolResult:
    """The answer of a tool, as it arrives from the MCP side."""

    request_id: str
    output: str
    failed: bool = False
    kind: Literal["result"] = "result"


@record(frozen=True, slots=True)
class Cancellation:
    """Somebody asked that an operation be ended."""

    operation_id: str
    by: str
    kind: Literal["cancellation"] = "cancellation"

    @property
    def request_id(self) -> str:
        return f"{self.operation_id}.cancel"


@record(frozen=True, slots=True)
class Decision:
    """Somebody decided whether a call is to be made. The first one for an `approval_id` counts."""

    approval_id: str
    approve: bool
    by: str
    reason: str = ""
    kind: Literal["decision"] = "decision"

    @property
    def request_id(self) -> str:
        return f"{self.approval_id}.decision"


Arrival = ToolResult | Cancellation | Decision
"""What arrives for a conversation beside messages: stored once per `request_id` by whoever receives it, taken up by the
holder of the lease."""


@record(frozen=True, slots=True)
class Limits:
    """Bounds of one turn. Passing one ends the turn as `failed` with `limit_exceeded`; the detail says which.

    Attributes:
        total_tokens: After which the model is not asked again; an answer that it has given counts all the same.
        context_tokens: Size at which a conversation is rolled over before its next turn; None: that of the kernel.
        delegation_depth: How many agents may stand in a row behind the first one, each asked by the one before.
    """

    model_steps: int = 16
    tool_calls: int = 64
    total_tokens: int = 200_000
    context_tokens: int | None = None
    delegation_depth: int = 3


@record(frozen=True, slots=True)
class Turn:
    """A message on its way through the model and the tools.

    Attributes:
        phase: `model`: the model is about to be asked, or was and may have answered; `tools`: calls are out.
        step: Number of the current model step, from 1.
        outputs: Tool outputs that the next model step is given; empty in the first step, which is given the text.
        calls: Calls of the current step, answered or not.
        past_calls: Calls of earlier steps, for the record.
        limits: The agent's own, as they were when the turn began; None: those of the kernel.
        parked_at: Since when it waits for a person; its deadline does not come nearer meanwhile.
        parked_for: Seconds that it has waited for people before.
        rolled_over: The conversation was rolled over for it; that happens once in a turn.
    """

    message: Message
    agent: AgentRef
    phase: Phase = "model"
    step: int = 1
    outputs: tuple[ToolOutput, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    past_calls: tuple[ToolCall, ...] = ()
    usage: Usage = NO_USAGE
    model: str = ""
    limits: Limits | None = None
    parked_at: float | None = None
    parked_for: float = 0.0
    rolled_over: bool = False

    @property
    def deadline(self) -> float:
        """When the turn is given up; never while it waits for a person."""
        return math.inf if self.parked_at is not None else self.message.deadline + self.parked_for


@record(frozen=True, slots=True)
class Operation:
    """What became of an accepted message; what `GET operations/{id}` shows.

    Attributes:
        parked: Its message lies where an operator can replay it.
        truncated: The reply was cut at the model's limit of output tokens: it is no whole answer.
        trace: That of its message.
    """

    operation_id: str
    agent_id: str
    conversation_id: str
    status: Status
    created_at: float
    updated_at: float
    attempt: int = 1
    waiting_on: WaitingOn | None = None
    reply: str | None = None
    error: Failure | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = NO_USAGE
    model: str = ""
    event_type: str = ""
    agent_version: str = ""
    generation: str = ""
    reply_to: ReplyAddress | None = None
    parked: bool = False
    truncated: bool = False
    parent: Parent | None = None
    trace: str = ""
    routing: Routing | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL


@record(frozen=True, slots=True)
class SendTool:
    """Effect: ask the MCP side to run a tool. Harmless twice: the ledger answers a known `request_id`."""

    request_id: str
    server: str
    tool: str
    arguments: str
    kind: Literal["tool"] = "tool"


@record(frozen=True, slots=True)
class SendReply:
    """Effect: tell the sender of a bus message how its operation ended."""

    operation: Operation
    kind: Literal["reply"] = "reply"


@record(frozen=True, slots=True)
class Park:
    """Effect: put the message of a failed turn where an operator can replay it."""

    operation: Operation
    origin: Origin
    kind: Literal["park"] = "park"


@record(frozen=True, slots=True)
class ApprovalRecord:
    """A call that waits, or waited, for a person, as approvers see it. `arguments` are those that will be sent."""

    approval_id: str
    operation_id: str
    agent_id: str
    conversation_id: str
    server: str
    tool: str
    arguments: str
    requested_at: float
    approval: Approval


@record(frozen=True, slots=True)
class ShowApproval:
    """Effect: show approvers a call that waits for them, or what became of it."""

    record: ApprovalRecord
    kind: Literal["approval"] = "approval"


@record(frozen=True, slots=True)
class Delegate:
    """Effect: ask a connected agent. Harmless twice: the ids of its turn are derived from `request_id`."""

    request_id: str
    agent: str
    text: str
    parent: Parent
    at: float
    deadline: float
    kind: Literal["delegate"] = "delegate"


@record(frozen=True, slots=True)
class Answer:
    """Effect: tell the turn that asked how the operation ended."""

    operation: Operation
    kind: Literal["answer"] = "answer"


@record(frozen=True, slots=True)
class Withdraw:
    """Effect: `operation_id` does not need the answer to this call of a connected agent any more."""

    request_id: str
    agent: str
    operation_id: str
    at: float
    kind: Literal["withdraw"] = "withdraw"


Outgoing = SendTool | SendReply | Park | ShowApproval | Delegate | Answer | Withdraw
"""Effects that leave the process. They are saved with the state and sent after it: the record is its own outbox."""


@record(frozen=True, slots=True)
class Rollover:
    """Where a conversation went on in another Foundry conversation.

    Attributes:
        remote_id: The one that was left; it stays in Foundry as it is.
        turns: How many turns had ended by then.
        carried: What the next one was given of it.
    """

    at: float
    remote_id: str
    turns: int
    carried: Carried


@record(frozen=True, slots=True)
class Conversation:
    """The state of a conversation: what one lease holder at a time steps.

    Attributes:
        remote_id: The Foundry conversation behind it, once there is one.
        anchor: Id of the last item known in the Foundry conversation; what came after it is news.
        turn: The message in work, if any.
        outbox: Saved effects that were not confirmed yet.
        orphans: Calls of ended turns that Foundry still waits for; answered before the next turn.
        unsettled: A turn ended while the outcome of its model step was unknown: the Foundry conversation may hold more
            than we know, even calls that wait for an answer. Looked up before the next turn.
        last_seq: Place of the last message that was taken from the inbox.
        turns: Number of turns that ended.
        retry_at: Something that the conversation needs is unavailable: not to be tried again before this time.
        retries: How often it was put off in a row.
        context_tokens: Size of the Foundry conversation by the usage of the last model step; 0 while that is unknown.
        carried: Of the Foundry conversation before, for the first input of this one; empty once that was answered.
        rolled_over: How often it was rolled over.
        rollovers: The last of them.
        left: Foundry conversations that were left by the ones before: they are to be found when it is forgotten.
    """

    key: ConversationKey
    remote_id: str | None = None
    anchor: str | None = None
    turn: Turn | None = None
    outbox: tuple[Outgoing, ...] = ()
    orphans: tuple[ToolOutput, ...] = ()
    unsettled: bool = False
    last_seq: int = 0
    turns: int = 0
    retry_at: float = 0.0
    retries: int = 0
    context_tokens: int = 0
    carried: str = ""
    rolled_over: int = 0
    rollovers: tuple[Rollover, ...] = ()
    left: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class FunctionCall:
    """A call as the model asked for it, before anybody looked at it."""

    call_id: str
    name: str
    arguments: str


@record(frozen=True, slots=True)
class ModelReply:
    """One model step: text, or function calls, or both.

    Attributes:
        anchor: Id of the last item of the step in the Foundry conversation.
        model: What answered, as the service names it.
        truncated: The text was cut at the model's limit of output tokens.
    """

    text: str
    calls: tuple[FunctionCall, ...]
    usage: Usage
    model: str
    anchor: str | None
    truncated: bool = False
