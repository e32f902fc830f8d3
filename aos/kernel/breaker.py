"""Circuit breakers: who does not answer is left alone for a while, and asked again by one.

A circuit is closed while calls succeed. After `THRESHOLD` failures in a row it opens: calls fail at once with
`CircuitOpen`, which says when to come back. After the pause one call is let through (half open): its success closes the
circuit, its failure opens it for twice as long. Each process finds out for itself, with a bounded number of calls, or
is told by another one that did (`aos.kernel.trips`).
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True, slots=True)
class Trip:
    """That a circuit was opened, or closed again, as one process tells it to the others.

    Attributes:
        since: When it was opened; None: it was closed.
        until: Until when no call is made.
        pause: Seconds that it stays open this time.
        at: When that was.
    """

    name: str
    at: float
    since: float | None = None
    until: float = 0.0
    pause: float = 0.0
    failures: int = 0
    reason: str = ""


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
        told: Called when a call of this process opened the circuit, or closed one that was open.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        meaning: Callable[[AosError], Meaning] = foundry_meaning,
        told: Callable[[Trip], None] | None = None,
    ) -> None:
        self._name = name
        self._clock = clock
        self._meaning = meaning
        self._failures = 0
        self._pause = 0.0
        self._since: float | None = None
        self._until = 0.0
        self._probing = False
        self._reason = ""
        self._told = told
        self._changed_at = 0.0

    def hear(self, trip: Trip) -> None:
        """What another process found out counts here, too, unless this one knows better by now."""
        if trip.at <= self._changed_at:
            return
        if trip.since is not None and trip.until + LONGEST_PAUSE < self._clock.now():
            # Long ago, and nobody has tried since.
            return
        self._changed_at = trip.at
        self._since, self._until, self._pause = trip.since, trip.until, trip.pause
        self._failures, self._reason = trip.failures, trip.reason

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

    def guard(self, *, conclusive: bool = True) -> Guard:
        """Around a call: counts how it ends.

        Args:
            conclusive: False for a call that shows less than a real one: its success closes the circuit, but one
                failure opens it again.

        Raises:
            CircuitOpen: The call is not made.
        """
        return Guard(self, conclusive)

    def enter(self) -> bool:
        """A call begins; whether it is the one that tries a half-open circuit."""
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

    def leave(self, error: BaseException | None, *, probe: bool, conclusive: bool) -> None:
        """A call ended: how, and what `enter` said of it."""
        if probe:
            self._probing = False
        if error is None:
            self._close(0 if conclusive else THRESHOLD - 1)
        elif isinstance(error, AosError):
            meaning = self._meaning(error)
            if meaning == "failure" and (probe or self.closed):
                self._fail(error)
            elif meaning == "answer":
                self._close(0)

    def _fail(self, error: AosError) -> None:
        self._failures += 1
        self._reason = error.detail
        if self._failures >= THRESHOLD:
            now = self._clock.now()
            asked = (error.retry_after if isinstance(error, TransientError) else None) or 0.0
            self._pause = min(max(self._pause * 2, FIRST_PAUSE, asked), LONGEST_PAUSE)
            self._until = now + self._pause
            self._since = self._since if self._since is not None else now
            self._tell()

    def _close(self, failures: int) -> None:
        opened = not self.closed
        self._failures, self._pause, self._since, self._until = failures, 0.0, None, 0.0
        if opened:
            self._tell()

    def _tell(self) -> None:
        self._changed_at = self._clock.now()
        if self._told is not None:
            trip = Trip(
                self._name, self._changed_at, self._since, self._until, self._pause, self._failures, self._reason
            )
            self._told(trip)


class Guard:
    """Around one call; see `Breaker.guard`."""

    __slots__ = ("_breaker", "_conclusive", "_probe")

    def __init__(self, breaker: Breaker, conclusive: bool) -> None:
        self._breaker = breaker
        self._conclusive = conclusive

    def __enter__(self) -> None:
        self._probe = self._breaker.enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._breaker.leave(error, probe=self._probe, conclusive=self._conclusive)


class Breakers:
    """A circuit per deployment, or whatever else is called.

    Args:
        kind: What is called, as operators know it.
        meaning, told: See `Breaker`.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        kind: str = "Deployment",
        meaning: Callable[[AosError], Meaning] = foundry_meaning,
        told: Callable[[Trip], None] | None = None,
    ) -> None:
        self._clock = clock
        self._kind = kind
        self._meaning = meaning
        self._told = told
        self._circuits: dict[str, Breaker] = {}

    def of(self, name: str) -> Breaker:
        breaker = self._circuits.get(name)
        if breaker is None:
            breaker = Breaker(f"{self._kind} {name}", self._clock, self._meaning, self._told)
            self._circuits[name] = breaker
        return breaker

    def hear(self, trip: Trip) -> None:
        """Passes on what another process said of one of these circuits."""
        kind, _, name = trip.name.partition(" ")
        if kind == self._kind and (trip.since is not None or name in self._circuits):
            self.of(name).hear(trip)

    def circuits(self) -> list[Circuit]:
        """All circuits that were used, as they stand."""
        return [breaker.circuit for breaker in list(self._circuits.values())]

    def not_closed(self) -> list[Circuit]:
        """The circuits that are open or half open."""
        return [breaker.circuit for breaker in self._circuits.values() if not breaker.closed]
