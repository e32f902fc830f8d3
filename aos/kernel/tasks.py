"""Background work of the kernel: every task is owned, and says so when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from aos.errors import TransientError

log = logging.getLogger("aos.kernel")


class Tasks:
    """The tasks that one kernel started and that have not ended."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], None] = {}  # in the order of their start

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Starts a task; what it fails with is logged under its name."""
        task = asyncio.create_task(work, name=name)
        self._running[task] = None
        task.add_done_callback(self._finished)
        return task

    async def close(self, grace: float, *, apart_from: asyncio.Task[None] | None = None) -> None:
        """Waits up to `grace` seconds for the tasks (`apart_from` one that does not end by itself), then cancels."""
        waited_for = [task for task in self._running if task is not apart_from]
        if waited_for:
            await asyncio.wait(waited_for, timeout=grace)
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, TransientError):
            log.warning("%s stopped: %s The sweep goes on from there.", task.get_name(), error.detail)
        elif error is not None:
            log.error("%s stopped", task.get_name(), exc_info=error)
