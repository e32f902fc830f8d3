"""The pure machine under any order of events, beside a model of the Foundry conversation that it talks to."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import TypeAdapter

from aos.kernel.calls import ABANDONED
from aos.kernel.events import (
    ApprovalDecided,
    CallModel,
    ConversationLost,
    Effect,
    Event,
    MessageCancelled,
    MessageRefused,
    ModelAnswered,
    ModelFailed,
    PlannedCall,
    PutOff,
    Record,
    ResultArrived,
    RolledOver,
    Settled,
    TimePassed,
    TurnCancelled,
    TurnStarted,
)
from aos.kernel.turn import ROLLOVERS_KEPT, step
from aos.kernel.types import (
    FINAL,
    AgentRef,
    ApprovalRecord,
    Carried,
    Conversation,
    ConversationKey,
    Decision,
    Failure,
    FunctionCall,
    Limits,
    Message,
    ModelReply,
    ReplyAddress,
    SendReply,
    SendTool,
    ShowApproval,
    ToolOutput,
    ToolResult,
    Usage,
)

AGENT = AgentRef("aos-ceo", "1", "abc", "llama-ceo")
LIMITS = Limits(model_steps=3, tool_calls=6)
NO = Failure("foundry_refused", "It refused.", "")
STATE = TypeAdapter(Conversation)


class Machine(RuleBasedStateMachine):
    """`open` are the calls that Foundry waits for, `told` counts the outputs that reached it."""

    @initialize()
    def begin(self) -> None:
        self.now = 100.0
        self.state = Conversation(ConversationKey("ceo", "main"), remote_id="conv_0")
        self.messages: list[Message] = []
        self.taken: list[str] = []
        self.open: set[str] = set()
        self.made: list[FunctionCall] = []
        self.told: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.finals: Counter[str] = Counter()
        self.unconfirmed: list[str] = []
        self.requests: list[str] = []
        self.shown: dict[str, str] = {}

    # --- what the executor does

    def apply(self, event: Event) -> tuple[Effect, ...]:
        before = self.state
        self.state, effects = step(before, event, LIMITS)
        assert STATE.validate_json(STATE.dump_json(self.state)) == self.state
        for index, effect in enumerate(effects):
            match effect:
                case CallModel():
                    assert index == len(effects) - 1
                    assert self.state.turn is not None
                    assert (self.state.turn.phase, self.state.turn.step) == ("model", effect.step)
                case Record():
                    operation = effect.operation
                    assert operation.operation_id in self.taken
                    assert not self.finals[operation.operation_id]
                    self.finals[operation.operation_id] += operation.status in FINAL
                    if operation.status in FINAL:
                        mine = f"{operation.operation_id}."
                        self.unconfirmed = [sent for sent in self.unconfirmed if not sent.startswith(mine)]
                case ShowApproval():
                    self.show(effect.record)
                case SendTool():
                    assert effect.request_id not in self.requests
                    assert self.shown.get(effect.request_id) in (None, "approved")
                    self.requests.append(effect.request_id)
                    self.unconfirmed.append(effect.request_id)
                case SendReply():
                    assert effect.operation.final
                    self.unconfirmed.append(f"reply {effect.operation.operation_id}")
        if before.turn is not None and self.state.turn is not None:
            assert before.turn.message == self.state.turn.message
        return effects

    def show(self, record: ApprovalRecord) -> None:
        state, before = record.approval.state, self.shown.get(record.approval_id)
        assert (before is None) == (state == "pending")
        assert before in (None, "pending"), "decided twice"
        self.shown[record.approval_id] = state

    def deliver(self, outputs: tuple[ToolOutput, ...]) -> None:
        """Foundry takes outputs; recovery leaves out those that it has already."""
        for output in outputs:
            if output.call_id in self.open:
                self.open.remove(output.call_id)
                self.told[output.call_id] += 1
            else:
                assert self.told[output.call_id] == 1, "an output for a call that Foundry does not know"

    def call(self, count: int) -> tuple[FunctionCall, ...]:
        calls = tuple(FunctionCall(f"c{len(self.made) + index}", "lookup", "{}") for index in range(count))
        self.made.extend(calls)
        self.open |= {call.call_id for call in calls}
        return calls

    @property
    def asking(self) -> bool:
        return self.state.turn is not None and self.state.turn.phase == "model"

    # --- rules

    @precondition(lambda self: not self.state.unsettled)
    @rule(refuse=st.booleans(), reply=st.booleans(), gap=st.integers(1, 5))
    def next_message(self, refuse: bool, reply: bool, gap: int) -> None:
        busy = self.state.turn is not None
        seq = self.state.last_seq + gap
        to = ReplyAddress("answers") if reply else None
        message = Message(f"op{len(self.messages)}", "hello", self.now, self.now + 100, seq=seq, reply_to=to)
        if not busy:
            self.messages.append(message)
            self.taken.append(message.operation_id)
        before = self.state
        effects = self.apply(MessageRefused(self.now, message, NO) if refuse else TurnStarted(self.now, message, AGENT))
        if busy:
            assert (self.state, effects) == (before, ())
        else:
            assert self.state.last_seq == seq
            assert bool(self.finals[message.operation_id]) == refuse

    @rule(reply=st.booleans(), gap=st.integers(1, 5))
    def waiting_message_is_cancelled(self, reply: bool, gap: int) -> None:
        seq = self.state.last_seq + gap
        to = ReplyAddress("answers") if reply else None
        message = Message(f"left{len(self.taken)}", "hello", self.now, self.now + 100, seq=seq, reply_to=to)
        self.taken.append(message.operation_id)
        turn, last_seq = self.state.turn, self.state.last_seq
        self.apply(MessageCancelled(self.now, message, "me"))
        assert (self.state.turn, self.state.last_seq) == (turn, last_seq)
        assert self.finals[message.operation_id] == 1

    @precondition(lambda self: self.state.turn is not None)
    @rule(mine=st.booleans(), arrived=st.booleans(), unheard=st.integers(0, 2))
    def turn_is_cancelled(self, mine: bool, arrived: bool, unheard: int) -> None:
        """While the model is asked, whose step may take place all the same."""
        turn, before = self.state.turn, self.state
        assert turn is not None
        if not mine:
            assert self.apply(TurnCancelled(self.now, "op_x", "me")) == ()
            assert self.state == before
            return
        if turn.phase == "model" and arrived:
            self.deliver(turn.outputs)
            self.call(unheard)
        self.apply(TurnCancelled(self.now, turn.message.operation_id, "me"))
        assert self.state.turn is None
        assert self.finals[turn.message.operation_id] == 1
        assert self.state.unsettled == (turn.phase == "model")
        assert self.apply(TurnCancelled(self.now, turn.message.operation_id, "me")) == ()

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), refuse=st.booleans())
    def old_message(self, data: st.DataObject, refuse: bool) -> None:
        message = data.draw(st.sampled_from(self.messages))
        before = self.state
        event = MessageRefused(self.now, message, NO) if refuse else TurnStarted(self.now, message, AGENT)
        assert self.apply(event) == ()
        assert self.state == before

    @precondition(lambda self: self.asking)
    @rule(count=st.integers(0, 4), refused=st.sets(st.integers(0, 3)), asked=st.sets(st.integers(0, 3)))
    def model_answers(self, count: int, refused: set[int], asked: set[int]) -> None:
        turn = self.state.turn
        assert turn is not None
        self.deliver(turn.outputs)
        assert not self.open, "Foundry refuses a turn while calls are unanswered"
        calls = self.call(count)
        planned = tuple(
            PlannedCall(call, "files", "read", 20.0, "no" if index in refused else None, approval=index in asked)
            for index, call in enumerate(calls)
        )
        reply = ModelReply("" if calls else "done", calls, Usage(1, 1, 2), "llama", f"item{len(self.made)}")
        effects = self.apply(ModelAnswered(self.now, turn.step, reply, planned))
        assert self.apply(ModelAnswered(self.now, turn.step, reply, planned)) == ()
        assert effects
        if not calls:
            assert self.finals[turn.message.operation_id] == 1

    @precondition(lambda self: self.asking)
    @rule(arrived=st.booleans(), unheard=st.integers(0, 2))
    def model_fails(self, arrived: bool, unheard: int) -> None:
        """The step may have taken place in Foundry all the same, and made calls that we do not hear of."""
        turn = self.state.turn
        assert turn is not None
        if arrived:
            self.deliver(turn.outputs)
            self.call(unheard)
        self.apply(ModelFailed(self.now, turn.step, NO))
        assert self.state.turn is None
        assert self.state.unsettled

    @precondition(lambda self: self.state.unsettled)
    @rule()
    def look_up(self) -> None:
        known = {output.call_id: output for output in self.state.orphans}
        owed = tuple(known.get(call_id, ToolOutput(call_id, ABANDONED)) for call_id in sorted(self.open))
        self.apply(Settled("looked-up", owed))
        assert not self.state.unsettled

    @precondition(lambda self: self.asking)
    @rule()
    def conversation_lost(self) -> None:
        turn = self.state.turn
        assert turn is not None
        self.lost |= self.open
        self.open = set()
        self.apply(ConversationLost(self.now, turn.step, f"conv_{len(self.made)}_{self.now}"))
        assert (self.state.turn is not None) == (turn.step == 1)

    @precondition(lambda self: self.asking)
    @rule(carried=st.sampled_from(["", "what was said"]))
    def rolled_over(self, carried: str) -> None:
        """A new Foundry conversation waits for no answers; the turn goes on in it."""
        before = self.state
        turn = before.turn
        assert turn is not None
        self.lost |= self.open
        self.open = set()
        what: Carried = "summary" if carried else "nothing"
        effects = self.apply(
            RolledOver(self.now, turn.step, f"conv_r{len(self.made)}_{self.now}", carried, what, Usage(1, 1, 2))
        )
        assert effects == (CallModel(turn.step),)
        assert self.state.turn == replace(turn, outputs=(), usage=turn.usage + Usage(1, 1, 2), rolled_over=True)
        assert (self.state.carried, self.state.rolled_over) == (carried, before.rolled_over + 1)
        assert len(self.state.rollovers) == min(self.state.rolled_over, ROLLOVERS_KEPT)

    @rule(number=st.integers(1, 4))
    def late_model_event(self, number: int) -> None:
        if self.asking and self.state.turn is not None and self.state.turn.step == number:
            return
        before = self.state
        reply = ModelReply("late", (), Usage(), "llama", "late")
        assert self.apply(ModelAnswered(self.now, number, reply)) == ()
        assert self.apply(ModelFailed(self.now, number, NO)) == ()
        assert self.apply(ConversationLost(self.now, number, "late")) == ()
        assert self.apply(RolledOver(self.now, number, "late", "", "nothing", Usage())) == ()
        assert self.state == before

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), failed=st.booleans())
    def result(self, data: st.DataObject, failed: bool) -> None:
        request_id = data.draw(st.sampled_from(self.requests))
        turn = self.state.turn
        waits = turn is not None and any(call.request_id == request_id and call.output is None for call in turn.calls)
        effects = self.apply(ResultArrived(self.now, ToolResult(request_id, "42", failed)))
        assert bool(effects) == waits
        if waits:
            self.unconfirmed = [sent for sent in self.unconfirmed if sent != request_id]

    @precondition(lambda self: self.shown)
    @rule(data=st.data(), approve=st.booleans())
    def decision(self, data: st.DataObject, approve: bool) -> None:
        approval_id = data.draw(st.sampled_from(sorted(self.shown)))
        open_before, before = self.shown[approval_id] == "pending", self.state
        self.apply(ApprovalDecided(self.now, Decision(approval_id, approve, "ada")))
        if open_before:
            assert self.shown[approval_id] == ("approved" if approve else "rejected")
            assert (approval_id in self.requests) == approve
        else:
            assert self.state == before

    @rule(seconds=st.sampled_from([1.0, 15.0, 60.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        turn = self.state.turn
        late = {call.request_id for call in turn.calls if self.now >= call.deadline} if turn else set()
        self.unconfirmed = [sent for sent in self.unconfirmed if sent not in late]
        if turn is not None and turn.phase == "model" and self.now >= turn.deadline:
            self.deliver(turn.outputs[:1])
        self.apply(TimePassed(self.now))
        if turn is not None and self.now >= turn.deadline:
            assert self.state.turn is None

    @rule()
    def put_off(self) -> None:
        before = self.state
        assert self.apply(PutOff(self.now + 5)) == ()
        assert self.state == replace(before, retry_at=self.now + 5, retries=before.retries + 1)

    @rule()
    def outbox_sent(self) -> None:
        self.state = replace(self.state, outbox=())
        self.unconfirmed = []

    # --- what always holds

    @invariant()
    def the_outbox_is_what_was_not_confirmed(self) -> None:
        kept = [
            out.request_id if out.kind == "tool" else f"reply {out.operation.operation_id}"
            for out in self.state.outbox
            if out.kind in ("tool", "reply", "park")
        ]
        assert kept == self.unconfirmed

    @invariant()
    def what_waits_for_a_person_is_shown_and_stops_the_deadline(self) -> None:
        turn = self.state.turn
        parked = {call.request_id for call in turn.calls if call.parked} if turn is not None else set()
        assert parked == {approval_id for approval_id, state in self.shown.items() if state == "pending"}
        assert not parked & set(self.requests)
        assert turn is None or (turn.deadline == math.inf) == bool(parked)

    @invariant()
    def every_message_ended_once_or_is_the_turn(self) -> None:
        turn = self.state.turn
        for operation_id in self.taken:
            running = turn is not None and turn.message.operation_id == operation_id
            assert self.finals[operation_id] == (0 if running else 1)
        assert self.state.turns == sum(self.finals.values())

    @invariant()
    def every_open_call_has_its_answer_coming(self) -> None:
        """Foundry gets one output per call: it had it, or it is due, or the conversation went with it."""
        turn, state = self.state.turn, self.state
        coming = {output.call_id for output in state.orphans}
        if turn is not None:
            coming |= {output.call_id for output in turn.outputs} | {call.call_id for call in turn.calls}
        if not state.unsettled:
            assert self.open <= coming
        assert all(count == 1 for count in self.told.values())
        assert {call.call_id for call in self.made} == self.open | set(self.told) | self.lost


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
