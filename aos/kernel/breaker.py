"""Circuit breakers: who does not answer is left alone for a while, and asked again by one.

A circuit is closed while calls succeed. After `THRESHOLD` failures in a row it opens: calls fail at once with
`CircuitOpen`, which says when to come back. After the pause one call is let through (half open): its success closes the
circuit, its failure opens it for twice as long. Circuits belong to a process: each finds out for itself, with a bounded
number of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from aos.errors import AosError, CircuitOpen, FoundryRefused, FoundryUnavailable, TransientError
from aos.kernel.clock import Clock

CircuitState = Literal["closed", "open", "half_open"]
Meaning = Literal["failure", "answer", "nothing"]
"""What an error says about a service: it fails; it answers, if not as wanted; nothing."""

THRESHOLD = 5
"""Failures in a row that open a circuit."""
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0
"""Seconds that a circuit stays open: the first time, and at most."""
BUSY = "conversation_locked"
"""Code of an answer that says nothing about the service: one of its conversations is busy."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """How a circuit stands.

    Attributes:
        since: When it was opened; None while it is closed.
        retry_after: Seconds until a call is let through.
        reason: The last failure.
    """

    name: str
    state: CircuitState
    failures: int
    since: float | None
    retry_after: float
    reason: str


def foundry_meaning(error: AosError) -> Meaning:
    """What an error says about the Foundry Agent Service."""
    if isinstance(error, FoundryUnavailable):
        return "nothing" if error.code == BUSY else "failure"
    return "answer" if isinstance(error, FoundryRefused) else "nothing"


class Breaker:
    """One circuit.

    Args:
        name: Of what is called; shown to operators.
        meaning: What the error of a call says about what is called.
    """

    def __init__(self, name: str, clock: Clock, meaning: Callable[[AosError], Meaning] = foundry_meaning) -> None:
        self._name = name
        self._clock = clock
        self._meaning = meaning
        self._failures = 0
        self._pause = 0.0
        self._since: float | None = None
        self._until = 0.0
        self._probing = False
        self._reason = ""

    @property
    def circuit(self) -> Circuit:
        left = max(0.0, self._until - self._clock.now())
        state: CircuitState = "closed"
        if self._since is not None:
            state = "open" if left else "half_open"
        return Circuit(self._name, state, self._failures, self._since, left, self._reason)

    @property
    def closed(self) -> bool:
        return self._since is None

    @contextmanager
    def guard(self, *, conclusive: bool = True) -> Iterator[None]:
        """Around a call: counts how it ends.

        Args:
            conclusive: False for a call that shows less than a real one: its success closes the circuit, but one
                failure opens it again.

        Raises:
            CircuitOpen: The call is not made.
        """
        probe = self._enter()
        try:
            yield
        except AosError as error:
            meaning = self._meaning(error)
            if meaning == "failure" and (probe or self.closed):
                self._fail(error)
            elif meaning == "answer":
                self._close(0)
            raise
        else:
            self._close(0 if conclusive else THRESHOLD - 1)
        finally:
            if probe:
                self._probing = False

    def _enter(self) -> bool:
        """Whether the call is the one that tries a half-open circuit."""
        if self._since is None:
            return False
        left = self._until - self._clock.now()
        if left > 0 or self._probing:
            raise CircuitOpen(
                f"{self._name} failed {self._failures} times in a row and is left alone for a while; the last time: "
                f"{self._reason}",
                retry_after=left if left > 0 else FIRST_PAUSE,
            )
        self._probing = True
        return True

    def _fail(self, error: AosError) -> None:
        self._failures += 1
        self._reason = error.detail
        if self._failures >= THRESHOLD:
            now = self._clock.now()
            asked = (error.retry_after if isinstance(error, TransientError) else None) or 0.0
            self._pause = min(max(self._pause * 2, FIRST_PAUSE, asked), LONGEST_PAUSE)
            self._until = now + self._pause
            self._since = self._since if self._since is not None else now

    def _close(self, failures: int) -> None:
        self._failures, self._pause, self._since, self._until = failures, 0.0, None, 0.0


class Breakers:
    """A circuit per deployment."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._circuits: dict[str, Breaker] = {}

    def of(self, deployment: str) -> Breaker:
        breaker = self._circuits.get(deployment)
        if breaker is None:
            breaker = self._circuits[deployment] = Breaker(f"Deployment {deployment}", self._clock)
        return breaker

    def not_closed(self) -> list[Circuit]:
        """The circuits that are open or half open."""
        return [breaker.circuit for breaker in self._circuits.values() if not breaker.closed]
