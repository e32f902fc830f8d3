"""Starts a part again when it dies, but not for ever."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from emulators.errors import PartFailed
from emulators.parts import Part, Report

RESTARTS = 5
RESTART_WINDOW = 60.0
FIRST_PAUSE = 0.1


async def keep(part: Part, report: Report) -> None:
    """Starts `part` again, on the same ports, whenever it ends; runs until cancelled.

    The pause before a start doubles from `FIRST_PAUSE` seconds with each start of the last `RESTART_WINDOW` seconds.

    Raises:
        PartFailed: it ended more than `RESTARTS` times in `RESTART_WINDOW` seconds.
        PortInUse: another program took its port meanwhile.
    """
    starts: deque[float] = deque()
    while True:
        problem = f"{part.name}: ended with status {await part.wait()}"
        started = False
        while not started:
            now = time.monotonic()
            while starts and now - starts[0] >= RESTART_WINDOW:
                starts.popleft()
            if len(starts) == RESTARTS:
                raise PartFailed(f"{problem}; given up after {RESTARTS} new starts within {RESTART_WINDOW:g} s")
            starts.append(now)
            report(f"{problem}; starting it again ({len(starts)} of {RESTARTS})")
            await asyncio.sleep(FIRST_PAUSE * 2 ** (len(starts) - 1))
            try:
                await part.start()
                started = True
            except PartFailed as error:
                problem = str(error)
