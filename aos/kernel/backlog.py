"""The backlog of an agent: how many of its operations have not ended, over all of its conversations.

Counted in the background, at most every few seconds and only while messages come, so that accepting one costs nothing
more. In between, a process adds what it accepts and takes off what it ends. So the bound is approximate: a process that
just started accepts until its first count is there, and several processes may together pass it by what they accept
between two counts.
"""

from __future__ import annotations

import logging
from collections import Counter

from aos.errors import BacklogFull
from aos.kernel.clock import Clock
from aos.kernel.ports import ConversationStore
from aos.kernel.tasks import Tasks
from aos.kernel.types import Operation

log = logging.getLogger("aos.kernel")

RECOUNT = 10.0
"""Seconds between two counts; more when a count takes long."""
SHARE = 20.0
"""A count that took n seconds is followed by the next one after n times this at the earliest."""


class Backlog:
    """What this process knows of every agent's backlog.

    Args:
        bound: Operations of one agent that may be unfinished.
    """

    def __init__(self, store: ConversationStore, clock: Clock, tasks: Tasks, bound: int) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._bound = bound
        self._unfinished: Counter[str] = Counter()
        self._since: Counter[str] = Counter()
        self._ended: set[str] = set()
        self._next = 0.0

    def full(self, agent_id: str) -> BacklogFull | None:
        """Why a new message of this agent is to be refused, if it is."""
        self._look()
        known = self._unfinished[agent_id] + self._since[agent_id]
        if known < self._bound:
            return None
        return BacklogFull(
            f"About {known} operations of agent {agent_id} have not ended; at most {self._bound} may wait.",
            code="agent_backlog_full",
            retry_after=RECOUNT,
        )

    def known(self) -> dict[str, int]:
        """Unfinished operations of every agent that has, or had, some; approximate."""
        agents = {*list(self._unfinished), *list(self._since)}
        return {agent: max(0, self._unfinished[agent] + self._since[agent]) for agent in agents}

    def accepted(self, operation: Operation) -> None:
        """This process accepted a message."""
        self._since[operation.agent_id] += 1

    def ended(self, operation: Operation) -> None:
        """This process saved an operation that has ended."""
        # Also a process that accepts nothing counts: what ended is remembered until then.
        self._look()
        if operation.operation_id not in self._ended:
            self._ended.add(operation.operation_id)
            self._since[operation.agent_id] -= 1

    def _look(self) -> None:
        if self._clock.now() >= self._next:
            # Until that count is there no other one is begun.
            self._next = self._clock.now() + RECOUNT
            self._tasks.spawn(self._count(), "count of the backlogs")

    async def _count(self) -> None:
        begun, before = self._clock.now(), Counter(self._since)
        counted = await self._store.unfinished()
        self._unfinished = Counter(counted)
        # What came and went during the count may be in it or not.
        self._since = Counter({agent: self._since[agent] - before[agent] for agent in self._since})
        self._ended.clear()
        took = self._clock.now() - begun
        self._next = max(self._next, self._clock.now() + took * SHARE)
