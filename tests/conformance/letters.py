"""What other applications put on the bus, and what they and the operators get for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from tests.conformance.sides import Side
from tests.e2e.harness import REPLIES

POISON = "aos-poison"


@dataclass(frozen=True)
class Letter:
    """A message for one trigger. `{side}` in its texts is the side; `brings`: the queues that get a message for it."""

    about: str
    route: str
    entity: str
    body: dict[str, object] | bytes
    brings: tuple[str, ...]


def event(about: str, agent_id: str, message: str, *brings: str) -> Letter:
    body: dict[str, object] = {
        "agent_id": agent_id,
        "event_type": "Asked",
        "payload": {"message": message},
        "conversation_id": "l-{side}",
    }
    return Letter(about, "on_agent_event", "agent-events", body, brings)


def request(about: str, message_type: str, payload: dict[str, object], *brings: str) -> Letter:
    header = {
        "message_id": f"{about.replace(' ', '-')}-{{side}}",
        "timestamp": datetime.now(UTC).isoformat(),
        "source": "businessinfinity",
        "message_type": message_type,
    }
    return Letter(about, "on_aos_request", "aos-requests", {"header": header, "payload": payload}, brings)


LETTERS = [
    event("an event", "ceo", "@say over the bus", REPLIES),
    event("an event that fails", "ceo", "@fail content_filter", REPLIES, POISON),
    event("an event for nobody", "nobody", "@say x", REPLIES, POISON),
    Letter("an event that is none", "on_agent_event", "agent-events", b"{not json", (REPLIES, POISON)),
    request("a query", "aos.agent.query", {"agent_id": "ceo", "query": "@say in an envelope"}, REPLIES),
    request("a ping", "aos.system.ping", {"n": 1}, REPLIES),
    request("a request of no kind", "aos.decision.request", {}, REPLIES, POISON),
    Letter("a command of no kind", "on_agent_command", "agent-commands", {"command": "dance"}, (REPLIES, POISON)),
    Letter("a result of no kind", "on_mcp_response", "mcp-responses", {"result": 1}, (REPLIES, POISON)),
]


def written(value: object, side: Side) -> object:
    """A body for this side."""
    if isinstance(value, dict):
        return {name: written(item, side) for name, item in value.items()}
    return value.replace("{side}", side.letter) if isinstance(value, str) else value
