"""The described answers hold all that answers hold: front ends that are made from the description see no more."""

from __future__ import annotations

from aos.answers import OperationAnswer, ToolCallAnswer, UsageAnswer
from aos.conversations import HistoryItem, ToolCallView, UsageView
from aos.kernel.types import Approval, Failure, Operation, Parent, Routing, ToolCall, Usage
from aos.views import operation_view

CALL = ToolCall(
    *("call", "op_1.1.0", "ask_cfo", "", "cfo", "{}", 2.0, 1.0),
    finished_at=2.0,
    agent="cfo",
    approval=Approval("approved", 9.0, decided_at=1.5, by="duty"),
)
OPERATION = Operation(
    *("op_1", "ceo", "c_1", "waiting", 1.0, 2.0),
    waiting_on="agent",
    reply="The beginning",
    error=Failure("f", "F", "f"),
    tool_calls=(CALL,),
    usage=Usage(1, 2, 3, 1),
    model="m",
    agent_version="1",
    generation="g",
    parked=True,
    truncated=True,
    parent=Parent("op_0", "op_0.1.0", "chair", "c_0", ("chair",)),
    routing=Routing("rule", "It fits."),
)


def test_an_operation() -> None:
    view = operation_view(OPERATION)
    assert view.keys() - OperationAnswer.model_fields.keys() == set()
    assert view["tool_calls"][0].keys() - ToolCallAnswer.model_fields.keys() == set()
    assert view["usage"].keys() - UsageAnswer.model_fields.keys() == set()
    assert OperationAnswer.model_validate(view).truncated is True


def test_a_message_of_a_conversation() -> None:
    view = operation_view(OPERATION)
    assert view["tool_calls"][0].keys() - ToolCallView.model_fields.keys() == set()
    assert view["usage"].keys() - UsageView.model_fields.keys() == set()
    item = HistoryItem.model_validate({**view, "accepted_at": "", "message": "Go on."})
    assert (item.truncated, item.tool_calls[0].agent) == (True, "cfo")
