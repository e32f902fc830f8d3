"""Two kernels that share one store, in a world where anything may fail at any time.

Whatever happens, once the world is whole again: every accepted operation ended, once, in the order of acceptance; every
tool request ran at most once; every sender that wants to know was told how it ended, and only when that was saved.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aos.errors import ApprovalSettled, Conflict, OperationFinal, TransientError, UnknownApproval, UnknownOperation
from aos.kernel.kernel import KernelOptions
from aos.kernel.ports import Acceptance, Change
from aos.kernel.records import replace
from aos.kernel.types import ConversationKey, Decision, Message, Operation, ToolResult
from aos.storage.memory import MemoryConversations
from tests.kernel.neighbours import Board
from tests.kernel.process import Killed, Process
from tests.kernel.remote import Fault, Summaries
from tests.kernel.virtual_time import LoopClock, VirtualLoop
from tests.kernel.world import World

KEYS = [ConversationKey("ceo", "main"), ConversationKey("ceo", "other"), ConversationKey("cfo", "main")]
FAULTS: list[Fault] = list(get_args(Fault))
SUMMARIES: list[Summaries] = list(get_args(Summaries))
WHICH = st.integers(0, 1)
SOON = st.sampled_from([0.0, 0.2, 0.7, 3.0])
TROUBLES = [
    "foundry",
    "bus",
    "storage",
    "conversations",
    "disabled",
    "starting",
    "stopped",
    "broken",
    "slow tools",
    "last result first",
    "conflict",
    "no tools",
    "no wake-ups",
]
ORDERS = [
    "talk",
    "1: one tool",
    "3: tools",
    "1,2: tools twice",
    "2: refused",
    "2: approve",
    "1,1: approve",
    "1: ask cto/1: one tool",
]


class WatchedConversations(MemoryConversations):
    """A store that sees to it that nothing is saved which must not be."""

    def __init__(self) -> None:
        super().__init__(LoopClock())
        self.accepted: defaultdict[ConversationKey, list[Message]] = defaultdict(list)
        self.ended: dict[str, Operation] = {}
        self.order: defaultdict[ConversationKey, list[str]] = defaultdict(list)
        self.replayed: set[str] = set()
        self.conflicts = 0
        """How many writes are refused, as if somebody else had written in between."""

    async def accept(self, acceptance: Acceptance) -> tuple[Operation, bool]:
        operation, new = await super().accept(acceptance)
        if new:
            self.accepted[acceptance.key].append(acceptance.message)
            if (known := self.ended.pop(operation.operation_id, None)) is not None:
                assert known.status != "completed", "what was done is done again"
                assert operation.attempt > known.attempt, "what failed begins again by itself"
                self.replayed.add(operation.operation_id)
        return operation, new

    async def commit(self, key: ConversationKey, etag: str | None, change: Change) -> str:
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict("Somebody else wrote.")
        fence = (await self.read(key)).lease.fence
        written = await super().commit(key, etag, change)
        assert change.lease.fence >= fence, "an older owner wrote"
        for operation in change.operations:
            known = self.ended.get(operation.operation_id)
            assert known in (None, operation), "an operation changed after its end"
            if operation.final and known is None:
                self.ended[operation.operation_id] = operation
                self.order[key].append(operation.operation_id)
                if operation.operation_id in self.replayed:
                    self._forget(key, operation.operation_id)
        return written

    def _forget(self, key: ConversationKey, operation_id: str) -> None:
        """Leaves the earlier attempts of what was replayed out of the orders."""
        self.replayed.discard(operation_id)
        first = self.order[key].index(operation_id)
        del self.order[key][first]
        (older, *_) = [message for message in self.accepted[key] if message.operation_id == operation_id]
        self.accepted[key].remove(older)


class Chaos(RuleBasedStateMachine):
    @initialize(context_tokens=st.sampled_from([25, 1_000_000]), summaries=st.sampled_from(SUMMARIES))
    def begin(self, context_tokens: int, summaries: Summaries) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.runner.run(self._begin(context_tokens, summaries))

    async def _begin(self, context_tokens: int, summaries: Summaries) -> None:
        """With few tokens, conversations are rolled over all the time."""
        self.store = WatchedConversations()
        self.world = World(KernelOptions(turn=150.0, context_tokens=context_tokens), self.store, Board())
        self.world.foundry.counted = True
        self.world.foundry.summaries = summaries
        self.world.agents.time_limit = 40.0
        self.world.foundry.late = 60.0
        self.world.start()
        self.twice = False
        self.messages: list[tuple[ConversationKey, Message]] = []

    @property
    def loop(self) -> VirtualLoop:
        loop = self.runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return loop

    def processes(self) -> list[Process]:
        """The living ones, at least two."""
        while sum(process.alive for process in self.world.processes) < 2:
            self.world.start()
        return [process for process in self.world.processes if process.alive]

    def living(self, which: int) -> Process:
        async def find() -> Process:
            return self.processes()[which]

        return self.runner.run(find())

    async def _send(
        self, process: Process, key: ConversationKey, message: Message, deployment: str | None = None
    ) -> None:
        """With a deployment it is refused while that one's circuit is open, and nobody sends it again."""
        try:
            await process.kernel.accept(key, message, message.text, fresh=False, deployment=deployment)
        except (TransientError, Killed):
            return
        process.do(process.kernel.drive(key))

    def at(self, moment: Callable[[], object], then: float = 0.0) -> None:
        """Does something in the world, and lets it live on for a while."""

        async def live() -> None:
            moment()
            await asyncio.sleep(then)

        self.runner.run(live())

    # --- what comes from outside

    @rule(key=st.sampled_from(KEYS), orders=st.sampled_from(ORDERS), reply=st.booleans(), which=WHICH, then=SOON)
    def message(self, key: ConversationKey, orders: str, reply: bool, which: int, then: float) -> None:
        async def send() -> None:
            message = self.world.message(f"{orders} {len(self.messages)}", reply=reply)
            self.messages.append((key, message))
            self.world.accepted.append((key, message))
            await self._send(self.processes()[which], key, message, "llama")
            await asyncio.sleep(then)

        self.runner.run(send())

    @rule(key=st.sampled_from(KEYS), orders=st.sampled_from(ORDERS), which=WHICH, contacts=st.integers(1, 40))
    def message_whose_process_dies(self, key: ConversationKey, orders: str, which: int, contacts: int) -> None:
        self.process_will_die(which, contacts)
        self.message(key, orders, True, which, 1.0)

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), which=WHICH, then=SOON)
    def something_again(self, data: st.DataObject, which: int, then: float) -> None:
        requests = sorted(self.world.ledger)
        what = data.draw(
            st.sampled_from(
                ["message", "sweep", "drive", "replay", *(["result", "result of nobody"] if requests else [])]
            )
        )
        key, message = data.draw(st.sampled_from(self.messages))
        process = self.living(which)
        match what:
            case "message":
                self.runner.run(self._send(process, key, message))
            case "sweep":
                self.at(lambda: process.do(process.kernel.sweep()), then)
            case "drive":
                self.at(lambda: process.do(process.kernel.drive(key)), then)
            case "result":
                request_id = data.draw(st.sampled_from(requests))
                self.at(lambda: self.world.result(request_id), then)
            case "replay":
                known = self.store.ended.get(message.operation_id)
                if known is not None and known.status == "failed":
                    self.twice = True
                    again = replace(message, attempt=known.attempt + 1, deadline=known.updated_at + 1000.0)
                    self.runner.run(self._send(process, key, again))
            case "result of nobody":
                result = ToolResult("op_x.1.0", "of nobody")
                self.at(lambda: self.world.deliver(lambda kernel: kernel.add_result("op_x", result)), then)

    @precondition(lambda self: self.world.bus.approvals)
    @rule(data=st.data(), which=WHICH, approve=st.booleans(), then=SOON)
    def decision(self, data: st.DataObject, which: int, approve: bool, then: float) -> None:
        approval_id = data.draw(st.sampled_from(sorted({record.approval_id for record in self.world.bus.approvals})))
        process = self.living(which)
        self.at(lambda: process.do(self._decide(process, approval_id, approve)), then)

    async def _decide(self, process: Process, approval_id: str, approve: bool) -> None:
        # Unknown: of an earlier attempt, which was replayed.
        with suppress(ApprovalSettled, UnknownApproval):
            operation = await process.kernel.decide(Decision(approval_id, approve, "ada"))
            (state,) = {
                call.approval.state for call in operation.tool_calls if call.request_id == approval_id and call.approval
            }
            assert state in ("pending", "approved" if approve else "rejected")

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), which=WHICH, then=SOON)
    def cancellation(self, data: st.DataObject, which: int, then: float) -> None:
        _, message = data.draw(st.sampled_from(self.messages))
        process = self.living(which)

        async def cancel() -> None:
            with suppress(OperationFinal, UnknownOperation):
                await process.kernel.cancel(message.operation_id, "me")

        self.at(lambda: process.do(cancel()), then)

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.0, 2.0, 10.0, 31.0, 61.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    # --- what goes wrong

    @rule(which=WHICH, contacts=st.integers(1, 25))
    def process_will_die(self, which: int, contacts: int) -> None:
        process = self.living(which)
        process.kill_at = process.points + contacts

    @rule(which=WHICH, grace=st.sampled_from([0.0, 1.0, 30.0]))
    def process_closes(self, which: int, grace: float) -> None:
        process = self.living(which)

        async def close() -> None:
            await process.kernel.close(grace)
            process.kill()

        self.runner.run(close())

    @rule(which=WHICH, seconds=st.sampled_from([5.0, 40.0, 100.0]))
    def process_stalls(self, which: int, seconds: float) -> None:
        """Before its next model steps."""
        process = self.living(which)

        async def stall() -> None:
            process.stalled = asyncio.Event()
            self.world.later(seconds, process.stalled.set)

        self.twice = True
        self.runner.run(stall())

    @rule(which=WHICH, at_once=st.booleans(), seconds=st.sampled_from([1.0, 40.0, 200.0]))
    def process_dies_or_time_jumps(self, which: int, at_once: bool, seconds: float) -> None:
        if at_once:
            self.at(self.living(which).kill)
        else:
            self.twice = True
            self.loop.jump(seconds)

    @rule(pauses=st.lists(st.sampled_from([0.0, 0.0, 0.1, 0.4, 1.0, 4.0, 40.0]), min_size=1, max_size=8))
    def the_wire_is_slow(self, pauses: list[float]) -> None:
        self.twice = self.twice or 40.0 in pauses
        self.world.pauses = itertools.cycle(pauses)

    @rule(fault=st.sampled_from(FAULTS))
    def step_will_fail(self, fault: Fault) -> None:
        self.world.foundry.faults.append(fault)

    @rule(trouble=st.sampled_from(TROUBLES), then=st.sampled_from([0.0, 0.6, 5.0, 100.0]))
    def trouble(self, trouble: str, then: float) -> None:
        world = self.world
        match trouble:
            case "foundry":
                world.foundry.down = True
            case "bus":
                world.bus.down = True
            case "storage":
                world.storage_down = True
            case "conversations":
                self.twice = True
                world.foundry.forget()
            case "disabled":
                world.agents.state = "disabled"
            case "starting":
                world.agents.state = "starting"
            case "stopped":
                world.agents.state = "stopped"
            case "broken":
                world.agents.state = "broken"
            case "slow tools":
                world.bus.latency = 50.0
            case "last result first":
                world.bus.last_first = True
            case "conflict":
                self.store.conflicts += 1
            case "no tools":
                world.bus.tools_answer = False
            case "no wake-ups":
                world.bus.wakes_come = False
        self.runner.run(asyncio.sleep(then))

    @rule()
    def recovery(self) -> None:
        self.at(self._recover)

    def _recover(self) -> None:
        world = self.world
        world.foundry.down = world.bus.down = world.storage_down = False
        if world.agents.state == "stopped":
            world.agents.running_since = world.now
            for agent_id in ("ceo", "cfo"):
                process = self.processes()[0]
                process.do(process.kernel.wake_agent(agent_id))
        world.agents.state = "ready"
        world.agents.version += 1
        world.bus.tools_answer = world.bus.wakes_come = True
        world.bus.latency = 1.0
        world.bus.last_first = False
        world.pauses = itertools.repeat(0.0)
        self.store.conflicts = 0

    # --- what always holds

    @invariant()
    def nothing_broke(self) -> None:
        assert not self.world.errors

    @invariant()
    def operations_end_in_the_order_of_acceptance(self) -> None:
        for key, order in self.store.order.items():
            ended = self.not_cancelled(order)
            accepted = [message.operation_id for message in self.store.accepted[key]]
            assert ended == self.not_cancelled(accepted)[: len(ended)]

    def not_cancelled(self, operations: list[str]) -> list[str]:
        """A message that waits may be cancelled before its turn comes."""
        ended = self.store.ended
        return [known for known in operations if known not in ended or ended[known].status != "cancelled"]

    # --- the end

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.runner.run(self._heal())
        finally:
            self.runner.run(self.world.end())
            self.runner.close()

    async def _heal(self) -> None:
        world, store = self.world, self.store
        self._recover()
        world.foundry.faults.clear()
        for process in self.processes():
            process.kill_at = None
        for key in KEYS:
            await self._until_all_ended()
            message = world.message(f"after all {key}", reply=True)
            world.accepted.append((key, message))
            await self._send(self.processes()[0], key, message)
        await self._until_all_ended()
        await asyncio.sleep(700.0)
        await self._sweep()
        assert not world.errors
        assert await store.due(world.now + 1e9, 10) == []
        for key in KEYS:
            snapshot = await store.read(key)
            assert (snapshot.inbox, snapshot.arrivals, snapshot.state.outbox, snapshot.lease.owner) == ((), (), (), "")
            assert snapshot.state.turn is None
            accepted = store.accepted[key]
            everything = [message.operation_id for message in accepted]
            assert self.not_cancelled(store.order[key]) == self.not_cancelled(everything)
            assert sorted(store.order[key]) == sorted(everything)
            assert store.ended[accepted[-1].operation_id].status == "completed"
            for message in accepted:
                self._check(message)
        # Only an owner that stalls beyond its lease, or a conversation that vanished, makes a step happen twice.
        assert self.twice or set(world.foundry.steps.values()) <= {1}
        world.check()

    def _check(self, message: Message) -> None:
        operation = self.store.ended[message.operation_id]
        replies = self.world.bus.replies.get(message.operation_id, [])
        told = [reply for reply in replies if reply.attempt == operation.attempt]
        assert bool(told) == (message.reply_to is not None)
        assert all(reply == operation for reply in told)
        assert replies == sorted(replies, key=lambda reply: reply.attempt), "told of an attempt after the next one"
        if operation.status == "completed":
            assert operation.reply is not None
            assert operation.reply.startswith(f"answer to {message.text}: ")
        else:
            assert operation.error is not None
            assert operation.error.code != "foundry_refused", "asked for what the conversation does not allow"
        for call in operation.tool_calls:
            if call.approval is not None and call.request_id in self.world.ledger:
                assert call.approval.state == "approved"
        begins = (
            f"{message.operation_id}." if operation.attempt == 1 else f"{message.operation_id}.{operation.attempt}-"
        )
        ran = {request_id for request_id in self.world.ledger if re.fullmatch(rf"{begins}\d+\.\d+", request_id)}
        made = {call.request_id for call in operation.tool_calls if call.status not in ("refused", "rejected")}
        assert ran <= made

    async def _until_all_ended(self) -> None:
        for _ in range(200):
            await asyncio.sleep(10.0)
            accepted = [message.operation_id for messages in self.store.accepted.values() for message in messages]
            if all(operation_id in self.store.ended for operation_id in accepted):
                return
            await self._decide_all(set(accepted) - set(self.store.ended))
            await self._sweep()
        raise AssertionError(f"never ended: {set(accepted) - set(self.store.ended)}")

    async def _decide_all(self, running: set[str]) -> None:
        """As far as they are known: what nobody decides expires after a day."""
        for operation_id in sorted(running):
            operation = await self.store.operation(operation_id)
            for call in operation.tool_calls if operation is not None else ():
                if call.parked:
                    await self._decide(self.processes()[0], call.request_id, True)

    async def _sweep(self) -> None:
        try:
            await self.processes()[0].kernel.sweep()
        except TransientError as error:
            raise AssertionError("nothing is unavailable any more") from error


TestChaos = Chaos.TestCase
TestChaos.settings = settings(max_examples=250, stateful_step_count=50, deadline=None, derandomize=True)
