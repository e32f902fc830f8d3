"""The points at which a turn or a tool call can be interrupted, and a way to have the process die at one of them.

`AOS_FAULT_POINT=name` kills this process (SIGKILL: nothing is cleaned up) when it reaches that point for the first
time, `name:n` for the n-th time. Without it `reached` does nothing.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, get_args

FAULT_POINT = "AOS_FAULT_POINT"

TurnPoint = Literal[
    # A message, or something else that arrived, is stored; nobody drives its conversation yet.
    "accepted",
    "result-stored",
    "cancellation-stored",
    "decision-stored",
    # Around every write of a conversation's state; `lease-taken` is after the first one, which takes the lease.
    "before-save",
    "lease-taken",
    "after-save",
    # Around the write that lets the lease go: nothing can be done now.
    "before-release",
    "after-release",
    # Around the making of a conversation in Foundry; after it, its id is known to this process alone.
    "before-open",
    "after-open",
    # Around a model step; after it, its answer is known to this process and to Foundry.
    "before-model-step",
    "after-model-step",
    # An answer that an earlier process was given was found in Foundry; it is not saved yet.
    "after-adoption",
    # The conversation was summed up and a new one opened in Foundry; neither is saved yet.
    "after-roll-over",
    # Around the sending of saved effects, once for each of its kind; after it, they are out but not confirmed.
    "before-send-tool",
    "after-send-tool",
    "before-send-approval",
    "after-send-approval",
    "before-send-reply",
    "after-send-reply",
    "before-send-park",
    "after-send-park",
    "before-send-delegate",
    "after-send-delegate",
    "before-send-answer",
    "after-send-answer",
    "before-send-withdraw",
    "after-send-withdraw",
    # Around asking for a wake-up of a conversation that was put off.
    "before-wake",
    "after-wake",
]
CallPoint = Literal[
    # The call is in the ledger as ours; its server knows nothing of it.
    "call-claimed",
    # Around the call of the tool: it will run, or it ran and nobody has recorded that.
    "before-call",
    "after-call",
    # The answer is recorded; around its sending.
    "before-answer",
    "after-answer",
]
Point = TurnPoint | CallPoint

TURN_POINTS: tuple[TurnPoint, ...] = get_args(TurnPoint)
CALL_POINTS: tuple[CallPoint, ...] = get_args(CallPoint)
POINTS: tuple[Point, ...] = (*TURN_POINTS, *CALL_POINTS)
BEFORE_SEND: dict[str, Point] = {
    "tool": "before-send-tool",
    "approval": "before-send-approval",
    "reply": "before-send-reply",
    "park": "before-send-park",
    "delegate": "before-send-delegate",
    "answer": "before-send-answer",
    "withdraw": "before-send-withdraw",
}
AFTER_SEND: dict[str, Point] = {
    "tool": "after-send-tool",
    "approval": "after-send-approval",
    "reply": "after-send-reply",
    "park": "after-send-park",
    "delegate": "after-send-delegate",
    "answer": "after-send-answer",
    "withdraw": "after-send-withdraw",
}


class _Fault:
    """A death that is ordered: at which point, and how many times it is still passed."""

    def __init__(self, order: str) -> None:
        self.name, _, number = order.partition(":")
        if self.name not in POINTS or not (number or "1").isdigit() or number == "0":
            raise ValueError(f"{FAULT_POINT}={order!r}: expected `name` or `name:n`, name one of {', '.join(POINTS)}.")
        self.left = int(number or 1)

    def at(self, point: Point) -> None:
        if point == self.name:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


_fault = _Fault(os.environ[FAULT_POINT]) if os.environ.get(FAULT_POINT) else None


def reached(point: Point) -> None:
    """The work is at this point: the process goes on, unless it was ordered to die here."""
    if _fault is not None:
        _fault.at(point)
