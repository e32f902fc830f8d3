"""A pace that requests to a server keep: so many per second on average."""

from __future__ import annotations

import asyncio


class Pace:
    """A token bucket that holds the tokens of one second, at least one.

    Args:
        per_second: Requests per second; None does not limit them.
    """

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._next = float("-inf")
        self._turn = asyncio.Lock()

    @property
    def free(self) -> bool:
        """Whether nobody ever waits."""
        return self._per_second is None

    def __str__(self) -> str:
        return "" if self._per_second is None else f" and {self._per_second:g} per second"

    async def wait(self) -> None:
        """Waits for the next turn; those who wait come in the order in which they asked."""
        if self._per_second is None:
            return
        every = 1.0 / self._per_second
        async with self._turn:
            now = asyncio.get_running_loop().time()
            # The time at which the bucket would be full again, if every token were taken when it falls due.
            due = max(self._next, now - max(1.0, every)) + every
            if due > now:
                await asyncio.sleep(due - now)
            # Only now: who gives up while waiting takes no token.
            self._next = due
