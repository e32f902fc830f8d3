"""A registry that follows its document: every process looks again, on use, when its copy has grown old."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from aos.errors import AosError
from aos.kernel.clock import Clock
from aos.registry.errors import RegistryInvalid
from aos.registry.source import RegistrySource

logger = logging.getLogger("aos.registry")

T = TypeVar("T")

REFRESH_SECONDS = 1.0
"""Checks that are asked for are at least this far apart; so are attempts while there is no copy at all."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A parsed registry.

    Attributes:
        generation: ETag of the document that it was parsed from.
        loaded_at: When that document was asked for first (seconds since the epoch).
        checked_at: When it was last asked whether the document is still this one, and it was.
        origin: Where the document was read.
    """

    value: T
    generation: str
    loaded_at: float
    checked_at: float
    origin: str


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why the last check failed, and when the first of the failures in a row began."""

    error: AosError
    since: float


@dataclass(frozen=True, slots=True)
class _Refused:
    """A document that could not be parsed: it need not be read again until it changes."""

    etag: str
    error: AosError


class LiveRegistry(Generic[T]):
    """Holds the last good copy of a registry and revalidates it on use.

    A failed check (unreachable, missing, not JSON) keeps the last good copy; `problem` then says why, until a check
    succeeds. It is not repeated for every message: the next one comes after `max_age`.

    Args:
        source: Where the document is.
        parse: Makes the value; runs in a thread. Raises `RegistryInvalid` for a document that is wrong as a whole.
        clock: Tells the age of the copy.
        max_age: Seconds for which a copy is used without looking again.
    """

    def __init__(
        self, source: RegistrySource, parse: Callable[[bytes], T], clock: Clock, max_age: float = 15.0
    ) -> None:
        self._source = source
        self._parse = parse
        self._clock = clock
        self._max_age = max_age
        self._checking = asyncio.Lock()
        self._began_at: float | None = None
        self._attempted_at: float | None = None
        self._loaded: Loaded[T] | None = None
        self._failure: _Failure | None = None
        self._refused: _Refused | None = None

    @property
    def problem(self) -> str | None:
        """Why the last check failed; None if it succeeded."""
        return None if self._failure is None else self._failure.error.detail

    @property
    def problem_since(self) -> float | None:
        """When the first of the failures in a row began (seconds since the epoch)."""
        return None if self._failure is None else self._failure.since

    def peek(self) -> Loaded[T] | None:
        """The present copy, however old, without any I/O."""
        return self._loaded

    async def current(self) -> Loaded[T]:
        """The registry, at most `max_age` old unless it cannot be read.

        One caller at a time looks; the others get the present copy meanwhile, or wait if there is none.

        Raises:
            AosError: There is no good copy yet: why it could not be read. Transient errors stay transient.
        """
        max_age = self._max_age if self._loaded is not None else REFRESH_SECONDS
        if self._loaded is not None and (self._checking.locked() or self._attempted_within(max_age)):
            return self._loaded
        return await self._checked(max_age)

    async def refresh(self) -> Loaded[T]:
        """Looks now, unless somebody did within the last second; callers at the same time share one look.

        `checked_at` of the answer tells how recent it is: if the look failed, the copy is as old as it was.

        Raises:
            AosError: As `current`.
        """
        return await self._checked(REFRESH_SECONDS)

    async def reload(self) -> Loaded[T]:
        """Looks after this call began, for whoever knows that the document changed; waits up to a second for its turn.

        Raises:
            AosError: As `current`.
        """
        asked_at = self._clock.now()
        async with self._checking:
            if self._began_at is not None and self._began_at > asked_at:
                return self._outcome()
            if self._attempted_at is not None and self._attempted_within(REFRESH_SECONDS):
                await self._clock.sleep(self._attempted_at + REFRESH_SECONDS - self._clock.now())
            return await self._check()

    async def _checked(self, max_age: float) -> Loaded[T]:
        async with self._checking:
            if self._attempted_within(max_age) and (self._loaded is not None or self._failure is not None):
                return self._outcome()
            return await self._check()

    def _outcome(self) -> Loaded[T]:
        """What the last look brought."""
        if self._loaded is None and self._failure is not None:
            # One error, many callers: without this its traceback would grow with each of them.
            raise self._failure.error.with_traceback(None)
        assert self._loaded is not None  # noqa: S101 - a look either loads or fails
        return self._loaded

    def _attempted_within(self, seconds: float) -> bool:
        # A clock that was set back makes a negative age: that is no reason to wait for hours.
        return self._attempted_at is not None and 0 <= self._clock.now() - self._attempted_at < seconds

    async def _check(self) -> Loaded[T]:
        asked_at = self._began_at = self._clock.now()
        try:
            loaded = await self._read(asked_at)
        except AosError as error:
            self._attempted_at = self._clock.now()
            self._fail(error, asked_at)
            if self._loaded is None:
                raise
            return self._loaded
        self._attempted_at = self._clock.now()
        self._loaded = loaded
        self._failure = self._refused = None
        return loaded

    async def _read(self, asked_at: float) -> Loaded[T]:
        present = self._loaded
        generation = None if present is None else present.generation
        document = await self._source.read(generation if self._refused is None else self._refused.etag)
        if document is None and self._refused is not None:
            raise self._refused.error.with_traceback(None)
        if document is None and present is not None:
            return replace(present, checked_at=asked_at)
        if document is None:
            raise RuntimeError(f"{self._source!r} says that a document did not change which it never gave")
        try:
            value = await asyncio.to_thread(self._parse, document.data)
        except RegistryInvalid as error:
            # Two documents may be wrong at once: each says which one it is.
            named = RegistryInvalid(f"{document.origin}: {error.detail}")
            self._refused = _Refused(document.etag, named)
            raise named from error
        logger.info("loaded %s, generation %s", document.origin, document.etag)
        return Loaded(value, document.etag, asked_at, asked_at, document.origin)

    def _fail(self, error: AosError, at: float) -> None:
        since = at if self._failure is None else self._failure.since
        if self._failure is None or self._failure.error.detail != error.detail:
            kept = "there is no copy yet" if self._loaded is None else "the last good copy stays in use"
            logger.warning("the registry cannot be read, %s: %s", kept, error.detail)
        self._failure = _Failure(error, since)
