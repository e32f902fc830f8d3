"""A model that takes its time between words, as real ones do."""

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
