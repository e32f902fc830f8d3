"""A world for the kernel to live in: time, Foundry, tools, senders, and processes that die at any await.

Everything runs on a loop whose time jumps instead of passing: hours take milliseconds, and every run is the same.
A process that was killed gets nothing done any more, while Foundry and the tools go on without it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import selectors
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from aos.errors import (
    AgentDisabled,
    AgentNotReady,
    AgentStopped,
    BusUnavailable,
    ConversationGone,
    FoundryRefused,
    FoundryUnavailable,
    RequestRefused,
    StorageUnavailable,
    TransientError,
    UnknownAgent,
)
from aos.kernel.breaker import Trip
from aos.kernel.events import PlannedCall
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.observing import Observer
from aos.kernel.ports import (
    Acceptance,
    AgentSpec,
    Change,
    ConversationStore,
    Due,
    HistoryEntry,
    Lease,
    RemoteItem,
    Snapshot,
)
from aos.kernel.rollover import ALREADY_CALLED, SUMMARY_REQUEST, message_of
from aos.kernel.types import (
    AgentRef,
    ApprovalRecord,
    Arrival,
    ConversationKey,
    FunctionCall,
    Limits,
    Message,
    ModelReply,
    Operation,
    Outgoing,
    Park,
    ReplyAddress,
    SendTool,
    ToolOutput,
    ToolResult,
    Usage,
)
from aos.storage.memory import MemoryConversations

T = TypeVar("T")
EPOCH = 1_000_000.0
KEY = ConversationKey("ceo", "main")
OTHER = ConversationKey("ceo", "other")


# --- time


class Stuck(AssertionError):
    """Everybody waits for somebody else: a wake-up was lost."""


class _Selector(selectors.SelectSelector):
    elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck
            self.elapsed += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing can run."""

    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed

    def jump(self, seconds: float) -> None:
        """Time goes by while nothing runs, as when the machine sleeps."""
        self._jumping.elapsed += seconds


class LoopClock:
    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(
    scenario: Callable[[World], Coroutine[Any, Any, T]],
    options: KernelOptions | None = None,
    board: Board | None = None,
    observer: Observer | None = None,
) -> T:
    """Runs a scenario in a world of its own, and checks what must be true of every world."""

    async def live() -> T:
        world = World(options, board=board, observer=observer)
        try:
            result = await asyncio.wait_for(scenario(world), 100_000.0)
            await world.settle()
            world.check()
        finally:
            await world.end()
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(live())


# --- Foundry

Fault = Literal["refuse", "rate limit", "never sent", "lost request", "lost answer", "late answer", "too long", "bug"]
Summaries = Literal["text", "tools", "nothing", "refused", "late"]


@dataclass(slots=True)
class Remote:
    """A conversation as Foundry keeps it."""

    items: list[RemoteItem] = field(default_factory=list)
    locked: bool = False

    def add(self, kind: str, **content: str) -> RemoteItem:
        item = RemoteItem(f"item_{id(self)}_{len(self.items)}", kind, **content)
        self.items.append(item)
        return item

    @property
    def unanswered(self) -> set[str]:
        calls = {item.call_id for item in self.items if item.kind == "call"}
        return calls - {item.call_id for item in self.items if item.kind == "output"}

    @property
    def tokens(self) -> int:
        return sum(1 + (len(item.text) + len(item.arguments)) // 4 for item in self.items)


class Foundry:
    """The service. The input appears when a step starts, the output when it completes, whoever still listens.

    The model reads its orders in the last user message: `2,1: text` makes two calls, then one, then answers. Calls of
    a text with `approve` in it need an approval (all but the first of a step, if `Agents.mixed`). What was carried over
    from another conversation is no order; a model that is told of calls made for the message makes none again. The
    calls of `2: ask cfo/text` are two questions to agent `cfo`.

    Attributes:
        window: Tokens that a conversation may hold.
        counted: Whether usage says how long the conversation is.
        summaries: What it answers when it is asked for one.
    """

    def __init__(self) -> None:
        self.remotes: dict[str, Remote] = {}
        self.opened = 0
        self.down = False
        self.latency = 0.5
        self.pace = 0.1
        self.late = 200.0
        self.faults: list[Fault] = []
        self.steps: Counter[tuple[str, int]] = Counter()
        self.requests = 0
        self.asked = 0
        self.last_agent: AgentRef | None = None
        self.running: set[asyncio.Task[ModelReply]] = set()
        self.window = 1_000_000
        self.counted = False
        self.summaries: Summaries = "text"
        self.summed_up = 0
        self.truncated = False

    def forget(self) -> None:
        self.remotes.clear()

    def available(self) -> None:
        self.asked += 1
        if self.down:
            raise FoundryUnavailable("Foundry is down.", sent=False)

    def open(self) -> str:
        self.available()
        self.opened += 1
        self.remotes[f"conv_{self.opened}"] = Remote()
        return f"conv_{self.opened}"

    def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        self.available()
        items = self._remote(remote_id).items
        ids = [item.item_id for item in items]
        return items[ids.index(anchor) + 1 :] if anchor is not None else list(items)

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> ModelReply:
        self.available()
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else None
        match fault:
            case "refuse":
                raise FoundryRefused("The content filter refused the message.", code="content_filter")
            case "rate limit":
                raise FoundryUnavailable("Too many requests.", sent=False, retry_after=8.0, code="rate_limited")
            case "bug":
                raise RuntimeError("a bug in the adapter")
            case "never sent":
                raise FoundryUnavailable("No connection.", sent=False)
            case "lost request":
                raise FoundryUnavailable("The connection broke.", sent=True)
        remote = self._remote(remote_id)
        if remote.locked:
            raise FoundryUnavailable("A step is running.", sent=True, code="conversation_locked")
        said = sum(1 + len(output.output) // 4 for output in outputs) + len(text or "") // 4
        if fault == "too long" or remote.tokens + said > self.window:
            raise FoundryRefused("The input exceeds the context window.", code="context_length_exceeded")
        summary = text == SUMMARY_REQUEST
        if summary and self.summaries == "refused":
            raise FoundryRefused("The content filter refused the message.", code="content_filter")
        self.last_agent = agent
        self._take(remote, outputs, text)
        late = fault == "late answer" or (summary and self.summaries == "late")
        step = asyncio.create_task(self._step(remote, self.late if late else self.latency, on_text))
        self.running.add(step)
        step.add_done_callback(self.running.discard)
        if fault == "lost answer":
            await asyncio.wait({step})
            raise FoundryUnavailable("The connection broke.", sent=True)
        done, _ = await asyncio.wait({step}, timeout=timeout)
        if not done:
            raise FoundryUnavailable("No answer in time.", sent=True)
        return step.result()

    def _remote(self, remote_id: str) -> Remote:
        if remote_id not in self.remotes:
            raise ConversationGone(f"No conversation {remote_id}.")
        return self.remotes[remote_id]

    def _take(self, remote: Remote, outputs: Sequence[ToolOutput], text: str | None) -> None:
        given = [output.call_id for output in outputs]
        if not set(given) <= remote.unanswered or len(set(given)) != len(given):
            raise RequestRefused(f"No tool call found for the outputs {given}.")
        if remote.unanswered - set(given):
            raise RequestRefused(f"No tool output found for {remote.unanswered - set(given)}.")
        if not given and text is None and (not remote.items or remote.items[-1].kind in ("text", "call")):
            raise RequestRefused("Nothing to answer.")
        for output in outputs:
            remote.add("output", call_id=output.call_id, text=output.output)
        if text is not None:
            remote.add("user", text=text)

    async def _step(self, remote: Remote, latency: float, on_text: Callable[[str], None] | None) -> ModelReply:
        remote.locked = True
        await asyncio.sleep(latency)
        asked = max(index for index, item in enumerate(remote.items) if item.kind == "user")
        given = remote.items[asked].text
        orders = message_of(given)
        news = remote.items[asked + 1 :]
        number = 1 + len({item.call_id.split(".")[1] for item in news if item.kind == "call"})
        plan = [int(part) for part in orders.partition(":")[0].split(",") if part.isdigit()]
        if orders == SUMMARY_REQUEST:
            self.summed_up += 1
            plan = [1] if self.summaries == "tools" else []
        else:
            if ALREADY_CALLED in given:
                number = len(plan) + 1
            self.steps[orders, number] += 1
        before = remote.tokens
        calls: list[FunctionCall] = []
        if number <= len(plan):
            name = "unknown" if "refused" in orders else "read"
            for index in range(plan[number - 1]):
                call = FunctionCall(
                    f"{self.opened}_{len(remote.items)}.{number}.{index}", name, f'{{"for": "{orders}"}}'
                )
                remote.add("call", call_id=call.call_id, name=call.name, arguments=call.arguments)
                calls.append(call)
            text = ""
        else:
            heard = [item.text for item in news if item.kind == "output"]
            text = f"answer to {orders}: {' '.join(heard)}"
            if orders == SUMMARY_REQUEST:
                text = "" if self.summaries == "nothing" else f"summary {self.summed_up}"
            if on_text is not None:
                for piece in re.findall(r"\S+\s*", text):
                    on_text(piece)
                    await asyncio.sleep(self.pace)
            remote.add("text", text=text)
        remote.locked = False
        usage = Usage(before, remote.tokens - before, remote.tokens) if self.counted else Usage(1, 1, 2)
        return ModelReply(text, tuple(calls), usage, "llama", remote.items[-1].item_id, truncated=self.truncated)


# --- agents


@dataclass(frozen=True, slots=True)
class Binding:
    ref: AgentRef
    time_limit: float
    limits: Limits | None = None
    mixed: bool = False
    running_since: float = 0.0

    def plan(self, call: FunctionCall) -> PlannedCall:
        if call.name == "unknown":
            return PlannedCall(call, refusal="There is no tool named unknown.")
        if asks := re.match(r"[\d,]+: ask (\w+)/(.*)", json.loads(call.arguments)["for"]):
            question = replace(call, arguments=json.dumps({"message": asks[2]}))
            return PlannedCall(question, tool=asks[1], agent=asks[1])
        asked = "approve" in call.arguments and not (self.mixed and call.call_id.endswith(".0"))
        return PlannedCall(call, "files", "read", self.time_limit, approval=asked)


AgentState = Literal["ready", "starting", "stopped", "disabled", "unknown", "broken"]


class Agents:
    def __init__(self) -> None:
        self.state: AgentState = "ready"
        self.states: dict[str, AgentState] = {}
        """Of agents that are in another one."""
        self.running_since = 0.0
        self.version = 1
        self.time_limit = 90.0
        self.limits: Limits | None = None
        self.mixed = False
        self.forgotten: list[str] = []

    async def bind(self, agent_id: str) -> Binding:
        match self.states.get(agent_id, self.state):
            case "starting":
                raise AgentNotReady(f"Agent {agent_id} is starting.")
            case "stopped":
                raise AgentStopped(f"Agent {agent_id} is stopped.")
            case "disabled":
                raise AgentDisabled(f"Agent {agent_id} is disabled.")
            case "unknown":
                raise UnknownAgent(f"No agent {agent_id}.")
            case "broken":
                raise RuntimeError("a bug in the directory")
        return self._binding(agent_id)

    def _binding(self, agent_id: str) -> Binding:
        return Binding(
            AgentRef(f"aos-{agent_id}", str(self.version), f"hash {self.version}", "llama"),
            self.time_limit,
            self.limits,
            self.mixed,
            self.running_since,
        )

    async def bound_to(self, agent_id: str, ref: AgentRef) -> Binding:
        if self.state == "unknown":
            raise UnknownAgent(f"No agent {agent_id}.")
        return replace(self._binding(agent_id), ref=ref)


# --- tools, senders, and the bus between them


class Bus:
    """What the kernel sent, and the tools behind it: a ledger sees to it that a request runs once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.down = False
        self.tools_answer = True
        self.wakes_come = True
        self.latency = 1.0
        self.last_first = False
        """Whether of calls that are made together the last one answers first."""
        self.ledger: dict[str, tuple[SendTool, ToolResult]] = {}
        self.keys: dict[str, ConversationKey] = {}
        self.asked: list[str] = []
        self.replies: defaultdict[str, list[Operation]] = defaultdict(list)
        self.wakes: list[tuple[float, float]] = []
        self.parked: list[Park] = []
        self.approvals: list[ApprovalRecord] = []
        self.refused: dict[str, Exception] = {}

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        if self.down:
            raise BusUnavailable("The bus is down.")
        for effect in effects:
            if effect.kind in self.refused:
                raise self.refused[effect.kind]
            if effect.kind == "tool":
                self._run(key, effect)
            elif effect.kind == "park":
                self.parked.append(effect)
            elif effect.kind == "approval":
                self.approvals.append(effect.record)
            else:
                assert effect.kind == "reply", "what the kernel sees to itself"
                operation = effect.operation
                saved = await self.world.store.operation(operation.operation_id)
                assert operation.final
                assert saved is not None
                again = saved.attempt > operation.attempt
                assert again or saved == operation, "a reply before its operation was saved"
                self.replies[operation.operation_id].append(operation)

    def _run(self, key: ConversationKey, effect: SendTool) -> None:
        self.asked.append(effect.request_id)
        if effect.request_id not in self.ledger:
            self.ledger[effect.request_id] = effect, ToolResult(effect.request_id, f"<{effect.request_id}>")
            self.keys[effect.request_id] = key
        assert self.ledger[effect.request_id][0] == effect, "one request id for two requests"
        if self.tools_answer:
            latency = self.latency / (1 + len(self.asked)) if self.last_first else self.latency
            self.world.later(latency, lambda: self.world.result(effect.request_id))

    async def wake(self, key: ConversationKey, delay: float) -> None:
        if self.down:
            raise BusUnavailable("The bus is down.")
        if "wake" in self.refused:
            raise self.refused["wake"]
        self.wakes.append((self.world.now, delay))
        if self.wakes_come:
            self.world.later(delay, lambda: self.world.resume(key))


# --- processes


class Killed(asyncio.CancelledError):
    """The process is no more."""


class Process:
    """A kernel in a process of its own; it can be killed before and after everything that it asks of the world."""

    def __init__(self, world: World, name: str, options: KernelOptions | None) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.points = 0
        self.kill_at: int | None = None
        self.stalled: asyncio.Event | None = None
        self.tasks: dict[asyncio.Task[None], None] = {}
        """In the order of their start: what happens must not depend on where in memory they are."""
        self.kernel = Kernel(
            store=StoreLink(self, world.store),
            foundry=FoundryLink(self, world.foundry),
            agents=AgentsLink(self, world.agents),
            outlet=OutletLink(self, world.bus),
            clock=ClockLink(self),
            options=options,
            owner=name,
            board=BoardLink(self, world.board) if world.board is not None else None,
            observer=world.observer,
        )

    async def point(self) -> None:
        self.points += 1
        if self.points == self.kill_at:
            self.kill()
        if not self.alive:
            raise Killed
        await asyncio.sleep(next(self.world.pauses))

    async def through(self, work: Awaitable[T]) -> T:
        """Asks something of the world: it may die before, or after, when what it asked for has happened."""
        try:
            await self.point()
        except BaseException:
            if asyncio.iscoroutine(work):
                work.close()
            raise
        result = await work
        await self.point()
        return result

    def kill(self) -> None:
        self.alive = False
        for task in self.tasks:
            task.cancel()

    def do(self, work: Coroutine[Any, Any, object], failed: Callable[[], None] | None = None) -> None:
        """Does something in this process, as its handlers do; `failed` is called when it did not get done."""

        async def handler() -> None:
            await work

        def over(task: asyncio.Task[None]) -> None:
            self.tasks.pop(task, None)
            work.close()  # of a task that was cancelled before it began
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, TransientError):
                self.world.errors.append(error)
            if (error is not None or task.cancelled()) and failed is not None:
                failed()

        task = asyncio.create_task(handler())
        self.tasks[task] = None
        task.add_done_callback(over)


@dataclass
class ClockLink:
    """The clock of a dead process does not wake it."""

    process: Process

    def now(self) -> float:
        return self.process.world.now

    async def sleep(self, seconds: float) -> None:
        await self.process.through(asyncio.sleep(seconds))


@dataclass
class StoreLink:
    process: Process
    store: ConversationStore

    async def _ask(self, work: Awaitable[T]) -> T:
        self.process.world.storage_up(work)
        return await self.process.through(work)

    async def accept(self, acceptance: Acceptance) -> tuple[Operation, bool]:
        return await self._ask(self.store.accept(acceptance))

    async def known(self, operation_id: str, fingerprint: str) -> Operation | None:
        return await self._ask(self.store.known(operation_id, fingerprint))

    async def add_arrival(self, key: ConversationKey, arrival: Arrival) -> bool:
        return await self._ask(self.store.add_arrival(key, arrival))

    async def read(self, key: ConversationKey) -> Snapshot:
        return await self._ask(self.store.read(key))

    async def commit(self, key: ConversationKey, etag: str | None, change: Change) -> str:
        return await self._ask(self.store.commit(key, etag, change))

    async def renew(self, key: ConversationKey, etag: str, lease: Lease) -> str:
        return await self._ask(self.store.renew(key, etag, lease))

    async def operation(self, operation_id: str) -> Operation | None:
        return await self._ask(self.store.operation(operation_id))

    async def end(self, operation: Operation) -> None:
        return await self._ask(self.store.end(operation))

    async def locate(self, operation_id: str) -> ConversationKey | None:
        return await self._ask(self.store.locate(operation_id))

    async def history(self, key: ConversationKey, after: int, limit: int) -> list[HistoryEntry]:
        return await self._ask(self.store.history(key, after, limit))

    async def erase(self, key: ConversationKey, etag: str) -> None:
        return await self._ask(self.store.erase(key, etag))

    async def unfinished(self) -> Mapping[str, int]:
        return await self._ask(self.store.unfinished())

    async def due(self, before: float, limit: int) -> list[Due]:
        return await self._ask(self.store.due(before, limit))

    async def move_due(self, entry: Due, at: float | None) -> None:
        await self._ask(self.store.move_due(entry, at))


@dataclass
class FoundryLink:
    process: Process
    foundry: Foundry

    async def ensure_agent(self, spec: AgentSpec) -> AgentRef:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def forget_agent(self, agent_id: str) -> None:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def look_up_agents(self, agent_ids: Collection[str]) -> frozenset[str]:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def remove_agent(self, agent_id: str) -> bool:
        raise NotImplementedError("The kernel leaves this to the agent directory.")

    async def open_conversation(self, key: ConversationKey) -> str:
        await self.process.point()
        remote_id = self.foundry.open()
        await self.process.point()
        return remote_id

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> ModelReply:
        if self.process.stalled is not None:
            await self.process.stalled.wait()
        return await self.process.through(
            self.foundry.respond(agent, remote_id, outputs, text, timeout, on_text=on_text)
        )

    async def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        await self.process.point()
        items = self.foundry.items_after(remote_id, anchor)
        await self.process.point()
        return items

    async def delete_conversation(self, remote_id: str) -> None:
        await self.process.point()
        self.foundry.available()
        self.foundry.remotes.pop(remote_id, None)
        await self.process.point()

    async def check(self) -> None:
        self.foundry.available()

    async def close(self) -> None:
        return None


@dataclass
class AgentsLink:
    process: Process
    agents: Agents

    async def bind(self, agent_id: str) -> Binding:
        return await self.process.through(self.agents.bind(agent_id))

    async def bound_to(self, agent_id: str, ref: AgentRef) -> Binding:
        return await self.process.through(self.agents.bound_to(agent_id, ref))

    async def forget(self, agent_id: str) -> None:
        self.agents.forgotten.append(agent_id)


@dataclass
class OutletLink:
    process: Process
    bus: Bus

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        await self.process.through(self.bus.send(key, effects))

    async def wake(self, key: ConversationKey, delay: float) -> None:
        await self.process.through(self.bus.wake(key, delay))


class Board:
    """What the processes tell each other of their circuits."""

    def __init__(self) -> None:
        self.trips: dict[str, Trip] = {}

    async def put(self, trip: Trip) -> None:
        known = self.trips.get(trip.name)
        if known is None or known.at < trip.at:
            self.trips[trip.name] = trip

    async def all(self) -> Sequence[Trip]:
        return list(self.trips.values())


@dataclass
class BoardLink:
    process: Process
    board: Board

    async def put(self, trip: Trip) -> None:
        work = self.board.put(trip)
        self.process.world.storage_up(work)
        await self.process.through(work)

    async def all(self) -> Sequence[Trip]:
        work = self.board.all()
        self.process.world.storage_up(work)
        return await self.process.through(work)


class World:
    """Storage, Foundry, bus and agents, and the processes that share them.

    Args:
        board: Set where the processes tell each other of their circuits.
        observer: Watches the turns of all processes.
    """

    def __init__(
        self,
        options: KernelOptions | None = None,
        store: MemoryConversations | None = None,
        board: Board | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.options = options
        self.board = board
        self.observer = observer
        self.clock = LoopClock()
        self.store = store or MemoryConversations(self.clock)
        self.storage_down = False
        self.foundry = Foundry()
        self.agents = Agents()
        self.bus = Bus(self)
        self.processes: list[Process] = []
        self.timers: set[asyncio.TimerHandle] = set()
        self.accepted: list[tuple[ConversationKey, Message]] = []
        self.errors: list[BaseException] = []
        self.over = False
        self.pauses: Iterator[float] = itertools.repeat(0.0)
        """Seconds that pass before and after everything that a process asks of the world."""
        self.start()

    @property
    def now(self) -> float:
        return self.clock.now()

    @property
    def process(self) -> Process:
        """The newest living process."""
        return next(process for process in reversed(self.processes) if process.alive)

    @property
    def kernel(self) -> Kernel:
        return self.process.kernel

    def start(self) -> Process:
        self.processes.append(Process(self, f"p{len(self.processes)}", self.options))
        return self.processes[-1]

    def storage_up(self, work: Awaitable[object]) -> None:
        if self.storage_down:
            if asyncio.iscoroutine(work):
                work.close()
            raise StorageUnavailable("Storage is down.")

    # --- what comes from outside

    def message(self, text: str = "hello", *, reply: bool = False) -> Message:
        turn = (self.options or KernelOptions()).turn
        to = ReplyAddress("answers") if reply else None
        operation_id = f"op{len(self.accepted)}"
        return Message(operation_id, text, self.now, self.now + turn, reply_to=to)

    async def accept(self, text: str = "hello", *, key: ConversationKey = KEY, reply: bool = False) -> Operation:
        message = self.message(text, reply=reply)
        self.accepted.append((key, message))
        operation, _ = await self.kernel.accept(key, message, text, fresh=False)
        return operation

    async def tell(self, text: str = "hello", *, key: ConversationKey = KEY, reply: bool = False) -> Operation:
        """Accepts a message, drives it, and returns its operation as it is when the driver returns."""
        operation = await self.accept(text, key=key, reply=reply)
        await self.kernel.drive(key)
        return await self.kernel.operation(operation.operation_id)

    async def finished(self, operation: Operation, within: float = 10_000.0) -> Operation:
        """The operation when it ended; the sweep runs every 30 seconds meanwhile."""
        ends = self.now + within
        while True:
            found = await self.store.operation(operation.operation_id)
            if found is not None and found.final:
                return found
            assert self.now < ends, f"{operation.operation_id} never ends: {found}"
            await asyncio.sleep(30.0)
            self.process.do(self.kernel.sweep())

    def later(self, delay: float, work: Callable[[], None]) -> None:
        self.timers.add(asyncio.get_running_loop().call_later(delay, work))

    def deliver(self, work: Callable[[Kernel], Coroutine[Any, Any, None]]) -> None:
        """Gives a bus message to a living process, again and again until one took it to its end."""

        def again() -> None:
            if not self.over:
                self.later(5.0, lambda: self.deliver(work))

        alive = [process for process in self.processes if process.alive]
        if alive:
            alive[-1].do(work(alive[-1].kernel), again)
        else:
            again()

    def result(self, request_id: str) -> None:
        result = self.ledger[request_id][1]
        self.deliver(lambda kernel: kernel.add_result(request_id.partition(".")[0], result))

    @property
    def ledger(self) -> Mapping[str, tuple[SendTool, ToolResult]]:
        return self.bus.ledger

    def resume(self, key: ConversationKey) -> None:
        self.deliver(lambda kernel: kernel.drive(key, resume=True))

    async def settle(self) -> None:
        """Lets everything happen that can happen at this moment."""
        for _ in range(200):
            await asyncio.sleep(0)

    # --- what must be true in the end

    def check(self) -> None:
        assert not self.errors
        for process in self.processes:
            kernel = process.kernel
            if process.alive:
                assert not kernel._driver._again, "a driver is left"
                assert not kernel._leases.holds, "a hold is left"
            assert not kernel._waiters, "a waiter is left"

    async def end(self) -> None:
        self.over = True
        for timer in self.timers:
            timer.cancel()
        for process in self.processes:
            process.kill()
            await process.kernel.close(grace=0.0)
            assert not process.kernel._tasks, "a task is left"
            await asyncio.gather(*process.tasks, return_exceptions=True)
        await asyncio.gather(*self.foundry.running, return_exceptions=True)


def code(operation: Operation) -> str:
    assert operation.error is not None
    return operation.error.code
