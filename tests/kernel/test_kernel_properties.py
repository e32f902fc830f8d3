"""Two kernels that share one store, in a world where anything may fail at any time.

Whatever happens, once the world is whole again: every accepted operation ended, once, in the order of acceptance; every
tool request ran at most once; every sender that wants to know was told how it ended, and only when that was saved.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aos.errors import TransientError
from aos.kernel.kernel import Kernel
from aos.kernel.ports import Acceptance, Change
from aos.kernel.types import ConversationKey, Message, Operation, ToolResult
from aos.storage.memory import MemoryConversations
from tests.kernel.world import Fault, Killed, LoopClock, Process, VirtualLoop, World

KEYS = [ConversationKey("ceo", "main"), ConversationKey("ceo", "other"), ConversationKey("cfo", "main")]
FAULTS: list[Fault] = list(get_args(Fault))
ORDERS = ["talk", "1: one tool", "3: tools", "1,2: tools twice", "2: refused"]


class WatchedConversations(MemoryConversations):
    """A store that sees to it that nothing is saved which must not be."""

    def __init__(self) -> None:
        super().__init__(LoopClock())
        self.accepted: defaultdict[ConversationKey, list[Message]] = defaultdict(list)
        self.ended: dict[str, Operation] = {}
        self.order: defaultdict[ConversationKey, list[str]] = defaultdict(list)

    async def accept(self, acceptance: Acceptance) -> tuple[Operation, bool]:
        operation, new = await super().accept(acceptance)
        if new:
            self.accepted[acceptance.key].append(acceptance.message)
        return operation, new

    async def commit(self, key: ConversationKey, etag: str | None, change: Change) -> str:
        fence = (await self.read(key)).lease.fence
        written = await super().commit(key, etag, change)
        assert change.lease.fence >= fence, "an older owner wrote"
        for operation in change.operations:
            known = self.ended.get(operation.operation_id)
            assert known in (None, operation), "an operation changed after its end"
            if operation.final and known is None:
                self.ended[operation.operation_id] = operation
                self.order[key].append(operation.operation_id)
        return written


class Chaos(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.store = WatchedConversations()
        self.world = World(store=self.store)
        self.world.start()
        self.messages: list[tuple[ConversationKey, Message]] = []

    def processes(self) -> list[Process]:
        """The living ones, at least two."""
        while sum(process.alive for process in self.world.processes) < 2:
            self.world.start()
        return [process for process in self.world.processes if process.alive]

    async def _send(self, process: Process, key: ConversationKey, message: Message, *, drive: bool) -> None:
        try:
            await process.kernel.accept(key, message, message.text, fresh=False)
        except (TransientError, Killed):
            return
        if drive:
            self.world.deliver(lambda kernel: kernel.drive(key))

    # --- what comes from outside

    @rule(
        key=st.sampled_from(KEYS),
        orders=st.sampled_from(ORDERS),
        reply=st.booleans(),
        drive=st.booleans(),
        which=st.integers(0, 1),
    )
    def message(self, key: ConversationKey, orders: str, reply: bool, drive: bool, which: int) -> None:
        async def send() -> None:
            process = self.processes()[which]
            message = self.world.message(f"{orders} {len(self.messages)}", reply=reply)
            self.messages.append((key, message))
            self.world.accepted.append((key, message))
            await self._send(process, key, message, drive=drive)

        self.runner.run(send())

    @rule(data=st.data(), which=st.integers(0, 1))
    def message_again(self, data: st.DataObject, which: int) -> None:
        if self.messages:
            key, message = data.draw(st.sampled_from(self.messages))
            process = self._living(which)
            self.runner.run(self._send(process, key, message, drive=True))

    def _living(self, which: int) -> Process:
        async def find() -> Process:
            return self.processes()[which]

        return self.runner.run(find())

    @rule(data=st.data())
    def result_again(self, data: st.DataObject) -> None:
        if self.world.ledger:
            request_id = data.draw(st.sampled_from(sorted(self.world.ledger)))
            self._in_world(lambda: self.world.result(request_id))

    @rule(key=st.sampled_from(KEYS))
    def result_of_nobody(self, key: ConversationKey) -> None:
        async def deliver(kernel: Kernel) -> None:
            await kernel.add_result(key, ToolResult("op_x.1.0", "of nobody"))

        self._in_world(lambda: self.world.deliver(deliver))

    @rule(which=st.integers(0, 1))
    def sweep(self, which: int) -> None:
        process = self._living(which)
        self._in_world(lambda: process.do(process.kernel.sweep()))

    def _in_world(self, work: object) -> None:
        async def do() -> None:
            assert callable(work)
            work()

        self.runner.run(do())

    # --- time

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 1.0, 2.0, 31.0, 61.0, 130.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([5.0, 40.0, 700.0]))
    def time_jumps(self, seconds: float) -> None:
        loop = self.runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        loop.jump(seconds)

    # --- what goes wrong

    @rule(which=st.integers(0, 1), contacts=st.integers(1, 25))
    def process_will_die(self, which: int, contacts: int) -> None:
        process = self._living(which)
        process.kill_at = process.points + contacts

    @rule(which=st.integers(0, 1))
    def process_dies(self, which: int) -> None:
        process = self._living(which)
        self._in_world(process.kill)

    @rule(fault=st.sampled_from(FAULTS))
    def step_will_fail(self, fault: Fault) -> None:
        self.world.foundry.faults.append(fault)

    @rule(down=st.booleans())
    def foundry_down(self, down: bool) -> None:
        self.world.foundry.down = down

    @rule(down=st.booleans())
    def bus_down(self, down: bool) -> None:
        self.world.bus.down = down

    @rule(down=st.booleans())
    def storage_down(self, down: bool) -> None:
        self.world.storage_down = down

    @rule()
    def conversations_vanish(self) -> None:
        self.world.foundry.forget()

    @rule(state=st.sampled_from(["ready", "starting", "disabled"]))
    def agent_changes(self, state: str) -> None:
        self.world.agents.state = "ready" if state == "ready" else "starting" if state == "starting" else "disabled"
        self.world.agents.version += 1

    @rule(answer=st.booleans(), latency=st.sampled_from([0.0, 1.0, 50.0, 120.0]))
    def tools_change(self, answer: bool, latency: float) -> None:
        self.world.bus.tools_answer = answer
        self.world.bus.latency = latency

    @rule(come=st.booleans())
    def wakes_get_lost(self, come: bool) -> None:
        self.world.bus.wakes_come = come

    # --- what always holds

    @invariant()
    def nothing_broke(self) -> None:
        assert not self.world.errors

    @invariant()
    def operations_end_in_the_order_of_acceptance(self) -> None:
        for key, ended in self.store.order.items():
            accepted = [message.operation_id for message in self.store.accepted[key]]
            assert ended == accepted[: len(ended)]

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
        world.foundry.down = world.bus.down = world.storage_down = False
        world.foundry.faults.clear()
        world.agents.state = "ready"
        world.bus.tools_answer = world.bus.wakes_come = True
        world.bus.latency = 1.0
        for process in self.processes():
            process.kill_at = None
        # A conversation may need one more turn to get over what a lost step left behind.
        for number in range(2):
            for key in KEYS:
                await self._until_all_ended()
                message = world.message(f"after all {key} {number}", reply=True)
                world.accepted.append((key, message))
                await self._send(self.processes()[0], key, message, drive=True)
        await self._until_all_ended()
        await asyncio.sleep(700.0)
        await self._sweep()
        assert not world.errors
        assert await store.due(world.now + 1e9, 10) == []
        for key in KEYS:
            snapshot = await store.read(key)
            assert (snapshot.inbox, snapshot.results, snapshot.state.outbox, snapshot.lease.owner) == ((), (), (), "")
            assert snapshot.state.turn is None
            accepted = store.accepted[key]
            assert store.order[key] == [message.operation_id for message in accepted]
            assert store.ended[accepted[-1].operation_id].status == "completed"
            for message in accepted:
                self._check(message)
        world.check()

    def _check(self, message: Message) -> None:
        operation = self.store.ended[message.operation_id]
        replies = self.world.bus.replies.get(message.operation_id, [])
        assert bool(replies) == (message.reply_to is not None)
        assert all(reply == operation for reply in replies)
        if operation.status == "completed":
            assert operation.reply is not None
            assert operation.reply.startswith(f"answer to {message.text}: ")
        else:
            assert operation.error is not None
        ran = {request_id for request_id in self.world.ledger if request_id.startswith(f"{message.operation_id}.")}
        made = {call.request_id for call in operation.tool_calls if call.status != "refused"}
        assert ran <= made

    async def _until_all_ended(self) -> None:
        for _ in range(200):
            await asyncio.sleep(10.0)
            accepted = [message.operation_id for messages in self.store.accepted.values() for message in messages]
            if all(operation_id in self.store.ended for operation_id in accepted):
                return
            await self._sweep()
        raise AssertionError(f"never ended: {set(accepted) - set(self.store.ended)}")

    async def _sweep(self) -> None:
        try:
            await self.processes()[0].kernel.sweep()
        except TransientError as error:
            raise AssertionError("nothing is unavailable any more") from error


TestChaos = Chaos.TestCase
TestChaos.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
