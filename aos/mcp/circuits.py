"""Circuits of the MCP servers: one whose calls die or hang five times in a row is left alone for a while.

Calls fail at once meanwhile, with the time to come back, instead of each holding a worker until it times out. How a
circuit stands is told as a row, for health in every role; it is not believed by other processes, which may run a server
process of their own. A server that does not even start is held off by its connection.
"""

from __future__ import annotations

import math
from typing import Any

from aos.errors import AosError, CircuitOpen
from aos.kernel.breaker import Breakers, Circuit, Guard, Meaning, Trip
from aos.kernel.clock import Clock
from aos.kernel.tasks import Tasks
from aos.kernel.trips import TripBoard, Trips
from aos.mcp.errors import ServerBusy, ServerDied, ServerRefused, ServerReplyInvalid, ServerUnavailable, ToolTimeout

KIND = "MCP server"
LAST_NEWS = 2.0
"""Seconds to write how a circuit stands when the process ends."""


def server_meaning(error: AosError) -> Meaning:
    """What an error of a call says about the server."""
    if isinstance(error, ServerBusy):
        return "nothing"
    if isinstance(error, ServerDied | ToolTimeout | ServerUnavailable):
        return "failure"
    return "answer" if isinstance(error, ServerRefused | ServerReplyInvalid) else "nothing"


def breaker_view(trip: Trip | None, now: float) -> dict[str, Any]:
    """How a server's circuit stands, by what was last told of it; one that nobody told of is closed."""
    if trip is None or trip.since is None:
        return {"state": "closed", "failures": 0, "retry_after_seconds": 0}
    left = max(0.0, trip.until - now)
    return {
        "state": "open" if left else "half_open",
        "failures": trip.failures,
        "retry_after_seconds": math.ceil(left),
        "reason": trip.reason,
    }


class ServerGuard:
    """Around one call; see `ServerCircuits.guard`."""

    __slots__ = ("_guard",)

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        try:
            self._guard.__enter__()
        except CircuitOpen as error:
            raise ServerUnavailable(error.detail, retry_after=error.retry_after) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._guard.__exit__(kind, error, traceback)


class ServerCircuits:
    """A circuit per server of this process.

    Args:
        board: Where they are told; None: nowhere.
    """

    def __init__(self, clock: Clock, board: TripBoard | None = None) -> None:
        self._tasks = Tasks()
        trips = None if board is None else Trips(board, clock, self._tasks, lambda trip: None)
        self._breakers = Breakers(clock, kind=KIND, meaning=server_meaning, told=None if trips is None else trips.tell)

    def require(self, server_id: str) -> None:
        """Raises `ServerUnavailable` while the server is left alone."""
        breaker = self._breakers.of(server_id)
        if breaker.closed:
            return
        circuit = breaker.circuit
        if circuit.state == "open":
            raise ServerUnavailable(
                f"{circuit.name} failed {circuit.failures} times in a row and is left alone for a while; the last "
                f"time: {circuit.reason}",
                retry_after=circuit.retry_after,
            )

    def guard(self, server_id: str) -> ServerGuard:
        """Around a call of a tool: counts how it ends.

        Raises:
            ServerUnavailable: The call is not made; after the pause one is, to try.
        """
        return ServerGuard(self._breakers.of(server_id).guard())

    def circuits(self) -> list[Circuit]:
        """All circuits that were used, as they stand."""
        return self._breakers.circuits()

    async def close(self) -> None:
        """Lets news that are on their way arrive."""
        await self._tasks.close(LAST_NEWS)
