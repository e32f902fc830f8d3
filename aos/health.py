"""How the system is: one check per thing it depends on, all at once, remembered for ten seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from aos.errors import AosError

log = logging.getLogger("aos.health")

Level = Literal["healthy", "degraded", "unhealthy"]
_ORDER: tuple[Level, ...] = ("healthy", "degraded", "unhealthy")
REMEMBERED = 10.0
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `since`: when it was last found otherwise, or the process began."""

    level: Level
    detail: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at.

    Attributes:
        look: Returns what is wrong, or None; raising is wrong too.
        severity: How bad it is when something is wrong.
    """

    look: Callable[[], Awaitable[str | None]]
    severity: Level = "degraded"


@dataclass(slots=True)
class Health:
    """Runs the checks and remembers since when each has been the way it is."""

    checks: Mapping[str, Check]
    _findings: dict[str, Finding] = field(default_factory=dict)
    _looked: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def findings(self) -> dict[str, Finding]:
        """Every check's finding, at most ten seconds old."""
        async with self._lock:
            if time.monotonic() - self._looked > REMEMBERED or not self._findings:
                names = list(self.checks)
                found = await asyncio.gather(*(self._look(self.checks[name]) for name in names))
                now = datetime.now(UTC).isoformat(timespec="seconds")
                for name, (level, detail) in zip(names, found, strict=True):
                    before = self._findings.get(name)
                    since = before.since if before is not None and before.level == level else now
                    self._findings[name] = Finding(level, detail, since)
                self._looked = time.monotonic()
            return dict(self._findings)

    async def _look(self, check: Check) -> tuple[Level, str]:
        try:
            async with asyncio.timeout(PATIENCE):
                wrong = await check.look()
        except AosError as error:
            wrong = error.detail
        except TimeoutError:
            wrong = f"No answer within {PATIENCE:.0f} s."
        except Exception as error:
            # One check that breaks must not take the others' findings with it.
            log.exception("a health check failed")
            wrong = f"The check itself failed: {type(error).__name__}."
        return ("healthy", "") if wrong is None else (check.severity, wrong)


def worst(findings: Mapping[str, Finding]) -> Level:
    """The level of the whole: that of its worst part."""
    return _ORDER[max((_ORDER.index(finding.level) for finding in findings.values()), default=0)]
