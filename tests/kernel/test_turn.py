"""The pure machine: every event in every phase."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from aos.kernel.calls import ABANDONED, TIMED_OUT
from aos.kernel.events import (
    CallModel,
    ConversationLost,
    Effect,
    Event,
    MessageRefused,
    ModelAnswered,
    ModelFailed,
    PlannedCall,
    PutOff,
    Record,
    ResultArrived,
    Settled,
    TimePassed,
    TurnStarted,
)
from aos.kernel.turn import step
from aos.kernel.types import (
    AgentRef,
    Conversation,
    ConversationKey,
    Failure,
    FunctionCall,
    Limits,
    Message,
    ModelReply,
    Operation,
    ReplyAddress,
    SendReply,
    SendTool,
    ToolOutput,
    ToolResult,
    Usage,
)

KEY = ConversationKey("ceo", "main")
AGENT = AgentRef("aos-ceo", "3", "abc", "llama-ceo")
LIMITS = Limits(model_steps=4, tool_calls=5)
DOWN = Failure("foundry_refused", "It refused.", "Content filter.")
REPLY_TO = ReplyAddress("answers", "c-1", "s-1")
STATE = TypeAdapter(Conversation)


def message(number: int = 1, *, reply_to: ReplyAddress | None = None) -> Message:
    return Message(f"op_{number}", f"text {number}", 100.0, 700.0, seq=number, reply_to=reply_to)


def called(*ids: str) -> tuple[FunctionCall, ...]:
    return tuple(FunctionCall(call_id, "lookup", '{"q": 1}') for call_id in ids)


def answer(
    number: int, text: str = "", calls: tuple[FunctionCall, ...] = (), refused: str | None = None
) -> ModelAnswered:
    planned = tuple(PlannedCall(call, "files", "read", 30.0, refused) for call in calls)
    reply = ModelReply(text, calls, Usage(10, 2, 12), "llama", f"item-{number}")
    return ModelAnswered(110.0, number, reply, planned)


def result(number: int, index: int, text: str = "42", *, failed: bool = False) -> ResultArrived:
    return ResultArrived(120.0, ToolResult(f"op_1.{number}.{index}", text, failed))


def run(state: Conversation, *events: Event, limits: Limits = LIMITS) -> tuple[Conversation, tuple[Effect, ...]]:
    """Applies the events, and returns the last effects. Each state on the way survives being stored as JSON."""
    effects: tuple[Effect, ...] = ()
    for event in events:
        state, effects = step(state, event, limits)
        assert STATE.validate_json(STATE.dump_json(state)) == state
    return state, effects


def recorded(effects: tuple[Effect, ...]) -> Operation:
    (operation,) = [effect.operation for effect in effects if isinstance(effect, Record)]
    return operation


START = TurnStarted(105.0, message(), AGENT)
IDLE = Conversation(KEY, remote_id="conv_1")
ASKING, _ = run(IDLE, START)
WAITING, _ = run(ASKING, answer(1, calls=called("c1", "c2")))
HALF, _ = run(WAITING, result(1, 0))
SECOND, _ = run(HALF, result(1, 1))
ENDED, _ = run(SECOND, answer(2, "done"))

PHASES = {"idle": IDLE, "asking": ASKING, "waiting": WAITING, "half": HALF, "second": SECOND, "ended": ENDED}
EVENTS: dict[str, Event] = {
    "start": START,
    "refused": MessageRefused(105.0, message(), DOWN),
    "answer 1": answer(1, "hello"),
    "answer 2": answer(2, "hello"),
    "answer 3": answer(3, "hello"),
    "failure 1": ModelFailed(110.0, 1, DOWN),
    "failure 2": ModelFailed(110.0, 2, DOWN),
    "lost 1": ConversationLost(110.0, 1, "conv_2"),
    "lost 2": ConversationLost(110.0, 2, "conv_2"),
    "result 1.0": result(1, 0),
    "result 1.1": result(1, 1),
    "result of nobody": ResultArrived(120.0, ToolResult("op_9.1.0", "x")),
    "settled": Settled("item-9", ()),
    "little time": TimePassed(106.0),
    "tool deadline": TimePassed(141.0),
    "turn deadline": TimePassed(700.0),
}
FITTING = {
    ("idle", "start"),
    ("idle", "refused"),
    ("asking", "answer 1"),
    ("asking", "failure 1"),
    ("asking", "lost 1"),
    ("asking", "turn deadline"),
    ("waiting", "result 1.0"),
    ("waiting", "result 1.1"),
    ("waiting", "tool deadline"),
    ("waiting", "turn deadline"),
    ("half", "result 1.1"),
    ("half", "tool deadline"),
    ("half", "turn deadline"),
    ("second", "answer 2"),
    ("second", "failure 2"),
    ("second", "lost 2"),
    ("second", "turn deadline"),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("phase", PHASES)
def test_an_event_changes_the_state_only_where_it_fits(phase: str, event: str) -> None:
    state, effects = run(PHASES[phase], EVENTS[event])
    if (phase, event) in FITTING:
        assert state != PHASES[phase]
        assert effects
    else:
        assert state is PHASES[phase] or state == PHASES[phase]
        assert effects == ()


@pytest.mark.parametrize(("phase", "event"), sorted(FITTING - {("asking", "lost 1")}))
def test_an_event_that_came_once_changes_nothing_when_it_comes_again(phase: str, event: str) -> None:
    state, _ = run(PHASES[phase], EVENTS[event])
    assert run(state, EVENTS[event]) == (state, ())


@pytest.mark.parametrize("phase", PHASES)
def test_put_off_sets_the_next_try_in_every_phase(phase: str) -> None:
    before = PHASES[phase]
    state, effects = run(before, PutOff(200.0), PutOff(300.0))
    assert (state.retry_at, state.retries, effects) == (300.0, 2, ())
    assert replace(state, retry_at=before.retry_at, retries=before.retries) == before


def test_a_text_answer_ends_the_turn() -> None:
    state, effects = run(ASKING, PutOff(200.0), answer(1, "hello"))
    operation = recorded(effects)
    assert (operation.status, operation.reply, operation.error) == ("completed", "hello", None)
    assert (operation.usage, operation.model, operation.agent_version) == (Usage(10, 2, 12), "llama", "3")
    assert (operation.created_at, operation.updated_at) == (100.0, 110.0)
    assert (state.turn, state.anchor, state.turns, state.last_seq) == (None, "item-1", 1, 1)
    assert (state.retry_at, state.retries, state.unsettled) == (0.0, 0, False)


def test_starting_asks_the_model_last() -> None:
    _, effects = run(IDLE, START)
    assert recorded(effects).status == "running"
    assert effects[-1] == CallModel(1)


def test_calls_are_requested_and_kept_in_the_outbox() -> None:
    state, effects = run(ASKING, answer(1, "let me see", called("c1", "c2")))
    sends = tuple(SendTool(f"op_1.1.{index}", "files", "read", '{"q": 1}') for index in range(2))
    operation = recorded(effects)
    assert effects[1:] == sends
    assert state.outbox == sends
    assert (operation.status, operation.waiting_on, operation.reply) == ("waiting", "tool", None)
    assert [(call.status, call.output, call.deadline) for call in operation.tool_calls] == [
        ("pending", None, 140.0)
    ] * 2


def test_a_result_leaves_the_outbox_and_shows_in_the_operation() -> None:
    state, effects = run(WAITING, result(1, 1, "no such file", failed=True))
    operation = recorded(effects)
    assert [out.request_id for out in state.outbox if isinstance(out, SendTool)] == ["op_1.1.0"]
    assert (operation.status, [call.status for call in operation.tool_calls]) == ("waiting", ["pending", "failed"])


def test_the_last_result_asks_the_model_again_with_outputs_in_the_order_of_the_calls() -> None:
    state, effects = run(WAITING, result(1, 1, "second"), result(1, 0, "first"))
    assert state.turn is not None
    assert state.turn.outputs == (ToolOutput("c1", "first"), ToolOutput("c2", "second"))
    assert (state.turn.phase, state.turn.step, state.turn.calls, state.outbox) == ("model", 2, (), ())
    assert effects[-1] == CallModel(2)
    assert recorded(effects).status == "running"
    assert [call.output for call in state.turn.past_calls] == [None, None]


def test_only_the_first_of_two_results_counts() -> None:
    state, _ = run(WAITING, result(1, 0, "first"), result(1, 0, "again"), result(1, 1))
    assert state.turn is not None
    assert state.turn.outputs[0] == ToolOutput("c1", "first")


def test_refused_calls_are_answered_without_a_tool() -> None:
    state, effects = run(ASKING, answer(1, calls=called("c1", "c2"), refused="no such tool"))
    assert state.turn is not None
    assert state.turn.outputs == (ToolOutput("c1", "no such tool"), ToolOutput("c2", "no such tool"))
    assert state.outbox == ()
    assert effects[-1] == CallModel(2)
    assert [call.status for call in recorded(effects).tool_calls] == ["refused", "refused"]


def test_a_refused_call_waits_for_the_others() -> None:
    good, bad = called("c1", "c2")
    planned = (PlannedCall(good, "files", "read", 30.0), PlannedCall(bad, refusal="bad arguments"))
    event = replace(answer(1, calls=(good, bad)), planned=planned)
    state, effects = run(ASKING, event)
    assert [out.request_id for out in state.outbox if isinstance(out, SendTool)] == ["op_1.1.0"]
    assert [call.tool for call in recorded(effects).tool_calls] == ["read", "lookup"]
    state, _ = run(state, result(1, 0))
    assert state.turn is not None
    assert state.turn.outputs == (ToolOutput("c1", "42"), ToolOutput("c2", "bad arguments"))


def test_a_tool_that_is_late_is_answered_as_timed_out() -> None:
    state, effects = run(HALF, TimePassed(140.0))
    assert state.turn is not None
    assert state.turn.outputs == (ToolOutput("c1", "42"), ToolOutput("c2", TIMED_OUT))
    assert [call.status for call in recorded(effects).tool_calls] == ["succeeded", "timed_out"]
    assert state.outbox == ()
    assert run(state, result(1, 1)) == (state, ())


def test_a_turn_past_its_deadline_leaves_answers_for_its_calls() -> None:
    state, effects = run(HALF, TimePassed(700.0))
    operation = recorded(effects)
    assert operation.error is not None
    assert (operation.status, operation.error.code) == ("failed", "deadline_exceeded")
    assert "600 s" in operation.error.detail
    assert [call.status for call in operation.tool_calls] == ["succeeded", "timed_out"]
    assert state.orphans == (ToolOutput("c1", "42"), ToolOutput("c2", ABANDONED))
    assert (state.turn, state.outbox, state.unsettled) == (None, (), False)


def test_orphans_are_answered_by_the_next_turn() -> None:
    state, _ = run(HALF, TimePassed(700.0), TurnStarted(701.0, message(2), AGENT))
    assert state.turn is not None
    assert [output.call_id for output in state.turn.outputs] == ["c1", "c2"]
    assert state.orphans == ()
    state, _ = run(state, replace(answer(1, "fine"), at=702.0))
    assert (state.turn, state.orphans) == (None, ())


def test_orphans_survive_a_refused_message() -> None:
    state, effects = run(HALF, TimePassed(700.0), MessageRefused(701.0, message(2), DOWN))
    assert [output.call_id for output in state.orphans] == ["c1", "c2"]
    assert (recorded(effects).error, state.unsettled, state.last_seq) == (DOWN, False, 2)


@pytest.mark.parametrize("event", [ModelFailed(110.0, 2, DOWN), TimePassed(700.0)])
def test_an_unknown_end_of_a_model_step_is_looked_up_before_the_next_turn(event: Event) -> None:
    state, effects = run(SECOND, event)
    assert recorded(effects).status == "failed"
    assert [output.call_id for output in state.orphans] == ["c1", "c2"]
    assert state.unsettled
    state, effects = run(state, Settled("item-7", (ToolOutput("c7", "x"),)))
    assert (state.unsettled, state.anchor, state.orphans, effects) == (False, "item-7", (ToolOutput("c7", "x"),), ())


def test_a_refused_message_does_not_settle_anything() -> None:
    state, _ = run(ASKING, ModelFailed(110.0, 1, DOWN), MessageRefused(111.0, message(2), DOWN))
    assert state.unsettled


def test_a_lost_conversation_starts_over_in_the_first_step() -> None:
    before = replace(IDLE, anchor="item-0", orphans=(ToolOutput("c0", "x"),))
    state, effects = run(before, START, ConversationLost(110.0, 1, "conv_2"))
    assert (state.remote_id, state.anchor, effects) == ("conv_2", None, (CallModel(1),))
    assert state.turn is not None
    assert state.turn.outputs == ()


def test_a_lost_conversation_ends_the_turn_in_a_later_step() -> None:
    state, effects = run(SECOND, ConversationLost(110.0, 2, "conv_2"))
    operation = recorded(effects)
    assert operation.error is not None
    assert (operation.status, operation.error.code) == ("failed", "conversation_gone")
    assert (state.remote_id, state.anchor, state.orphans, state.unsettled) == ("conv_2", None, (), False)


def test_the_sender_of_a_message_is_told_the_end() -> None:
    start = replace(START, message=message(reply_to=REPLY_TO))
    for end in (answer(1, "hello"), ModelFailed(110.0, 1, DOWN), TimePassed(700.0)):
        state, effects = run(IDLE, start, end)
        assert effects == (Record(recorded(effects)), SendReply(recorded(effects)))
        assert state.outbox == (SendReply(recorded(effects)),)


def test_too_many_tool_calls_end_the_turn() -> None:
    ids = tuple(f"c{index}" for index in range(6))
    state, effects = run(ASKING, answer(1, calls=called(*ids)))
    operation = recorded(effects)
    assert operation.error is not None
    assert (operation.error.code, len(state.orphans), state.outbox) == ("limit_exceeded", 6, ())
    assert "tool_calls" in operation.error.detail
    assert not state.unsettled


def test_tool_calls_are_counted_over_all_steps() -> None:
    state, _ = run(SECOND, answer(2, calls=called("c3", "c4", "c5")))
    assert state.turn is not None
    state, effects = run(SECOND, answer(2, calls=called("c3", "c4", "c5", "c6")))
    assert state.turn is None
    assert recorded(effects).status == "failed"


def test_too_many_model_steps_end_the_turn() -> None:
    state = ASKING
    for number in range(1, 4):
        state, _ = run(state, answer(number, calls=called(f"c{number}")), result(number, 0))
    assert run(state, answer(4, "at last"))[0].turn is None
    state, effects = run(state, answer(4, calls=called("c4")))
    operation = recorded(effects)
    assert operation.error is not None
    assert (operation.error.code, [output.call_id for output in state.orphans]) == ("limit_exceeded", ["c4"])
    assert "model_steps" in operation.error.detail


def test_usage_adds_up_over_the_steps() -> None:
    _, effects = run(SECOND, answer(2, "done"))
    assert recorded(effects).usage == Usage(20, 4, 24)


def test_an_older_message_never_starts_a_turn() -> None:
    assert run(ENDED, START) == (ENDED, ())
    assert run(ENDED, MessageRefused(130.0, message(), DOWN)) == (ENDED, ())


def test_a_text_turn_takes_less_than_100_microseconds() -> None:
    best = float("inf")
    end = answer(1, "hello")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(200):
            state, _ = step(IDLE, START, LIMITS)
            step(state, end, LIMITS)
        best = min(best, (time.perf_counter() - begin) / 200)
    assert best < 100e-6
