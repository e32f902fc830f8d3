"""Telemetry must not disturb what it watches."""

from __future__ import annotations

import logging
from types import TracebackType

from aos.errors import AosError

log = logging.getLogger("aos.telemetry")


class _Harmless:
    # Not a generator: it stands several times in the way of each message.
    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        log.warning("telemetry failed", exc_info=error)
        return True


_HARMLESS = _Harmless()


def harmless() -> _Harmless:
    """Telemetry that fails is told in the log; the work goes on."""
    return _HARMLESS


def error_type(error: BaseException) -> str:
    """`error.type`: the code of an error of AOS, else its class. Never its text, which may hold content."""
    return error.code if isinstance(error, AosError) else type(error).__name__
