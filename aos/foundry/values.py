"""Checks of what the SDKs pass through unchecked; both generations of the API need them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aos.kernel.types import FunctionCall

log = logging.getLogger("aos.foundry")

LOCAL = "local_"
"""Begins the ids of histories of the custom runtime, so that each runtime knows which conversations are its own."""
DRIPPING = 1.0
"""Seconds that a step may take beyond its time-out: the client's own one, which knows more, starts anew with every byte
that arrives."""


def present(value: str) -> str:
    """What the SDK's types promise, but its models do not check."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"an id or version is {value!r}")
    return value


def whole(text: str) -> str:
    """The text with `?` for halves of characters: JSON may hold them, but nothing can store them."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def distinct(calls: Iterable[FunctionCall]) -> tuple[FunctionCall, ...]:
    """The calls without those that repeat the id of an earlier one: an id can be answered once."""
    first: dict[str, FunctionCall] = {}
    for call in calls:
        if first.setdefault(call.call_id, call) is not call:
            log.warning("the model gave two calls the id %s; the second, of %s, is dropped", call.call_id, call.name)
    return tuple(first.values())
