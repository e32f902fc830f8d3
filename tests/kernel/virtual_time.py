"""Time that jumps instead of passing: hours take milliseconds, and every run is the same."""

from __future__ import annotations

import asyncio
import selectors

EPOCH = 1_000_000.0


class Stuck(AssertionError):
    """Everybody waits for somebody else: a wake-up was lost."""


class _Selector(selectors.SelectSelector):
    elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck
            self.elapsed += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing can run."""

    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed

    def jump(self, seconds: float) -> None:
        """Time goes by while nothing runs, as when the machine sleeps."""
        self._jumping.elapsed += seconds


class LoopClock:
    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
