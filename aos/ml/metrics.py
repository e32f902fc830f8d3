"""What a client counts of its own requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Metrics:
    """Counters since the client was built."""

    succeeded: int = 0
    failed: int = 0
    retries: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def record(self, seconds: float, *, succeeded: bool, tokens: int) -> None:
        """Counts a request that ended."""
        if succeeded:
            self.succeeded += 1
        else:
            self.failed += 1
        self.tokens += tokens
        self.seconds += seconds

    def retried(self) -> None:
        """Counts a further attempt."""
        self.retries += 1

    def as_dict(self) -> dict[str, Any]:
        """Totals, and the mean time of a request in seconds (0 before the first)."""
        total = self.succeeded + self.failed
        return {
            "total_requests": total,
            "successful_requests": self.succeeded,
            "failed_requests": self.failed,
            "retries": self.retries,
            "total_tokens_used": self.tokens,
            "average_latency": self.seconds / total if total else 0.0,
        }
