"""What callers ask of the kernel: accept a message, add a result, wait, cancel, decide, drive, sweep.

The way of a message: `Kernel.accept` stores it, `aos.kernel.driver` takes it through its turn (`opening` makes it one,
`asking` asks the model, `aos.kernel.turn` decides what follows), and `aos.kernel.sweep` finds what was left behind.
"""

from __future__ import annotations

import logging
import uuid
from functools import partial

from aos.errors import ApprovalSettled, OperationFinal, UnknownApproval, UnknownOperation
from aos.kernel.asking import Asking
from aos.kernel.backlog import Backlog
from aos.kernel.breaker import Breakers, Trip
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.delegation import Delegating
from aos.kernel.driver import Driver
from aos.kernel.leases import Leases
from aos.kernel.observing import Observer, Unobserved
from aos.kernel.opening import Opening
from aos.kernel.operations import parked_call
from aos.kernel.options import KernelOptions
from aos.kernel.points import reached
from aos.kernel.ports import Acceptance, AgentDirectory, ConversationStore, FoundryPort, Outlet
from aos.kernel.progress import Progress
from aos.kernel.records import replace
from aos.kernel.sweep import SWEEP_INTERVAL, Sweep
from aos.kernel.tasks import Tasks
from aos.kernel.trips import TripBoard, Trips
from aos.kernel.types import ApprovalState, Cancellation, ConversationKey, Decision, Message, Operation, ToolResult
from aos.kernel.waiters import Waiters

__all__ = ["Kernel", "KernelOptions"]

log = logging.getLogger("aos.kernel")

WOKEN = 1000
"""Unfinished operations that are looked at when an agent was started."""
ANSWER_SOON = 5.0
"""Seconds for which whoever cancels waits to see it done."""


class Kernel:
    """Accepts messages and drives conversations.

    Args:
        owner: Name of this process in leases; unique.
        board: Where processes tell each other of their circuits; without it each finds out for itself.
        observer: Told of turns as they go on.
    """

    def __init__(
        self,
        *,
        store: ConversationStore,
        foundry: FoundryPort,
        agents: AgentDirectory,
        outlet: Outlet,
        clock: Clock | None = None,
        options: KernelOptions | None = None,
        owner: str | None = None,
        board: TripBoard | None = None,
        observer: Observer | None = None,
    ) -> None:
        clock = clock or SystemClock()
        owner = owner or uuid.uuid4().hex
        self.options = options = options or KernelOptions()
        self._tasks = Tasks()
        self._trips: Trips | None = None
        if board is None:
            self.breakers = Breakers(clock)
        else:
            self._trips = Trips(board, clock, self._tasks, self._hear)
            self.breakers = Breakers(clock, told=self._trips.tell)
        self.progress = Progress()
        self._store = store
        self._foundry = foundry
        self._outlet = outlet
        self._clock = clock
        self._observer = observer = observer or Unobserved()
        self._backlog = Backlog(store, clock, self._tasks, options.agent_backlog)
        self._leases = Leases(store, clock, options, owner, self._tasks)
        place = partial(observer.place, called=True)
        delegating = Delegating(outlet, store, options.backlog, self._backlog.full, self._backlog.accepted, place)
        self._driver = Driver(
            store=store,
            outlet=delegating,
            opening=Opening(foundry, agents, self.breakers, clock, options),
            asking=Asking(foundry, agents, self.breakers, self.progress, clock, options, observer),
            leases=self._leases,
            clock=clock,
            limits=options.limits,
            owner=owner,
            saved=self._saved,
            observer=observer,
        )
        self._waiters = Waiters(clock, self.operation, self._driver.drives)
        self._sweep = Sweep(store, clock, self._driver.drive, owner, self.options.lease / 6)

    # --- in

    async def accept(
        self,
        key: ConversationKey,
        message: Message,
        fingerprint: str,
        *,
        fresh: bool,
        deployment: str | None = None,
        unique: bool = False,
    ) -> tuple[Operation, bool]:
        """Stores a message durably as an operation; see `ConversationStore.accept` for results and errors.

        Args:
            deployment: What the agent thinks with, if that is known.
            fresh, unique: See `Acceptance`.

        Raises:
            CircuitOpen: The deployment is unavailable; nothing was accepted. What was accepted before is returned.
            BacklogFull: Too many operations of the agent have not ended; the same.
        """
        self.look_around()
        if deployment is not None and not self.breakers.of(deployment).closed:
            await self._admit(deployment, message.operation_id)
        if (full := self._backlog.full(key.agent_id)) and await self._store.operation(message.operation_id) is None:
            raise full
        backlog = self.options.backlog
        if place := self._observer.place():
            message = replace(message, trace=place)
        operation, new = await self._store.accept(Acceptance(key, message, fingerprint, fresh, backlog, unique))
        if new:
            self._backlog.accepted(operation)
        reached("accepted")
        return operation, new

    async def known(self, operation_id: str, fingerprint: str) -> Operation | None:
        """The operation of this id, if it was accepted before; see `ConversationStore.known` for errors."""
        return await self._store.known(operation_id, fingerprint)

    async def _admit(self, deployment: str, operation_id: str) -> None:
        """Lets a new message in when Foundry answers again: the waiting time of one that is not accepted is free."""
        if await self._store.operation(operation_id) is None:
            with self.breakers.of(deployment).guard(conclusive=False):
                await self._foundry.check()

    async def add_result(self, operation_id: str, result: ToolResult) -> None:
        """Stores a tool result and goes on with its turn.

        A result of an operation that nobody knows, one that is there already, or a late one changes nothing.
        """
        key = await self._store.locate(operation_id)
        if key is None:
            log.info("result %s belongs to no operation", result.request_id)
            return
        await self._store.add_arrival(key, result)
        reached("result-stored")
        # Also when it was there: whoever stored it may have died before it went on.
        await self.drive(key)

    async def operation(self, operation_id: str) -> Operation:
        """The operation as stored.

        Raises:
            UnknownOperation: There is none.
        """
        operation = await self._store.operation(operation_id)
        if operation is None:
            raise UnknownOperation(f"No operation {operation_id!r}: it never existed, or is older than 7 days.")
        return operation

    async def wait(self, operation: Operation, timeout: float) -> Operation:
        """Waits up to `timeout` seconds for the operation to end and returns it as it is then."""
        return await self._waiters.wait(operation, timeout)

    async def cancel(self, operation_id: str, by: str) -> Operation:
        """Has an operation end as `cancelled`, wherever it is worked on.

        A model step that is under way is let end, for up to its time-out; its answer is dropped.

        Args:
            by: Who asks; shown in the operation's error.

        Returns:
            The operation a moment later: cancelled, or not yet.

        Raises:
            UnknownOperation: There is none.
            OperationFinal: It ended before.
        """
        operation = await self.operation(operation_id)
        if not operation.final:
            key = ConversationKey(operation.agent_id, operation.conversation_id)
            await self._store.add_arrival(key, Cancellation(operation_id, by))
            reached("cancellation-stored")
            self.start(operation)
            operation = await self.wait(operation, ANSWER_SOON)
        if operation.final and operation.status != "cancelled":
            raise OperationFinal(f"Operation {operation_id} ended as {operation.status}; there is nothing to cancel.")
        return operation

    async def decide(self, decision: Decision) -> Operation:
        """Has a call that waits for a person made, or not; the first decision counts.

        Returns:
            The operation a moment later; whoever drives it may not have taken the decision up yet.

        Raises:
            UnknownApproval: No call waits, or waited, under this id.
            ApprovalSettled: It was decided otherwise before, expired, or its turn ended.
        """
        approval_id = decision.approval_id
        operation = await self._store.operation(approval_id.partition(".")[0])
        call = None if operation is None else parked_call(operation, approval_id)
        if operation is None or call is None:
            raise UnknownApproval(
                f"No call waits for approval {approval_id!r}; GET /api/approvals lists those that do."
            )
        late = False
        if call.parked:
            key = ConversationKey(operation.agent_id, operation.conversation_id)
            # What expired may not have been looked at yet.
            late = self._clock.now() >= call.deadline
            if not late and not await self._store.add_arrival(key, decision):
                await self._same_decision(key, decision)
            reached("decision-stored")
            self.start(operation)
            ends, pause = self._clock.now() + ANSWER_SOON, 0.02
            while _approval_state(operation, approval_id) == "pending" and self._clock.now() < ends:
                await self._clock.sleep(pause)
                pause = min(pause * 1.5, 1.0)
                operation = await self.operation(operation.operation_id)
        state = _approval_state(operation, approval_id)
        if late and state == "pending":
            state = "expired"
        if state not in ("pending", "approved" if decision.approve else "rejected"):
            raise ApprovalSettled(f"Approval {approval_id} is {state} already.")
        return operation

    async def _same_decision(self, key: ConversationKey, decision: Decision) -> None:
        decisions = [arrival for arrival in (await self._store.read(key)).arrivals if isinstance(arrival, Decision)]
        for known in decisions:
            if known.approval_id == decision.approval_id and known.approve != decision.approve:
                raise ApprovalSettled(f"Approval {decision.approval_id} was decided otherwise by {known.by}.")

    def backlog(self) -> dict[str, int]:
        """Operations of each agent that have not ended, as far as this process knows."""
        return self._backlog.known()

    # --- on

    def start(self, operation: Operation) -> None:
        """Drives its conversation in a task that the kernel owns, patiently: see `aos.kernel.driver`."""
        if not operation.final:
            key = ConversationKey(operation.agent_id, operation.conversation_id)
            self._tasks.spawn(self._driver.drive_patiently(key), f"drive {key.agent_id}/{key.conversation_id}")

    def look_around(self) -> None:
        """Has this process know, soon, which circuits others opened or closed; costs nothing while that is fresh."""
        if self._trips is not None:
            self._trips.look()

    def _hear(self, trip: Trip) -> None:
        self.breakers.hear(trip)

    async def drive(self, key: ConversationKey, *, resume: bool = False) -> None:
        """Steps a conversation until it waits for somebody else or is idle; see `Driver.drive` for errors."""
        self.look_around()
        await self._driver.drive(key, resume=resume)

    async def wake(self, operation: Operation) -> None:
        """Has some process drive its conversation, soon."""
        if not operation.final:
            await self._outlet.wake(ConversationKey(operation.agent_id, operation.conversation_id), 0.0)

    async def wake_agent(self, agent_id: str) -> None:
        """Has the conversations of an agent driven in which something waits; the sweep finds those beyond the first."""
        entries = await self._store.due(self._clock.now() + 2 * SWEEP_INTERVAL, WOKEN)
        for key in {entry.key for entry in entries if entry.key.agent_id == agent_id}:
            await self._outlet.wake(key, 0.0)

    def drives(self, operation: Operation) -> bool:
        """Whether this process works on its conversation right now, so that its progress is told here."""
        return self._driver.drives(ConversationKey(operation.agent_id, operation.conversation_id))

    async def sweep(self, limit: int = 100, patience: float = 0.0) -> int:
        """Looks after turns that are due: resumes what a dead process left behind, applies deadlines.

        Args:
            limit: Entries that are read at once.
            patience: Seconds after which no further ones are read.

        Returns:
            How many entries were looked at.
        """
        return await self._sweep.run(limit, patience)

    async def close(self, grace: float = 10.0) -> None:
        """Lets running turns go on for up to `grace` seconds, then leaves them to the next owner."""
        await self._tasks.close(grace, apart_from=self._leases.keeper)

    def _saved(self, operation: Operation) -> None:
        self.progress.saved(operation)
        if operation.final:
            self._backlog.ended(operation)
            self._waiters.ended(operation)


def _approval_state(operation: Operation, approval_id: str) -> ApprovalState | None:
    call = parked_call(operation, approval_id)
    return None if call is None or call.approval is None else call.approval.state
