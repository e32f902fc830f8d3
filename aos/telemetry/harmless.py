"""Telemetry must not disturb what it watches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aos.errors import AosError

log = logging.getLogger("aos.telemetry")


@contextmanager
def harmless() -> Iterator[None]:
    """Telemetry that fails is told in the log; the work goes on."""
    try:
        yield
    except Exception:
        log.warning("telemetry failed", exc_info=True)


def error_type(error: BaseException) -> str:
    """`error.type`: the code of an error of AOS, else its class. Never its text, which may hold content."""
    return error.code if isinstance(error, AosError) else type(error).__name__
