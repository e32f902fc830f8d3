from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

from aos.messaging.envelopes import (
    AgentCommand,
    AgentEvent,
    CallToolParams,
    EnvelopeInvalid,
    ReadResourceParams,
    ServerCommand,
    ToolError,
    ToolRequest,
    ToolResponse,
    ToolResponseBody,
    parse_body,
)

MODELS: list[type[BaseModel]] = [
    AgentEvent,
    AgentCommand,
    ServerCommand,
    ToolRequest,
    ToolResponse,
    CallToolParams,
    ReadResourceParams,
]
BODIES = (*MODELS, ToolResponseBody, ToolError)
KEYS = st.sampled_from([*sorted({field for model in BODIES for field in model.model_fields}), "extra"])
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(st.sampled_from(MODELS), st.binary(max_size=64) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_body_or_invalid(model: type[BaseModel], data: bytes) -> None:
    try:
        parsed = parse_body(model, data)
    except EnvelopeInvalid as error:
        detail = error.detail
        assert 0 < len(detail) < 10_000, data
    else:
        assert parsed.model_dump_json()


@given(st.text(min_size=1, max_size=256), st.text(max_size=256), VALUES)
def test_an_event_is_read_as_written(agent_id: str, event_type: str, payload: JsonValue) -> None:
    try:
        data = json.dumps({"agent_id": agent_id, "event_type": event_type, "payload": payload}, allow_nan=False)
        event = parse_body(AgentEvent, data.encode())
    except (ValueError, EnvelopeInvalid):  # numbers that are none, halves of characters
        return
    assert (event.agent_id, event.event_type) == (agent_id, event_type)
    assert event.payload == payload


@pytest.mark.parametrize(
    ("model", "body", "pointers"),
    [
        (AgentEvent, b"", ["(body)"]),
        (AgentEvent, b"{not json", ["(body)"]),
        (AgentEvent, b"[1]", ["(body)"]),
        (AgentEvent, b"{}", ["/agent_id"]),
        (AgentEvent, b'{"agent_id": "", "event_type": 7, "conversation_id": "a b"}', ["/agent_id", "/event_type"]),
        (AgentEvent, b'{"agent_id": "a", "conversation_id": "a b"}', ["/conversation_id"]),
        (AgentEvent, b'{"agent_id": "a", "conversation_id": "' + b"a" * 129 + b'"}', ["/conversation_id"]),
        (AgentEvent, b'{"agent_id": "\\ud800"}', ["(body)"]),
        (AgentEvent, b'{"agent_id": "a", "payload": ' + b"[" * 100_000, ["(body)"]),
        (AgentCommand, b'{"command": "dance"}', ["/command"]),
        (AgentCommand, b'{"command": "start", "params": []}', ["/params"]),
        (ServerCommand, b'{"command": "resume"}', ["/command"]),
        (ToolRequest, b'{"request_id": "r", "server_id": "s", "method": "delete"}', ["/method"]),
        (ToolResponse, b'{"request_id": "r"}', ["/response"]),
        (ToolResponse, b'{"request_id": "r", "response": {}}', ["/response: "]),
        (ToolResponse, b'{"request_id": "r", "response": {"result": {}, "tools": []}}', ["/response: "]),
        (ToolResponse, b'{"request_id": "r", "response": {"error": {"code": "sad", "message": ""}}}', ["error/code"]),
        (ToolResponse, b'{"request_id": "r", "response": {"tools": [1]}}', ["/response/tools/0"]),
    ],
)
def test_each_wrong_field_is_named(model: type[BaseModel], body: bytes, pointers: list[str]) -> None:
    with pytest.raises(EnvelopeInvalid) as refused:
        parse_body(model, body)
    for pointer in pointers:
        assert pointer in refused.value.detail


def test_unknown_fields_are_for_others() -> None:
    event = parse_body(AgentEvent, b'{"agent_id": "ceo", "tenant": 7}')
    assert event == AgentEvent(agent_id="ceo")


def test_null_is_absent() -> None:
    response = parse_body(ToolResponse, b'{"request_id": "r", "response": {"result": {"content": []}, "error": null}}')
    assert response.response.result == {"content": []}
