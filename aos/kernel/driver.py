"""The driver: takes a conversation through everything that can be done with it now, under its lease.

`drive` is the heart: take the lease of a conversation, feed what has arrived to `aos.kernel.turn.step`, save, send, ask
the model, and again, until the conversation waits for somebody else. Any process may drive any conversation at any
time; whoever does not get the lease returns, because its holder looks at the arrivals once more after letting go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from aos.errors import AgentStopped, AosError, Conflict, TransientError
from aos.kernel.asking import Asking
from aos.kernel.backoff import back_off
from aos.kernel.clock import Clock
from aos.kernel.events import PutOff, TimePassed, TurnStarted
from aos.kernel.hold import BATCH, Hold, hold_of
from aos.kernel.leases import Leases
from aos.kernel.observing import Observer
from aos.kernel.opening import Opening
from aos.kernel.points import reached
from aos.kernel.ports import ConversationStore, Lease, Outlet
from aos.kernel.sending import Sending
from aos.kernel.types import ConversationKey, Limits, Operation

log = logging.getLogger("aos.kernel")

WAKE_SLACK = 2.0
"""Seconds by which a wake-up may come early: clocks differ."""
PERSISTENCE = 600.0
"""Seconds for which this process tries to go on with a turn that it accepted over HTTP while storage or the bus is
down; the sweep would take up to a minute and a half to find it."""
LONGEST_PAUSE = 15.0
LONG_STEP = 1.0
"""Seconds after which a model step's answer counts only once it is sure that nobody cancelled the turn meanwhile."""


class Driver:
    """Steps conversations.

    Args:
        owner: Name of this process in leases; unique.
        saved: Told of every operation that was saved.
    """

    def __init__(
        self,
        *,
        store: ConversationStore,
        outlet: Outlet,
        opening: Opening,
        asking: Asking,
        leases: Leases,
        clock: Clock,
        limits: Limits,
        owner: str,
        saved: Callable[[Operation], None],
        observer: Observer,
    ) -> None:
        self._store = store
        self._outlet = outlet
        self._sending = Sending(outlet, clock)
        self._opening = opening
        self._asking = asking
        self._leases = leases
        self._clock = clock
        self._limits = limits
        self._owner = owner
        self._saved = saved
        self._observer = observer
        self._again: dict[ConversationKey, bool] = {}
        self._resumed: set[ConversationKey] = set()

    async def drive(self, key: ConversationKey, *, resume: bool = False) -> None:
        """Steps a conversation until it waits for somebody else or is idle.

        Returns at once when another task or process has it; that one sees all that was stored before this call.

        Args:
            resume: This is the wake-up that a put-off step asked for: try it, even if by the clock of this process its
                time is still up to `WAKE_SLACK` seconds ahead.

        Raises:
            TransientError: Storage or the bus is down; nothing is lost, the next drive goes on from the saved state.
        """
        if resume:
            self._resumed.add(key)
        if key in self._again:
            self._again[key] = True
            return
        self._again[key] = True
        try:
            with self._observer.conversation(key):
                while self._again[key]:
                    self._again[key] = False
                    while await self._drive_once(key):
                        pass
        finally:
            del self._again[key]
            self._resumed.discard(key)

    async def _drive_once(self, key: ConversationKey) -> bool:
        """Reads the conversation and does all that can be done now. False: there was nothing to do here."""
        snapshot = await self._store.read(key)
        lease = snapshot.lease
        if lease.owner not in ("", self._owner) and lease.until > self._clock.now():
            return False
        resumed = key in self._resumed
        self._resumed.discard(key)
        if snapshot.idle:
            # Found by every drive that ends a turn, when it looks once more.
            return False
        hold = hold_of(snapshot, key, Lease(self._owner, 0.0, lease.fence + 1), self._limits)
        hold.resumed = resumed
        self._leases.holds[hold] = None
        try:
            return await self._work(hold)
        except Conflict:
            log.info("lost the lease of %s/%s; its holder goes on", *key)
            return True
        finally:
            self._leases.holds.pop(hold, None)

    async def _work(self, hold: Hold) -> bool:
        """Takes up what arrived, saves, sends, asks the model: until nothing can be done now."""
        worked = False
        while True:
            self._take_arrivals(hold)
            if hold.state.turn is None and hold.inbox:
                await self._take_messages(hold)
            turn = hold.state.turn
            ask = turn is not None and turn.phase == "model" and self._may_try(hold)
            idle = not ask and not hold.state.outbox
            if idle and not worked and not hold.changed:
                return False
            worked = True
            self._saved_as(hold, await self._leases.save(hold, release=idle))
            if idle:
                if hold.wake is not None:
                    await self._ask_for_wake_up(hold, hold.wake)
                return True
            if hold.state.outbox:
                await self._sending.send(hold)
            if ask:
                await self._ask(hold)

    # --- the parts of it

    def _may_try(self, hold: Hold) -> bool:
        # A wake-up that comes far too early belongs to an older put-off: the newer one has a wake-up of its own.
        slack = WAKE_SLACK if hold.resumed else 0.0
        return hold.wake is None and hold.state.retry_at <= self._clock.now() + slack

    def _take_arrivals(self, hold: Hold) -> None:
        """Feeds the machine what has arrived for the turn in work, and time."""
        turn, now = hold.state.turn, self._clock.now()
        if turn is not None:
            self._observer.turn(turn.message)
        hold.take_arrivals(now)
        if hold.state.turn is not None:
            hold.apply(TimePassed(now))

    async def _take_messages(self, hold: Hold) -> None:
        """Feeds the machine the next message, or more if they end at once."""
        while hold.state.turn is None and hold.inbox and self._may_try(hold):
            if len(hold.taken_messages) >= BATCH:
                return
            message = hold.next_message()
            self._observer.turn(message)
            try:
                event = await self._opening.begin(hold, message)
            except AgentStopped:
                # Nothing is written: who starts the agent wakes its conversations.
                return
            hold.apply(event)
            if isinstance(event, PutOff):
                return
            hold.took()
            if isinstance(event, TurnStarted):
                self._observer.started(hold.key, message, event.at)
            # Waiting in the queue counts.
            hold.apply(TimePassed(self._clock.now()))

    def _saved_as(self, hold: Hold, operations: tuple[Operation, ...]) -> None:
        """Tells whoever watches what was saved."""
        for operation in operations:
            self._saved(operation)
        if hold.ended:
            for operation in hold.ended:
                self._observer.ended(operation)
            hold.ended.clear()

    async def _ask_for_wake_up(self, hold: Hold, delay: float) -> None:
        reached("before-wake")
        try:
            await self._outlet.wake(hold.key, delay)
        except TransientError:
            raise
        except AosError as error:
            log.error("no wake-up of %s/%s, the sweep goes on: %s", *hold.key, error.detail)
        reached("after-wake")

    async def _ask(self, hold: Hold) -> None:
        """Asks the model; what arrived meanwhile is taken up first: a cancellation comes before the step's answer."""
        asked_at = self._clock.now()
        event = await self._asking.ask(hold)
        if self._again.get(hold.key) or self._clock.now() - asked_at > LONG_STEP:
            hold.add(await self._store.read(hold.key))
            hold.take_arrivals(self._clock.now())
        hold.apply(event)

    # --- around

    def drives(self, key: ConversationKey) -> bool:
        """Whether this process works on the conversation right now."""
        return key in self._again

    async def drive_patiently(self, key: ConversationKey) -> None:
        """Drives; when storage or the bus is down, again with growing pauses. After that the sweep goes on."""
        gives_up = self._clock.now() + PERSISTENCE
        attempt = 0
        while True:
            try:
                return await self.drive(key)
            except TransientError as error:
                delay = min(back_off(attempt, error.retry_after), LONGEST_PAUSE)
                if self._clock.now() + delay > gives_up:
                    raise
                log.warning("%s/%s stopped: %s Again in %.0f s.", *key, error.detail, delay)
            attempt += 1
            await self._clock.sleep(delay)
