"""A circuit breaker: what keeps failing is left alone for a while, then tried once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from aos.errors import AosError, FoundryUnavailable, TransientError
from aos.kernel.clock import Clock
from aos.orchestration.model_types import ModelUnavailable

UNUSABLE = frozenset({"foundry_unauthorized", "model_unauthorized", "deployment_not_found"})
"""Refusals that concern the model's service rather than the request."""


class CircuitOpen(TransientError):
    code = "circuit_open"
    title = "The model failed repeatedly and is left alone for a while."


def at_fault(error: BaseException) -> bool:
    """Whether an error says that the model cannot answer at present, rather than that it will not answer this."""
    if isinstance(error, FoundryUnavailable | ModelUnavailable | CircuitOpen):
        return True
    return isinstance(error, AosError) and error.code in UNUSABLE


class CircuitBreaker:
    """Closed while all is well; open after `threshold` failures in a row; half open, for one try, after `pause`.

    Args:
        name: Of what it protects.
        pause: Seconds.
    """

    def __init__(self, name: str, clock: Clock, *, threshold: int = 3, pause: float = 30.0) -> None:
        self._name = name
        self._clock = clock
        self._threshold = threshold
        self._pause = pause
        self._failures = 0
        self._opened_at = 0.0
        self._trying = False

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        if self._failures < self._threshold:
            return "closed"
        return "open" if self._clock.now() < self._opened_at + self._pause else "half_open"

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Runs a call and learns from how it ends.

        Raises:
            CircuitOpen: The call was not made; `retry_after` says when one will be.
        """
        state = self.state
        if state == "open" or (state == "half_open" and self._trying):
            wait = max(0.0, self._opened_at + self._pause - self._clock.now())
            raise CircuitOpen(f"{self._name} failed {self._failures} times in a row.", retry_after=wait)
        self._trying = trying = state == "half_open"
        try:
            yield
        except Exception as error:
            if at_fault(error):
                self._failures += 1
                self._opened_at = self._clock.now()
            else:
                self._failures = 0
            raise
        else:
            self._failures = 0
        finally:
            if trying:
                self._trying = False
