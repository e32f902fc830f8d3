"""Models that take their time: between words, as real ones do, or until they are told to go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from emulators.foundry.model import ModelEvent, ModelRequest, TextDelta
from emulators.foundry.offline import OfflineModel


class PacedModel(OfflineModel):
    """The offline model with a pause before each word; before one that is `WAIT` it waits for `go`."""

    def __init__(self, pace: float = 0.0) -> None:
        self.pace = pace
        self.go = asyncio.Event()

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        async for event in super().step(request):
            if isinstance(event, TextDelta):
                await asyncio.sleep(self.pace)
                if event.text.strip() == "WAIT":
                    await self.go.wait()
            yield event


class HeldModel(OfflineModel):
    """The offline model, which says when it is first asked and answers nothing before `go`."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self.began.set()
        await self.go.wait()
        async for event in super().step(request):
            yield event
