from __future__ import annotations

import dataclasses

from aos.kernel.operations import operation_of
from aos.kernel.types import (
    AgentRef,
    Conversation,
    ConversationKey,
    Failure,
    Message,
    Parent,
    ReplyAddress,
    Routing,
    ToolCall,
    Turn,
    Usage,
)


def test_each_field_of_an_operation_is_where_it_belongs() -> None:
    reply_to, parent, routing = ReplyAddress("queue"), Parent("op_0", "r", "a", "c", ("a",)), Routing("rule", "why")
    message = Message("op_1", "hello", 1.0, 9.0, 3, 4, "event", reply_to, parent=parent, trace="trace", routing=routing)
    past = ToolCall("call_1", "op_1.1.0", "f", "s", "t", "{}", 8.0, 2.0, "succeeded", finished_at=3.0)
    open_call = ToolCall("call_2", "op_1.2.0", "g", "s", "u", "{}", 8.0, 4.0)
    turn = Turn(
        message,
        AgentRef("name", "7", "hash", "deployment", "generation"),
        "tools",
        2,
        calls=(open_call,),
        past_calls=(past,),
        usage=Usage(1, 2, 3),
        model="model",
    )
    state = Conversation(ConversationKey("ceo", "c1"), turn=turn)
    failure = Failure("code", "title", "detail")
    made = operation_of(state, turn, 5.0, "waiting", reply="reply", failure=failure, parked=True)
    assert dataclasses.asdict(made) == {
        "operation_id": "op_1",
        "agent_id": "ceo",
        "conversation_id": "c1",
        "status": "waiting",
        "created_at": 1.0,
        "updated_at": 5.0,
        "attempt": 3,
        "waiting_on": "tool",
        "reply": "reply",
        "error": dataclasses.asdict(failure),
        "tool_calls": (dataclasses.asdict(past), dataclasses.asdict(open_call)),
        "usage": dataclasses.asdict(Usage(1, 2, 3)),
        "model": "model",
        "event_type": "event",
        "agent_version": "7",
        "generation": "generation",
        "reply_to": dataclasses.asdict(reply_to),
        "parked": True,
        "truncated": False,
        "parent": dataclasses.asdict(parent),
        "trace": "trace",
        "routing": dataclasses.asdict(routing),
    }
    assert operation_of(state, turn, 5.0, "completed", truncated=True).truncated
