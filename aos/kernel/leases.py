"""Leases: every save of a conversation takes, keeps or frees its lease, and a keeper renews those that are held."""

from __future__ import annotations

import asyncio
import logging

from aos.errors import Conflict, TransientError
from aos.kernel.clock import Clock
from aos.kernel.hold import Hold
from aos.kernel.options import KernelOptions
from aos.kernel.points import reached
from aos.kernel.ports import Change, ConversationStore, Lease
from aos.kernel.records import replace
from aos.kernel.tasks import Tasks
from aos.kernel.types import Operation

log = logging.getLogger("aos.kernel")


class Leases:
    """What this process holds.

    Args:
        owner: Name of this process in leases; unique.

    Attributes:
        holds: The conversations that it works on: their leases are renewed once they were taken.
        keeper: The task that renews their leases, while there are any.
    """

    def __init__(
        self, store: ConversationStore, clock: Clock, options: KernelOptions, owner: str, tasks: Tasks
    ) -> None:
        self._store = store
        self._clock = clock
        self._options = options
        self._owner = owner
        self._tasks = tasks
        self.holds: dict[Hold, None] = {}  # in the order in which they were taken
        self.keeper: asyncio.Task[None] | None = None

    async def save(self, hold: Hold, *, release: bool) -> tuple[Operation, ...]:
        """Writes state, consumed arrivals and operations at once, and with them takes, keeps or frees the lease.

        Returns:
            The operations that were written.

        Raises:
            Conflict: Somebody else has the lease; nothing was written.
        """
        if hold.held and not hold.changed and not release:
            return ()
        reached("before-release" if release else "before-save")
        operations = tuple(hold.operations.values())
        hold.writing = True
        try:
            if hold.renewal is not None and not hold.renewal.done():
                await asyncio.wait((hold.renewal,))
            until = 0.0 if release else self._clock.now() + self._options.lease
            hold.lease = Lease("" if release else self._owner, until, hold.lease.fence)
            messages, arrivals = tuple(hold.taken_messages), tuple(hold.taken_arrivals)
            change = Change(hold.state, hold.lease, messages, arrivals, operations, tuple(hold.told))
            hold.etag = await self._store.commit(hold.key, hold.etag, change)
        finally:
            hold.writing = False
        taken = not hold.held and not release
        hold.held = not release
        hold.changed = False
        hold.taken_messages.clear()
        hold.taken_arrivals.clear()
        hold.operations.clear()
        hold.told.clear()
        reached("after-release" if release else "lease-taken" if taken else "after-save")
        if not release and self.keeper is None:
            self.keeper = self._tasks.spawn(self._keep(), "lease keeper")
        return operations

    async def _keep(self) -> None:
        """Renews the leases that this process holds; ends when it holds none."""
        try:
            while self.holds:
                await self._clock.sleep(self._options.renew / 2)
                for hold in self.holds:
                    # None waits for a slow one.
                    if not hold.writing and (hold.renewal is None or hold.renewal.done()):
                        name = f"lease of {hold.key.agent_id}/{hold.key.conversation_id}"
                        hold.renewal = self._tasks.spawn(self._renew(hold), name)
        finally:
            self.keeper = None

    async def _renew(self, hold: Hold) -> None:
        now = self._clock.now()
        if not hold.held or hold.etag is None or hold.lease.until - now > self._options.lease - self._options.renew:
            return
        lease = replace(hold.lease, until=now + self._options.lease)
        try:
            hold.etag = await self._store.renew(hold.key, hold.etag, lease)
            hold.lease = lease
        except Conflict:
            # Its next save finds the same and discards the step.
            hold.held = False
        except TransientError as error:
            log.warning("could not renew the lease of %s/%s: %s", *hold.key, error.detail)
