"""Pages of a listing: what callers get instead of lists without bounds."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aos.errors import AosError

T = TypeVar("T")

LARGEST_PAGE = 1000
"""What the services return at most in one piece."""


class BadContinuation(AosError):
    code = "bad_continuation"
    title = "The continuation is not one that a listing gave."


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of the items, and `next`, with which the same call gets those after them; None: these were the last."""

    items: Sequence[T]
    next: str | None = None


def page_size(limit: int) -> int:
    """A caller's limit within what the services take.

    Raises:
        ValueError: It is not 1 to 1,000.
    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise ValueError(f"limit is {limit}: give 1 to {LARGEST_PAGE}, and `next` for the items after those")
    return limit


def pack(token: Any) -> str | None:
    """A service's continuation token as text; None if the listing is at its end."""
    return None if not token else base64.urlsafe_b64encode(json.dumps(token).encode()).decode()


def unpack(continuation: str | None) -> Any:
    """The service's token in a text of `pack`.

    Raises:
        BadContinuation: It is something else.
    """
    if continuation is None:
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(continuation))
    except (binascii.Error, ValueError, RecursionError):
        raise BadContinuation("`next` is not what the page before gave; start again without it.") from None
