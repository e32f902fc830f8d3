"""The executor: carries out what the state machine decides.

`drive` is the heart: take the lease of a conversation, feed what has arrived to `aos.kernel.turn.step`, save, send, ask
the model, and again, until the conversation waits for somebody else. Any process may drive any conversation at any
time; whoever does not get the lease returns, because its holder looks at the arrivals once more after letting go.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace

from aos.errors import (
    AgentGone,
    AgentStopped,
    AosError,
    ApprovalSettled,
    Conflict,
    ConversationGone,
    FoundryUnavailable,
    OperationFinal,
    TransientError,
    UnknownApproval,
    UnknownOperation,
)
from aos.kernel.breaker import Breakers
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import (
    Acceptance,
    AgentDirectory,
    Change,
    ConversationStore,
    Due,
    FoundryPort,
    Lease,
    Outlet,
    Snapshot,
)
from aos.kernel.progress import Progress
from aos.kernel.recovery import missing_input, settle
from aos.kernel.turn import (
    ApprovalDecided,
    ConversationLost,
    Event,
    MessageCancelled,
    MessageRefused,
    ModelAnswered,
    ModelFailed,
    PlannedCall,
    PutOff,
    Record,
    ResultArrived,
    Settled,
    TimePassed,
    TurnCancelled,
    TurnStarted,
    step,
)
from aos.kernel.types import (
    ApprovalState,
    Arrival,
    Cancellation,
    Conversation,
    ConversationKey,
    Decision,
    Failure,
    Limits,
    Message,
    ModelReply,
    Operation,
    ToolCall,
    ToolResult,
)

log = logging.getLogger("aos.kernel")

WAKE_SLACK = 2.0
"""Seconds by which a wake-up may come early: clocks differ."""
SWEEP_INTERVAL = 60.0
"""Seconds after which the sweep looks at an unfinished operation again."""
AFTER_LEASE = 5.0
"""Seconds after the end of a lease when the sweep looks whether its owner still lives."""
UNFINISHED = 600.0
"""Seconds for which a due entry without an operation is kept: its acceptance may still be on its way."""
PERSISTENCE = 600.0
"""Seconds for which this process tries to go on with a turn that it accepted over HTTP while storage or the bus is
down; the sweep would take up to a minute and a half to find it."""
LONGEST_PAUSE = 15.0
WOKEN = 1000
"""Unfinished operations that are looked at when an agent was started."""
BATCH = 30
"""Messages, and arrivals, taken up in one write: stores bound the rows of a transaction."""
LONG_STEP = 1.0
"""Seconds after which a model step's answer counts only once it is sure that nobody cancelled the turn meanwhile."""
ANSWER_SOON = 5.0
"""Seconds for which whoever cancels waits to see it done."""


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """Bounds of the kernel; times in seconds.

    Attributes:
        lease: How long a conversation stays with an owner that died.
        renew: Age at which a held lease is renewed.
        model_timeout: Of one model step; below the lock renewal of the Functions host (`host.json`).
        patience: How long a step tries an unavailable Foundry before it is put off.
        turn: From acceptance to the deadline of a turn.
        backlog: Messages that may wait in one conversation.
    """

    lease: float = 30.0
    renew: float = 10.0
    model_timeout: float = 120.0
    patience: float = 5.0
    turn: float = 600.0
    backlog: int = 100
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True, eq=False)
class _Hold:
    """A conversation while this process works on it."""

    key: ConversationKey
    state: Conversation
    lease: Lease
    etag: str | None
    inbox: list[Message]
    arrivals: tuple[Arrival, ...]
    recovering: bool
    held: bool = False
    changed: bool = False
    resumed: bool = False
    reopened: bool = False
    wake: float | None = None
    taken_messages: list[Message] = field(default_factory=list)
    taken_arrivals: list[Arrival] = field(default_factory=list)
    operations: dict[str, Operation] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Kernel:
    """Accepts messages and drives conversations.

    Args:
        owner: Name of this process in leases; unique.
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
    ) -> None:
        self._store = store
        self._foundry = foundry
        self._agents = agents
        self._outlet = outlet
        self._clock = clock or SystemClock()
        self.progress = Progress()
        self.options = options or KernelOptions()
        self._owner = owner or uuid.uuid4().hex
        self.breakers = Breakers(self._clock)
        self._again: dict[ConversationKey, bool] = {}
        self._resumed: set[ConversationKey] = set()
        self._holds: set[_Hold] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: dict[str, set[asyncio.Future[Operation]]] = {}

    # --- in

    async def accept(
        self, key: ConversationKey, message: Message, fingerprint: str, *, fresh: bool, deployment: str | None = None
    ) -> tuple[Operation, bool]:
        """Stores a message durably as an operation; see `ConversationStore.accept` for results and errors.

        Args:
            deployment: What the agent thinks with, if that is known.

        Raises:
            CircuitOpen: The deployment is unavailable; nothing was accepted. What was accepted before is returned.
        """
        if deployment is not None and not self.breakers.of(deployment).closed:
            await self._admit(deployment, message.operation_id)
        backlog = self.options.backlog
        return await self._store.accept(Acceptance(key, message, fingerprint, fresh, backlog))

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
        """Waits up to `timeout` seconds for the operation to end and returns it as it is then.

        The operation's row is the truth; what happens in this process only shortens the wait.
        """
        if operation.final or timeout <= 0:
            return operation
        key = ConversationKey(operation.agent_id, operation.conversation_id)
        done: asyncio.Future[Operation] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(operation.operation_id, set())
        waiters.add(done)
        ends = self._clock.now() + timeout
        interval = 0.025
        try:
            while (left := ends - self._clock.now()) > 0:
                pause = min(left, 1.0 if key in self._again else interval)
                await asyncio.wait({done}, timeout=pause)
                if done.done():
                    return done.result()
                operation = await self.operation(operation.operation_id)
                if operation.final:
                    break
                interval = min(interval * 1.5, 1.0)
        finally:
            waiters.discard(done)
            if not waiters:
                self._waiters.pop(operation.operation_id, None)
        return operation

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
        if operation is None or parked_call(operation, approval_id) is None:
            raise UnknownApproval(
                f"No call waits for approval {approval_id!r}; GET /api/approvals lists those that do."
            )
        if _approval_state(operation, approval_id) == "pending":
            key = ConversationKey(operation.agent_id, operation.conversation_id)
            if not await self._store.add_arrival(key, decision):
                await self._same_decision(key, decision)
            self.start(operation)
            ends, pause = self._clock.now() + ANSWER_SOON, 0.02
            while _approval_state(operation, approval_id) == "pending" and self._clock.now() < ends:
                await self._clock.sleep(pause)
                pause = min(pause * 1.5, 1.0)
                operation = await self.operation(operation.operation_id)
        state = _approval_state(operation, approval_id)
        if state not in ("pending", "approved" if decision.approve else "rejected"):
            raise ApprovalSettled(f"Approval {approval_id} is {state} already.")
        return operation

    async def _same_decision(self, key: ConversationKey, decision: Decision) -> None:
        decisions = [arrival for arrival in (await self._store.read(key)).arrivals if isinstance(arrival, Decision)]
        for known in decisions:
            if known.approval_id == decision.approval_id and known.approve != decision.approve:
                raise ApprovalSettled(f"Approval {decision.approval_id} was decided otherwise by {known.by}.")

    def start(self, operation: Operation) -> None:
        """Drives its conversation in a task that the kernel owns, patiently: see `PERSISTENCE`."""
        if not operation.final:
            key = ConversationKey(operation.agent_id, operation.conversation_id)
            self._spawn(self._drive_patiently(key), f"drive {key.agent_id}/{key.conversation_id}")

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
        return ConversationKey(operation.agent_id, operation.conversation_id) in self._again

    # --- drive

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
            while self._again[key]:
                self._again[key] = False
                while await self._drive_once(key):
                    pass
        finally:
            del self._again[key]
            self._resumed.discard(key)

    async def _drive_patiently(self, key: ConversationKey) -> None:
        """Drives; when storage or the bus is down, again with growing pauses. After that the sweep goes on."""
        gives_up = self._clock.now() + PERSISTENCE
        attempt = 0
        while True:
            try:
                return await self.drive(key)
            except TransientError as error:
                delay = min(_back_off(attempt, error.retry_after), LONGEST_PAUSE)
                if self._clock.now() + delay > gives_up:
                    raise
                log.warning("%s/%s stopped: %s Again in %.0f s.", *key, error.detail, delay)
            attempt += 1
            await self._clock.sleep(delay)

    async def _drive_once(self, key: ConversationKey) -> bool:
        """Reads the conversation and does all that can be done now. False: there was nothing to do here."""
        snapshot = await self._store.read(key)
        lease = snapshot.lease
        if lease.owner not in ("", self._owner) and lease.until > self._clock.now():
            return False
        hold = _hold(snapshot, key, Lease(self._owner, 0.0, lease.fence + 1))
        if key in self._resumed:
            self._resumed.discard(key)
            hold.resumed = True
        self._holds.add(hold)
        try:
            return await self._work(hold)
        except Conflict:
            log.info("lost the lease of %s/%s; its holder goes on", *key)
            return True
        finally:
            self._holds.discard(hold)

    async def _work(self, hold: _Hold) -> bool:
        worked = False
        while True:
            await self._take(hold)
            turn = hold.state.turn
            ask = turn is not None and turn.phase == "model" and self._may_try(hold)
            idle = not ask and not hold.state.outbox
            if idle and not worked and not hold.changed:
                return False
            worked = True
            await self._save(hold, release=idle)
            if idle:
                if hold.wake is not None:
                    await self._outlet.wake(hold.key, hold.wake)
                return True
            if hold.state.outbox:
                await self._outlet.send(hold.key, hold.state.outbox)
                for effect in hold.state.outbox:
                    if effect.kind in ("reply", "park") and not _replayed(hold, effect.operation):
                        # Written once more, now that nothing remains to be done for it: stores forget its due entry.
                        hold.operations[effect.operation.operation_id] = effect.operation
                hold.state = replace(hold.state, outbox=())
                hold.changed = True
            if ask:
                asked_at = self._clock.now()
                event = await self._ask(hold)
                if self._again.get(hold.key) or self._clock.now() - asked_at > LONG_STEP:
                    await self._look_again(hold)
                self._apply(hold, event)

    def _may_try(self, hold: _Hold) -> bool:
        # A wake-up that comes far too early belongs to an older put-off: the newer one has a wake-up of its own.
        slack = WAKE_SLACK if hold.resumed else 0.0
        return hold.wake is None and hold.state.retry_at <= self._clock.now() + slack

    async def _take(self, hold: _Hold) -> None:
        """Feeds the machine what has arrived, time, and the next message when no turn is in work."""
        now = self._clock.now()
        self._take_arrivals(hold)
        if hold.state.turn is not None:
            self._apply(hold, TimePassed(now))
        while hold.state.turn is None and hold.inbox and self._may_try(hold):
            if len(hold.taken_messages) >= BATCH:
                return
            message = hold.inbox[0]
            # A message that took long to be stored may find its place passed already: it is the next one then.
            placed = replace(message, seq=max(message.seq, hold.state.last_seq + 1))
            try:
                event = await self._begin(hold, placed)
            except AgentStopped:
                # Nothing is written: who starts the agent wakes its conversations.
                return
            self._apply(hold, event)
            if isinstance(event, PutOff):
                return
            del hold.inbox[0]
            hold.taken_messages.append(message)
            hold.changed = True
            # Waiting in the queue counts.
            self._apply(hold, TimePassed(self._clock.now()))

    def _take_arrivals(self, hold: _Hold) -> None:
        now = self._clock.now()
        for arrival in hold.arrivals:
            if isinstance(arrival, ToolResult):
                self._apply(hold, ResultArrived(now, arrival))
            elif isinstance(arrival, Decision):
                self._apply(hold, ApprovalDecided(now, arrival))
            else:
                self._cancel(hold, arrival)
            hold.taken_arrivals.append(arrival)
            hold.changed = True
        hold.arrivals = ()

    def _cancel(self, hold: _Hold, wanted: Cancellation) -> None:
        now = self._clock.now()
        self._apply(hold, TurnCancelled(now, wanted.operation_id, wanted.by))
        for message in hold.inbox:
            if message.operation_id == wanted.operation_id:
                # Its place may have been passed already, see `_take`.
                placed = replace(message, seq=max(message.seq, hold.state.last_seq + 1))
                self._apply(hold, MessageCancelled(now, placed, wanted.by))
                hold.inbox.remove(message)
                hold.taken_messages.append(message)
                return

    async def _look_again(self, hold: _Hold) -> None:
        """Takes up what arrived during a model step, so that a cancellation comes before the step's answer."""
        snapshot = await self._store.read(hold.key)
        known = {message.operation_id for message in hold.inbox}
        hold.inbox.extend(message for message in snapshot.inbox if message.operation_id not in known)
        hold.arrivals = snapshot.arrivals[:BATCH]
        self._take_arrivals(hold)

    async def _begin(self, hold: _Hold, message: Message) -> TurnStarted | MessageRefused | PutOff:
        try:
            binding = await self._agents.bind(hold.key.agent_id)
            if hold.state.unsettled or hold.state.remote_id is None:
                with self.breakers.of(binding.ref.deployment).guard():
                    await self._open(hold)
        except AgentStopped:
            raise
        except TransientError as error:
            if self._clock.now() < message.deadline:
                log.warning("agent %s cannot take a message yet: %s", hold.key.agent_id, error.detail)
                return self._put_off(hold, error)
            return MessageRefused(self._clock.now(), message, _failure(error))
        except AosError as error:
            return MessageRefused(self._clock.now(), message, _failure(error))
        if message.accepted_at < binding.running_since:
            message = replace(message, deadline=max(message.deadline, binding.running_since + self.options.turn))
        return TurnStarted(self._clock.now(), message, binding.ref, binding.limits)

    async def _open(self, hold: _Hold) -> None:
        """Sees to it that there is a Foundry conversation in which a turn can begin."""
        if hold.state.unsettled:
            await self._settle(hold)
        if hold.state.remote_id is None:
            remote_id = await self._foundry.open_conversation(hold.key)
            hold.state = replace(hold.state, remote_id=remote_id)

    async def _settle(self, hold: _Hold) -> None:
        """Looks up what the last turn left in the Foundry conversation, so that the next one is not refused for it."""
        state = hold.state
        if state.remote_id is None:
            self._apply(hold, Settled(None, ()))
            return
        try:
            items = await self._foundry.items_after(state.remote_id, state.anchor)
        except ConversationGone as error:
            log.warning("conversation %s/%s: %s", *hold.key, error.detail)
            hold.state = replace(state, remote_id=error.successor)
            self._apply(hold, Settled(None, ()))
            return
        self._apply(hold, settle(items, state.anchor, state.orphans))

    def _put_off(self, hold: _Hold, error: TransientError) -> PutOff:
        hold.wake = _back_off(hold.state.retries, error.retry_after)
        return PutOff(self._clock.now() + hold.wake)

    def _apply(self, hold: _Hold, event: Event) -> None:
        state, effects = step(hold.state, event, self.options.limits)
        if state is not hold.state:
            hold.state = state
            hold.changed = True
        for effect in effects:
            if isinstance(effect, Record):
                hold.operations[effect.operation.operation_id] = effect.operation

    async def _save(self, hold: _Hold, *, release: bool) -> None:
        """Writes state, consumed arrivals and operations at once, and with them takes, keeps or frees the lease."""
        if hold.held and not hold.changed and not release:
            return
        operations = tuple(hold.operations.values())
        async with hold.lock:
            until = 0.0 if release else self._clock.now() + self.options.lease
            hold.lease = Lease("" if release else self._owner, until, hold.lease.fence)
            change = Change(hold.state, hold.lease, tuple(hold.taken_messages), tuple(hold.taken_arrivals), operations)
            hold.etag = await self._store.commit(hold.key, hold.etag, change)
            hold.held = not release
        hold.changed = False
        hold.taken_messages.clear()
        hold.taken_arrivals.clear()
        hold.operations.clear()
        if not release and self._keeper is None:
            self._keeper = self._spawn(self._keep_leases(), "lease keeper")
        for operation in operations:
            self.progress.saved(operation)
            if operation.final:
                self._tell(operation)

    # --- the model

    async def _ask(self, hold: _Hold) -> Event:
        """One model step, tried while Foundry is unavailable and patience lasts."""
        turn, recovering = hold.state.turn, hold.recovering
        assert turn is not None  # noqa: S101 - `_work` asks only in phase `model`
        hold.recovering = False
        gives_up = self._clock.now() + self.options.patience
        attempt = 0
        while True:
            try:
                with self.breakers.of(turn.agent.deployment).guard():
                    return await self._model_step(hold, recovering)
            except TransientError as error:
                recovering = recovering or not isinstance(error, FoundryUnavailable) or error.sent
                delay = _back_off(attempt, error.retry_after, first=0.1)
                attempt += 1
                if self._clock.now() + delay < min(gives_up, turn.deadline):
                    await self._clock.sleep(delay)
                    continue
                log.warning("model step of %s put off: %s", turn.message.operation_id, error.detail)
                return self._put_off(hold, error)
            except AgentGone as error:
                await self._agents.forget(hold.key.agent_id)
                return ModelFailed(self._clock.now(), turn.step, _failure(error))
            except AosError as error:
                return ModelFailed(self._clock.now(), turn.step, _failure(error))

    async def _model_step(self, hold: _Hold, recovering: bool) -> Event:
        turn, remote_id = hold.state.turn, hold.state.remote_id
        assert turn is not None  # noqa: S101 - see `_ask`
        assert remote_id is not None  # noqa: S101 - opened before the turn started
        outputs, text = turn.outputs, turn.message.text if turn.step == 1 else None
        reply: ModelReply | None = None
        try:
            if recovering:
                items = await self._foundry.items_after(remote_id, hold.state.anchor)
                reply, outputs, text = missing_input(items, outputs, text, turn.model or turn.agent.deployment)
            if reply is None:
                timeout = max(1.0, min(self.options.model_timeout, turn.deadline - self._clock.now()))
                on_text = self.progress.on_text(turn.message.operation_id)
                reply = await self._foundry.respond(turn.agent, remote_id, outputs, text, timeout, on_text=on_text)
        except ConversationGone as error:
            if hold.reopened:
                raise
            hold.reopened = True
            log.warning("conversation %s/%s: %s", *hold.key, error.detail)
            successor = error.successor or await self._foundry.open_conversation(hold.key)
            return ConversationLost(self._clock.now(), turn.step, successor)
        hold.reopened = False
        planned: tuple[PlannedCall, ...] = ()
        if reply.calls:
            binding = await self._agents.bound_to(hold.key.agent_id, turn.agent)
            planned = tuple(binding.plan(call) for call in reply.calls)
        return ModelAnswered(self._clock.now(), turn.step, reply, planned)

    # --- around

    async def sweep(self, limit: int = 100) -> int:
        """Looks after turns that are due: resumes what a dead process left behind, applies deadlines.

        Returns:
            How many entries were looked at.
        """
        entries = await self._store.due(self._clock.now(), limit)
        gate = asyncio.Semaphore(8)

        async def look(entry: Due) -> None:
            async with gate:
                over = await self._over(entry)
                if over is None:
                    if self._clock.now() - entry.at > UNFINISHED:
                        await self._store.move_due(entry, None)
                    return
                again = self._clock.now() + SWEEP_INTERVAL
                try:
                    if not over:
                        await self.drive(entry.key)
                        over = await self._over(entry)
                        if over is False:
                            again = await self._next_look(entry, again)
                finally:
                    # Also when that failed: entries that always fail must not keep the sweep from the others.
                    await self._store.move_due(entry, None if over else again)

        results = await asyncio.gather(*map(look, entries), return_exceptions=True)
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, AosError):
                level = logging.WARNING if isinstance(result, TransientError) else logging.ERROR
                log.log(level, "sweep of %s/%s: %s", *entry.key, result.detail)
            elif isinstance(result, BaseException):
                raise result
        return len(entries)

    async def _next_look(self, entry: Due, latest: float) -> float:
        """Soon after the lease of an owner elsewhere ends, who may have died."""
        lease = (await self._store.read(entry.key)).lease
        now = self._clock.now()
        if lease.owner in ("", self._owner) or lease.until <= now:
            return latest
        return min(latest, lease.until + AFTER_LEASE)

    async def _over(self, entry: Due) -> bool | None:
        """Whether nothing remains to be done for the operation: it ended, and its reply is out. None: there is none."""
        operation = await self._store.operation(entry.operation_id)
        if operation is None:
            return None
        if not operation.final:
            return False
        state = (await self._store.read(entry.key)).state
        return all(
            out.kind not in ("reply", "park") or out.operation.operation_id != entry.operation_id
            for out in state.outbox
        )

    async def close(self, grace: float = 10.0) -> None:
        """Lets running turns go on for up to `grace` seconds, then leaves them to the next owner."""
        turns = self._tasks - {self._keeper}
        if turns:
            await asyncio.wait(turns, timeout=grace)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _keep_leases(self) -> None:
        """Renews the leases that this process holds; ends when it holds none."""
        try:
            while self._holds:
                await self._clock.sleep(self.options.renew / 2)
                for hold in self._holds:
                    # A hold that is being written gets its time by that; none waits for a slow one.
                    if not hold.lock.locked():
                        self._spawn(self._renew(hold), f"lease of {hold.key.agent_id}/{hold.key.conversation_id}")
        finally:
            self._keeper = None

    async def _renew(self, hold: _Hold) -> None:
        async with hold.lock:
            now = self._clock.now()
            if not hold.held or hold.etag is None or hold.lease.until - now > self.options.lease - self.options.renew:
                return
            lease = replace(hold.lease, until=now + self.options.lease)
            try:
                hold.etag = await self._store.renew(hold.key, hold.etag, lease)
                hold.lease = lease
            except Conflict:
                # Its next save finds the same and discards the step.
                hold.held = False
            except TransientError as error:
                log.warning("could not renew the lease of %s/%s: %s", *hold.key, error.detail)

    def _tell(self, operation: Operation) -> None:
        for waiter in self._waiters.get(operation.operation_id, ()):
            if not waiter.done():
                waiter.set_result(operation)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, TransientError):
            log.warning("%s stopped: %s The sweep goes on from there.", task.get_name(), error.detail)
        elif error is not None:
            log.error("%s stopped", task.get_name(), exc_info=error)


def parked_call(operation: Operation, approval_id: str) -> ToolCall | None:
    """The call that waits, or waited, for this approval."""
    calls = operation.tool_calls
    return next((call for call in calls if call.request_id == approval_id and call.approval is not None), None)


def _approval_state(operation: Operation, approval_id: str) -> ApprovalState | None:
    call = parked_call(operation, approval_id)
    return None if call is None or call.approval is None else call.approval.state


def _hold(snapshot: Snapshot, key: ConversationKey, lease: Lease) -> _Hold:
    turn = snapshot.state.turn
    return _Hold(
        key=key,
        state=snapshot.state,
        lease=lease,
        etag=snapshot.etag,
        inbox=list(snapshot.inbox),
        arrivals=snapshot.arrivals[:BATCH],
        recovering=turn is not None and turn.phase == "model",
    )


def _replayed(hold: _Hold, operation: Operation) -> bool:
    """Whether a further attempt of an operation has begun: what became of the last one is history."""
    turn = hold.state.turn
    return turn is not None and turn.message.operation_id == operation.operation_id


def _back_off(attempt: int, retry_after: float | None, *, first: float = 1.0) -> float:
    """Seconds to wait: doubling from `first` to 5 minutes with jitter, and not less than the service asked for."""
    delay = min(first * 2.0 ** min(attempt, 16), 300.0)
    return max(delay * random.uniform(0.8, 1.2), retry_after or 0.0)  # noqa: S311 - jitter, not a secret


def _failure(error: AosError) -> Failure:
    return Failure(error.code, error.title, error.detail)
