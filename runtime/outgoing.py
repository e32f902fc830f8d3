"""Calls to other services, with the switches of the configuration: retries, and circuit breakers by service.

`retry_enabled` and `max_retries` bound how often a call is made again after a failure that may pass;
`circuit_breaker_enabled` leaves a service alone for a while after five such failures in a row, then tries one call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from runtime.config_loader import RuntimeConfig

log = logging.getLogger("runtime.outgoing")

ResultT = TypeVar("ResultT")
IsTransient = Callable[[BaseException], bool]

FAILURES_TO_OPEN = 5
OPEN_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0


class CircuitOpen(Exception):
    """A service failed so often that it is left alone; nothing was sent. `retry_after_seconds`: when it is tried."""

    def __init__(self, name: str, retry_after_seconds: float) -> None:
        super().__init__(f"{name} is left alone after {FAILURES_TO_OPEN} failures; try again in a while")
        self.name = name
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))


class _Circuit:
    def __init__(self) -> None:
        self.failures = 0
        self.opens_again = 0.0
        self.trying = False


def connection_failed(error: BaseException) -> bool:
    """Whether an error is of the network, so that the same call may succeed later."""
    return isinstance(error, (OSError, TimeoutError))


class Outgoing:
    """Makes calls; one per runtime, so that everything that calls a service knows how it fares."""

    def __init__(self, config: RuntimeConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._retries = config.max_retries if config.retry_enabled else 0
        self._breaks = config.circuit_breaker_enabled
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def state(self, name: str) -> str:
        """Of the circuit of a service: `closed`, `open` or `half_open`."""
        circuit = self._circuits.get(name)
        if circuit is None or circuit.failures < FAILURES_TO_OPEN:
            return "closed"
        return "open" if self._clock() < circuit.opens_again else "half_open"

    async def call(
        self,
        name: str,
        function: Callable[[], Awaitable[ResultT]],
        *,
        transient: IsTransient = connection_failed,
        repeatable: bool = True,
    ) -> ResultT:
        """Call a service and return what it answers.

        Args:
            name: Of the service; calls of the same name share a circuit breaker.
            function: Makes the call; it is called again for every attempt, and bounds its own time.
            transient: Which errors may pass. Others are raised at once: the service has answered.
            repeatable: Whether making the call twice does no harm.

        Raises:
            CircuitOpen: The service is left alone.
        """
        attempts = 1 + (self._retries if repeatable else 0)
        for attempt in range(attempts):
            try:
                async with self.guard(name, transient=transient):
                    return await function()
            except Exception as error:
                if isinstance(error, CircuitOpen) or not transient(error) or attempt == attempts - 1:
                    raise
                pause = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
                log.info("%s: %s: %s; attempt %d follows", name, type(error).__name__, error, attempt + 2)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def guard(
        self, name: str, *, transient: IsTransient = connection_failed
    ) -> AsyncIterator[Callable[[], None]]:
        """The circuit breaker alone, around one attempt at a call. Raises `CircuitOpen`.

        Yields what says that the service has begun to answer: who reads a long answer keeps nobody from trying it.
        """
        circuit = self._circuits.setdefault(name, _Circuit())
        trial = False

        def begun() -> None:
            nonlocal trial
            if trial:  # and not a call that was under way when the circuit opened
                circuit.trying = trial = False

        if not self._breaks:
            yield begun
            return
        if circuit.failures >= FAILURES_TO_OPEN:
            left = circuit.opens_again - self._clock()
            if left > 0 or circuit.trying:
                raise CircuitOpen(name, max(left, 1.0))
            circuit.trying = trial = True
        try:
            yield begun
        except Exception as error:
            if transient(error):
                self._failed(name, circuit)
            else:
                circuit.failures = 0
            raise
        else:
            circuit.failures = 0
        finally:
            begun()

    def _failed(self, name: str, circuit: _Circuit) -> None:
        circuit.failures += 1
        if circuit.failures >= FAILURES_TO_OPEN:
            circuit.opens_again = self._clock() + OPEN_SECONDS
            log.warning("%s is left alone for %.0f s after %d failures", name, OPEN_SECONDS, circuit.failures)
