"""The bounds of the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field

from aos.kernel.types import Limits


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """Bounds of the kernel; times in seconds.

    Attributes:
        lease: How long a conversation stays with an owner that died.
        renew: Age at which a held lease is renewed.
        model_timeout: Of one model step; below the lock renewal of the Functions host (`host.json`).
        patience: How long a step tries an unavailable Foundry before it is put off.
        turn: From acceptance to the deadline of a turn.
        backlog: Messages that may wait in one conversation.
        agent_backlog: Operations of one agent that may be unfinished, over all of its conversations; approximate.
        context_tokens: Size at which a conversation is rolled over before its next turn, where the agent sets none.
    """

    lease: float = 30.0
    renew: float = 10.0
    model_timeout: float = 120.0
    patience: float = 5.0
    turn: float = 600.0
    backlog: int = 100
    agent_backlog: int = 10_000
    context_tokens: int = 60_000
    limits: Limits = field(default_factory=Limits)
