"""The application behind the routes: built on first use, once per process, and closed when the host stops."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Callable
from typing import Any, TypeAlias

log = logging.getLogger("runtime.lifecycle")

Initializer: TypeAlias = Callable[[], object]
Shutdown: TypeAlias = Callable[..., object]

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


class NotReady(Exception):
    """The initializer failed. `reason` is its exception in one line; after `retry_after_seconds`, `ensure` tries
    again."""

    def __init__(self, error: Exception, retry_after_seconds: float = 1.0) -> None:
        first_line = str(error).strip().partition("\n")[0]
        self.reason = f"{type(error).__name__}: {first_line}"[:300].rstrip(": ")
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        super().__init__(self.reason)


class Lifecycle:
    """Holds what `initializer` returns.

    Both callables may be async or sync (then they run in a thread). `shutdown` takes no argument, or the application.
    A host such as Azure Functions has no start hook, so the first invocation that needs the application builds it;
    others wait for that attempt instead of starting their own. After a failed one the next begins with the first
    request that comes after a pause, which doubles with every failure from half a second to half a minute: until then
    its reason is the answer.
    """

    def __init__(self, initializer: Initializer | None = None, shutdown: Shutdown | None = None) -> None:
        self._initializer = initializer
        self._shutdown = shutdown
        self._app: object = None
        self._ready = False
        self._attempt: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._stopping = False
        self._pause = 0.0
        self._next_attempt = 0.0

    @property
    def ready(self) -> bool:
        """Whether the application has been initialised."""
        return self._ready

    @property
    def app_instance(self) -> Any:  # only the application knows its type
        """The application, or None before it is initialised."""
        return self._app

    async def ensure(self) -> Any:  # only the application knows its type
        """The application, initialised if need be. Raises `NotReady`."""
        if not self._ready:
            if self._stopping:
                raise NotReady(RuntimeError("the host is stopping"))
            if self._attempt is None:
                left = self._next_attempt - time.monotonic()
                if self._failure is not None and left > 0:
                    raise NotReady(self._failure, left)
                self._attempt = asyncio.create_task(self._start(), name="runtime-initializer")
                self._attempt.add_done_callback(self._attempt_ended)
            attempt = self._attempt
            try:
                # Shielded: a caller that gives up must not cancel the start for everyone.
                await asyncio.shield(attempt)
            except asyncio.CancelledError:
                if not attempt.cancelled():
                    raise
                raise NotReady(RuntimeError("the host is stopping")) from None
        return self._app

    async def ensure_within(self, seconds: float | None) -> Any:  # only the application knows its type
        """As `ensure`, but tries again for so many seconds (None: until it succeeds)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                return await self.ensure()
            except NotReady:
                pause = max(self._next_attempt - time.monotonic(), 0.01)
                if deadline is not None and time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)

    def stop_starting(self) -> None:
        """Give up a start that is under way, and begin none before `shutdown` has been called: the host is stopping."""
        self._stopping = True
        if self._attempt is not None:
            self._attempt.cancel()

    async def shutdown(self) -> None:
        """Close the application, if it was initialised; harmless when repeated. What `shutdown` raises is raised."""
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        self._stopping = False
        if not self._ready:
            return
        app, self._app, self._ready = self._app, None, False
        if self._shutdown is None:
            return
        takes_app = len(inspect.signature(self._shutdown).parameters) > 0
        await _run(self._shutdown, *((app,) if takes_app else ()))

    async def _start(self) -> None:
        began = time.perf_counter()
        try:
            self._app = await _run(self._initializer) if self._initializer is not None else None
        except Exception as error:
            self._failure = error
            self._pause = min(self._pause * 2 or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            self._next_attempt = time.monotonic() + self._pause
            log.exception(
                "the application could not be initialised; next attempt in %.1f s at the soonest", self._pause
            )
            raise NotReady(error, self._pause) from error
        self._failure, self._pause = None, 0.0
        self._ready = True
        log.info("application initialised in %.0f ms", (time.perf_counter() - began) * 1000)

    def _attempt_ended(self, attempt: asyncio.Task[None]) -> None:
        self._attempt = None
        if not attempt.cancelled():
            attempt.exception()  # retrieved, even if every caller has gone: `_start` has logged it


async def _run(function: Callable[..., object], *arguments: object) -> object:
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    result = await asyncio.to_thread(function, *arguments)
    return await result if inspect.isawaitable(result) else result
