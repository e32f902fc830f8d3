"""What the client of the Foundry Agent Service answers with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class FoundryResponse:
    """The answer to a message.

    `usage` has the service's `input_tokens`, `output_tokens` and `total_tokens`. `tools_used` are tools of the service
    that ran, such as `code_interpreter`. `metadata` tells the `deployment` that answered, the `domain`, and whether the
    domain has a deployment of its own (`domain_deployment`); of a failure, `error_code` and `retry_after` in seconds.
    """

    content: str
    thread_id: str | None = None
    agent_id: str | None = None
    model: str = ""
    tools_used: list[str] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    success: bool = True
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """A thread, as the service knows it.

    `message_count` counts the messages that were sent to it, not the answers; `agent_id` answered last.
    """

    thread_id: str
    agent_id: str | None
    created_at: datetime
    last_accessed: datetime | None
    message_count: int
    metadata: dict[str, str]
