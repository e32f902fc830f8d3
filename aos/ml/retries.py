"""Trying again: bounded, with growing pauses, and only where that is safe."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from aos.errors import SettingError, TransientError
from aos.kernel.clock import Clock

T = TypeVar("T")
LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how soon to try again.

    `most` counts tries after the first; `delay` seconds before the first of them, doubling, with up to a quarter more
    at random, so that callers who failed together do not come back together.
    """

    most: int
    delay: float
    clock: Clock
    retried: Callable[[], None] = lambda: None
    """Called before each further attempt."""

    async def run(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        until: float,
        safe: Callable[[TransientError], bool] = lambda error: True,
    ) -> T:
        """The result of the first attempt that succeeds.

        Args:
            until: Time of the clock after which no further attempt begins.
            safe: Whether trying again after this error does no harm.

        Raises:
            TransientError: Of the last attempt.
        """
        for tried in range(self.most + 1):
            try:
                return await attempt()
            except SettingError:
                raise
            except TransientError as error:
                pause = min(self.delay * 2**tried, LONGEST_PAUSE) * random.uniform(1, 1.25)  # noqa: S311 - spread
                pause = max(pause, error.retry_after or 0.0)
                if tried == self.most or not safe(error) or self.clock.now() + pause >= until:
                    raise
                await self.clock.sleep(pause)
                self.retried()
        raise AssertionError("the last attempt returns or raises")
