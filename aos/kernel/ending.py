"""How a turn ends: its operation becomes final, its sender is told, and nothing stays open that spoils the next one."""

from __future__ import annotations

from aos.kernel.calls import closed, outputs_of, show
from aos.kernel.delegation import withdraw
from aos.kernel.events import Effect, Record
from aos.kernel.operations import operation_of
from aos.kernel.records import replace
from aos.kernel.types import (
    Answer,
    CallStatus,
    Conversation,
    Failure,
    Operation,
    Outgoing,
    Park,
    SendReply,
    Status,
    Turn,
)


def end(
    state: Conversation,
    turn: Turn,
    at: float,
    status: Status,
    *,
    reply: str | None = None,
    failure: Failure | None = None,
    truncated: bool = False,
) -> tuple[Conversation, tuple[Effect, ...]]:
    # Foundry refuses every later turn while a call is unanswered, so a turn that ends early leaves its answers behind.
    # Whether a model step without an answer took its input, and made calls of its own, has to be looked up (`Settled`).
    unsettled = state.unsettled or (status != "completed" and state.turn is not None and turn.phase == "model")
    orphans = turn.outputs if turn.phase == "model" else outputs_of(turn.calls)
    turn, withdrawn = _given_up(state, turn, at, "abandoned" if status == "cancelled" else "timed_out")
    origin = turn.message.origin if status == "failed" else None
    parked = origin is not None
    operation = operation_of(state, turn, at, status, reply=reply, failure=failure, parked=parked, truncated=truncated)
    kept = tuple(out for out in state.outbox if out.kind not in ("tool", "delegate")) if state.outbox else ()
    outbox = kept + withdrawn
    ended = replace(state, turn=None, outbox=outbox, orphans=orphans, unsettled=unsettled, turns=state.turns + 1)
    ended, effects = tell(ended, operation)
    if origin is not None:
        park = Park(operation, origin)
        ended, effects = replace(ended, outbox=(*ended.outbox, park)), (*effects, park)
    return ended, (Record(operation), *withdrawn, *effects)


def _given_up(state: Conversation, turn: Turn, at: float, open_as: CallStatus) -> tuple[Turn, tuple[Outgoing, ...]]:
    """The turn with none of its calls open any more, and whom that has to be told."""
    if not turn.calls:
        return turn, ()
    calls = tuple(
        call
        if call.output is not None
        else replace(
            call,
            status=open_as,
            finished_at=at,
            approval=closed(call.approval, "withdrawn", at) if call.parked else call.approval,
        )
        for call in turn.calls
    )
    withdrawn: tuple[Outgoing, ...] = withdraw(turn, turn.calls, at)
    if turn.parked_at is not None:
        withdrawn += tuple(
            show(state, turn, after) for before, after in zip(turn.calls, calls, strict=True) if before.parked
        )
    return replace(turn, calls=calls), withdrawn


def tell(state: Conversation, operation: Operation) -> tuple[Conversation, tuple[Effect, ...]]:
    """Tells the sender of a bus message, or the turn that asked, how its operation ended."""
    effects: tuple[Outgoing, ...] = ()
    if operation.reply_to is not None:
        effects += (SendReply(operation),)
    if operation.parent is not None:
        effects += (Answer(operation),)
    return (replace(state, outbox=state.outbox + effects), effects) if effects else (state, ())
