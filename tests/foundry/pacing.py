"""Models that take their time: between words, as real ones do, or until they are told to go on; and who waits for them.

A step that is to time out is given `Patience.SECONDS`, and its time is over when the test says so: not before the
service has the request, however slow the machine is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from emulators.foundry.model import ModelEvent, ModelRequest, TextDelta
from emulators.foundry.offline import OfflineModel


class PacedModel(OfflineModel):
    """The offline model with a pause before each word; before one that is `WAIT` it waits for `go`.

    Attributes:
        waits: It has come to such a word.
    """

    def __init__(self, pace: float = 0.0) -> None:
        self.pace = pace
        self.waits = asyncio.Event()
        self.go = asyncio.Event()

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        async for event in super().step(request):
            if isinstance(event, TextDelta):
                await asyncio.sleep(self.pace)
                if event.text.strip() == "WAIT":
                    self.waits.set()
                    await self.go.wait()
            yield event


class HeldModel(OfflineModel):
    """The offline model, which says when it is asked and answers nothing before `go`."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()

    def hold(self) -> None:
        """Holds the next answers again."""
        self.began.clear()
        self.go.clear()

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self.began.set()
        await self.go.wait()
        async for event in super().step(request):
            yield event


class Patience:
    """Ends limits of time of `SECONDS` and more when it is told to."""

    SECONDS = 100_000.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._limits: list[asyncio.Timeout] = []
        self._limited = asyncio.timeout
        monkeypatch.setattr(asyncio, "timeout", self._limit)

    def _limit(self, seconds: float | None) -> asyncio.Timeout:
        limit = self._limited(seconds)
        if seconds is not None and seconds >= self.SECONDS:
            self._limits.append(limit)
        return limit

    def end(self) -> None:
        """The time is over."""
        now = asyncio.get_running_loop().time()
        while self._limits:
            self._limits.pop().reschedule(now)
