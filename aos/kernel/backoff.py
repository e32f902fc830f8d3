"""How long to wait before trying again."""

from __future__ import annotations

import random


def back_off(attempt: int, retry_after: float | None, *, first: float = 1.0) -> float:
    """Seconds to wait: doubling from `first` to 5 minutes with jitter, and not less than the service asked for."""
    delay = min(first * 2.0 ** min(attempt, 16), 300.0)
    return max(delay * random.uniform(0.8, 1.2), retry_after or 0.0)  # noqa: S311 - jitter, not a secret
