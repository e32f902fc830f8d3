"""Runs of the threads protocol at work: each in a task of its own, apart from the requests that ask about it.

A run moves from ``queued`` to ``in_progress``, stops at ``requires_action`` until outputs are submitted, and ends as
``completed``, ``failed``, ``cancelled``, ``incomplete`` or, some minutes after its creation, ``expired``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from emulators.foundry.azure_functions import AzureFunction, FunctionCaller
from emulators.foundry.connected_agents import ConnectedAgent, broken, query_of
from emulators.foundry.model import (
    ArgumentsDelta,
    CallStarted,
    Finished,
    JsonObject,
    Model,
    ModelError,
    ModelRequest,
    TextDelta,
    Usage,
    count_tokens,
    input_tokens,
)
from emulators.foundry.run_object import run_object
from emulators.foundry.run_record import ENDED, Call, RunRecord
from emulators.foundry.thread_bodies import CreateMessage, CreateThread, RunSettings, message_objects, thread_object
from emulators.foundry.thread_history import PromptBudgetSpent, message_text, model_request, written_messages
from emulators.foundry.thread_state import ThreadState

DEFAULT_RUN_EXPIRY = 600.0

_STOPPED = "The service stopped while this run was in progress."
_log = logging.getLogger("emulators.foundry")
Prepare = Callable[[RunRecord], ModelRequest]
Outcome = Callable[[RunRecord], None]
Serve = Callable[[RunRecord, Call], Awaitable[str]]
"""Makes a call that is the service's own, and returns its output."""


def _stopped(record: RunRecord) -> None:
    record.fail("server_error", _STOPPED)


class RunLeg:
    """One stretch of work: from creation or submission until the run waits or ends."""

    def __init__(
        self,
        record: RunRecord,
        model: Model,
        prepare: Prepare,
        serve: Serve,
        *,
        latency: float,
        seconds: float,
        on_end: Callable[[RunLeg], None],
    ) -> None:
        self.record = record
        self.ended = asyncio.Event()
        self._model = model
        self._prepare = prepare
        self._make = serve
        self._latency = latency
        self._seconds = seconds
        self._on_end = on_end
        self._when_stopped: Outcome = _stopped
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._work(), name=f"run {record.run['id']}")
        self._task.add_done_callback(self._settle)

    def stop(self, outcome: Outcome) -> None:
        """Stop working; ``outcome`` writes how the run ends."""
        self._when_stopped = outcome
        self._task.cancel()
        self._changed.set()

    async def _work(self) -> None:
        record = self.record
        try:
            async with asyncio.timeout(max(self._seconds, 0)) as deadline:
                record.begin()
                self._changed.set()
                await asyncio.sleep(self._latency)
                while await self._ask(self._prepare(record)):
                    pass
        except ModelError as error:
            record.fail(error.code, error.message)
        except PromptBudgetSpent:
            record.cut_short("max_prompt_tokens", Usage(0, 0))
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                record.expire()
                return
            _log.exception("run %s failed", record.run["id"])
            record.fail("server_error", f"The run failed: {type(error).__name__}.")

    async def _ask(self, request: ModelRequest) -> bool:
        """Let the model take a step. True: it only called what the service itself has called by now."""
        record = self.record
        again = False
        self._model.check(request)
        async for event in self._model.step(request):
            match event:
                case TextDelta(text):
                    record.text(text)
                case CallStarted(index, name):
                    record.call(index, name)
                case ArgumentsDelta(index, text):
                    record.arguments(index, text)
                case Finished(reason, usage):
                    counted = usage or Usage(input_tokens(request), count_tokens(record.produced))
                    match reason:
                        case "stop":
                            again = await self._serve(record.finish_step(counted))
                        case "max_output_tokens":
                            record.cut_short("max_completion_tokens", counted)
                        case "content_filter":
                            record.fail("content_filter", "The answer was stopped by the content filter.")
            self._changed.set()
        return again

    async def _serve(self, calls: list[Call]) -> bool:
        """Make the calls that are the service's own."""
        self._changed.set()

        if not calls:
            return False
        # All of them to their ends, so that none is left behind when one fails the run.
        outputs = await asyncio.gather(*(self._make(self.record, call) for call in calls), return_exceptions=True)
        for call, output in zip(calls, outputs, strict=True):
            if isinstance(output, BaseException):
                raise output
            call.output = output
        return self.record.served()

    def _settle(self, task: asyncio.Task[None]) -> None:
        # A callback of the task and not its last lines: a task cancelled before its first step runs no line at all.
        try:
            if self.record.status not in (*ENDED, "requires_action"):
                self._when_stopped(self.record)
        finally:
            self._on_end(self)
            self.ended.set()
            self._changed.set()

    async def events(self) -> AsyncIterator[str]:
        """All events from the first on as they come, in the form of an event stream, and ``done``."""
        seen = 0
        while True:
            while seen < len(self.record.events):
                name, data = self.record.events[seen]
                yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
                seen += 1
            if self.ended.is_set():
                break
            self._changed.clear()
            await self._changed.wait()
        yield "event: done\ndata: [DONE]\n\n"


class RunEngine:
    """All runs of one project.

    ``latency`` (seconds) passes before the model begins; ``context_window`` counts tokens by the rule of
    `count_tokens`; ``clock`` gives Unix seconds, and a run is judged by it whenever someone looks at it; ``functions``
    calls Azure Functions; ``life`` is that of runs of connected agents, in seconds. A run that an earlier process left
    in progress has failed; one that waits for outputs still does.
    """

    def __init__(
        self,
        store: ThreadState,
        model: Model,
        *,
        latency: float,
        context_window: int,
        clock: Callable[[], float],
        functions: FunctionCaller,
        life: float = DEFAULT_RUN_EXPIRY,
    ) -> None:
        self._store = store
        self._model = model
        self._functions = functions
        self._life = life
        self._connected: set[str] = set()
        self._latency = latency
        self._window = context_window
        self._clock = clock
        self._legs: dict[str, RunLeg] = {}
        for run in store.interrupted():
            record = RunRecord(store, run, clock)
            if record.status == "cancelling":
                record.cancel()
            else:
                _stopped(record)

    def start(self, run: JsonObject, before: JsonObject | None = None) -> RunLeg:
        """Work on a run that has just been stored; ``before`` is a thread created with it."""
        record = RunRecord(self._store, run, self._clock)
        if before is not None:
            record.events.append(("thread.created", before))
        record.created()
        return self._work(record)

    def submit(self, run: JsonObject, outputs: Mapping[str, str]) -> RunLeg:
        """Go on with a run that waits, given an output for each of its calls."""
        record = RunRecord(self._store, run, self._clock)
        record.outputs(outputs)
        return self._work(record)

    def _work(self, record: RunRecord) -> RunLeg:
        run_id = str(record.run["id"])
        expires = record.run["expires_at"]
        seconds = expires - self._clock() if isinstance(expires, int | float) else 0.0
        leg = RunLeg(
            record,
            self._model,
            self._prepare,
            self._serve,
            latency=self._latency,
            seconds=seconds,
            on_end=self._leg_ended,
        )
        self._legs[run_id] = leg
        return leg

    async def _serve(self, record: RunRecord, call: Call) -> str:
        match call.served:
            case AzureFunction() as function:
                return await self._functions.call(function, call.id, call.arguments)
            case ConnectedAgent() as agent:
                return await self._ask_agent(record, call, agent)
        raise RuntimeError(f"call {call.id} is the client's")

    async def _ask_agent(self, record: RunRecord, call: Call, agent: ConnectedAgent) -> str:
        """The answer of a connected agent, from a run in a thread of its own that ends with this one."""
        if str(record.run["id"]) in self._connected:
            raise broken(
                f"Assistant Tool Call Depth Error: connected agent {agent.name} is called by a connected agent"
            )
        assistant = self._store.get("assistant", None, agent.id)
        if assistant is None:
            raise broken(f"connected agent {agent.name}: no assistant found with id '{agent.id}'")
        now = self._clock()
        thread = thread_object(CreateThread(), int(now))
        asked = CreateMessage.model_validate({"role": "user", "content": query_of(agent, call.arguments)})
        self._store.create_thread(thread, message_objects(str(thread["id"]), [asked], int(now), "query"))
        settings = RunSettings(assistant_id=agent.id)
        call.run = run_object(settings, assistant, str(thread["id"]), None, now, self._life)
        run_id = str(call.run["id"])
        self._store.create_run(call.run, ())
        self._connected.add(run_id)
        record.began()
        leg = self.start(call.run)
        try:
            await leg.ended.wait()
        finally:
            self._connected.discard(run_id)
            status = leg.record.status
            if status not in (*ENDED, "cancelling"):
                self.cancel(leg.record.run)
        if status == "requires_action":
            raise broken(f"connected agent {agent.name} called a function that only a client could run")
        return self._answer(agent, leg.record.run)

    def _answer(self, agent: ConnectedAgent, run: JsonObject) -> str:
        why = run["status"]
        match run:
            case {"status": "completed"}:
                own = (m for m in self._store.newest("message", str(run["thread_id"])) if m["run_id"] == run["id"])
                return next((message_text(message) for message in own), "")
            case {"last_error": {"code": str(code), "message": str(message)}}:
                why = f"{code}: {message}"
        return json.dumps({"error": f"connected agent {agent.name} gave no answer: {why}"})

    def _leg_ended(self, leg: RunLeg) -> None:
        run_id = str(leg.record.run["id"])
        if self._legs.get(run_id) is leg:  # outputs may have been submitted before this one was cleared away
            del self._legs[run_id]

    def _prepare(self, record: RunRecord) -> ModelRequest:
        run, thread = record.run, str(record.run["thread_id"])
        steps = self._store.all("step", str(run["id"]))
        own = [
            message
            for message_id in written_messages(steps)
            if (message := self._store.get("message", thread, message_id)) is not None
        ]
        return model_request(run, steps, own, self._store.newest("message", thread), self._window)

    def current(self, run: JsonObject) -> JsonObject:
        """The run as it stands, expired if its time is over."""
        expires = run["expires_at"]
        if run["status"] in ENDED or not isinstance(expires, int | float) or self._clock() < expires:
            return run
        leg = self._legs.get(str(run["id"]))
        record = RunRecord(self._store, run, self._clock) if leg is None else leg.record
        if leg is not None:
            leg.stop(RunRecord.expire)
        record.expire()
        return record.run

    def active(self, thread_id: str) -> JsonObject | None:
        """The run of the thread that has not ended, or None."""
        last = self._store.last_run(thread_id)
        if last is None:
            return None
        last = self.current(last)
        return None if last["status"] in ENDED else last

    def cancel(self, run: JsonObject) -> JsonObject:
        """Begin to cancel a run that has not ended; returns it as ``cancelling``."""
        leg = self._legs.get(str(run["id"]))
        record = RunRecord(self._store, run, self._clock) if leg is None else leg.record
        record.cancelling()
        answer = {**record.run}
        if leg is None:
            record.cancel()
        else:
            leg.stop(RunRecord.cancel)
        return answer

    def annotate(self, run: JsonObject, metadata: Mapping[str, str] | None) -> JsonObject:
        """Replace the metadata of a run, also of one at work."""
        leg = self._legs.get(str(run["id"]))
        live = run if leg is None else leg.record.run
        if metadata is not None:
            live["metadata"] = {**metadata}
            self._store.put(live)
        return live

    async def drop(self, thread_id: str) -> None:
        """Cancel what runs on a thread and wait for its end."""
        run = self.active(thread_id)
        if run is not None and run["status"] != "cancelling":
            self.cancel(run)
        if run is not None and (leg := self._legs.get(str(run["id"]))) is not None:
            await leg.ended.wait()

    async def close(self) -> None:
        """Stop what is running, as failed, and wait for its end."""
        legs = list(self._legs.values())
        for leg in legs:
            leg.stop(_stopped)
        await asyncio.gather(*(leg.ended.wait() for leg in legs))
