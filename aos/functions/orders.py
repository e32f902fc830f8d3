"""The message that has some process look for replies of functions, again and again with growing pauses.

Triggers of a function app are fixed when it is published and cannot follow the registry; so output queues are looked
into by whoever receives this command (`collect` on `agent-commands`), as long as one of its calls has no answer.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aos.messaging.bus import Outbound
from aos.messaging.envelopes import AGENT_COMMANDS, AgentCommand

FIRST_PAUSE = 0.5
GROWTH = 1.6
LONGEST_PAUSE = 30.0
LONGEST_WATCH = 2 * 3600.0
"""Seconds after which replies are not looked for any more: longer than any call may take."""

Named = Annotated[str, Field(min_length=1, max_length=256)]


class Collect(BaseModel):
    """Look into the output queue of a function for the replies to these calls.

    Attributes:
        attempt: How often it was looked before.
        began_at: When the calls went out, in seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent_id: Named
    conversation_id: Named
    input_queue: Named
    output_queue: Named
    request_ids: Annotated[list[Named], Field(min_length=1, max_length=256)]
    began_at: float
    attempt: Annotated[int, Field(ge=0)] = 0

    @property
    def pause(self) -> float:
        """Seconds until this look: 0.5 growing to 30."""
        return min(LONGEST_PAUSE, FIRST_PAUSE * GROWTH ** min(self.attempt, 20))


def pulse(order: Collect) -> Outbound:
    """The command on the bus, delivered after the order's pause."""
    command = AgentCommand(command="collect", agent_id=order.agent_id, params=order.model_dump())
    message_id = f"collect.{order.request_ids[0]}.{order.attempt}"
    return Outbound(AGENT_COMMANDS, command.model_dump_json().encode(), message_id, delay=order.pause)
