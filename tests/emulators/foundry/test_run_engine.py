from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from emulators.foundry.azure_functions import FunctionCaller
from emulators.foundry.model import Finished, JsonObject, Model, ModelEvent, ModelRequest, TextDelta, Usage
from emulators.foundry.offline import OfflineModel
from emulators.foundry.run_engine import RunEngine, RunLeg
from emulators.foundry.run_record import RunRecord
from emulators.foundry.state import State
from emulators.foundry.thread_bodies import CreateMessage, CreateThread, message_object, thread_object
from emulators.foundry.thread_state import ThreadState

NOW = 1_800_000_000


def clock() -> float:
    return float(NOW)


def opened(path: Path) -> tuple[State, ThreadState]:
    state = State(str(path / "state.db"))
    return state, ThreadState(state.database)


def stored_run(store: ThreadState, text: str = "hello") -> JsonObject:
    thread = thread_object(CreateThread(), NOW)
    thread_id = str(thread["id"])
    message = message_object(thread_id, CreateMessage.model_validate({"role": "user", "content": text}), NOW)
    store.create_thread(thread, [message])
    run: JsonObject = {
        "id": f"run_{thread_id}",
        "thread_id": thread_id,
        "assistant_id": "asst_x",
        "status": "queued",
        "required_action": None,
        "last_error": None,
        "expires_at": NOW + 600,
        "started_at": None,
        "model": "llama-3.3-70b",
        "instructions": "",
        "tools": [],
        "tool_choice": "auto",
        "response_format": "auto",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_prompt_tokens": None,
        "max_completion_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "parallel_tool_calls": True,
        "usage": None,
    }
    store.create_run(run, ())
    return run


def engine(store: ThreadState, model: Model | None = None) -> RunEngine:
    return RunEngine(
        store, model or OfflineModel(), latency=0, context_window=1000, clock=clock, functions=FunctionCaller()
    )


def found(store: ThreadState, run: JsonObject) -> JsonObject:
    stored = store.get("run", str(run["thread_id"]), str(run["id"]))
    assert stored is not None
    return stored


async def until_it_waits(leg: RunLeg) -> None:
    """Step by step, as nothing tells of this moment: the leg has done its work and its task has not been settled."""
    for _ in range(1000):
        if leg.record.status == "requires_action":
            return
        await asyncio.sleep(0)
    raise AssertionError(leg.record.status)


async def test_what_a_dead_process_left_half_done_is_closed(tmp_path: Path) -> None:
    state, store = opened(tmp_path)
    speaking, leaving, waiting = (stored_run(store) for _ in range(3))
    half = RunRecord(store, speaking, clock)
    half.begin()
    half.text("half a sen")
    RunRecord(store, leaving, clock).cancelling()
    asking = RunRecord(store, waiting, clock)
    asking.begin()
    asking.call(0, "f")
    asking.arguments(0, "{}")
    asking.finish_step(Usage(1, 2))
    state.close()
    state, store = opened(tmp_path)
    engine(store)
    failed = found(store, speaking)
    assert (failed["status"], failed["failed_at"]) == ("failed", NOW)
    assert failed["last_error"] == {
        "code": "server_error",
        "message": "The service stopped while this run was in progress.",
    }
    assert [step["status"] for step in store.all("step", str(speaking["id"]))] == ["failed"]
    _, message = store.all("message", str(speaking["thread_id"]))
    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "run_failed"})
    assert found(store, leaving)["status"] == "cancelled"
    kept = found(store, waiting)
    assert (kept["status"], kept["required_action"]) == ("requires_action", waiting["required_action"])
    state.close()


class Broken:
    """A model that does not do as the port says."""

    kind = "broken"

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure

    def check(self, request: ModelRequest) -> None: ...

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("so ")
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None: ...


@pytest.mark.parametrize("failure", [None, ValueError("secret"), TimeoutError("secret")])
async def test_a_model_that_breaks_fails_its_run_alone(
    tmp_path: Path, failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    state, store = opened(tmp_path)
    run = stored_run(store)
    leg = engine(store, Broken(failure)).start(run)
    events = [event async for event in leg.events()]
    assert [event.partition("\n")[0] for event in events[-4:]] == [
        "event: thread.message.incomplete",
        "event: thread.run.step.failed",
        "event: thread.run.failed",
        "event: done",
    ]
    stored = found(store, run)
    assert stored["status"] == "failed"
    assert "secret" not in str(stored["last_error"])
    assert ("secret" in caplog.text) == (failure is not None)
    state.close()


async def test_stopping_the_service_fails_what_is_at_work(tmp_path: Path) -> None:
    state, store = opened(tmp_path)

    class Silent(Broken):
        async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
            await asyncio.Event().wait()
            yield Finished()

    runs = engine(store, Silent(None))
    begun, unbegun = stored_run(store), stored_run(store)
    runs.start(begun)
    await asyncio.sleep(0)
    runs.start(unbegun)
    await asyncio.wait_for(runs.close(), 30)
    assert [found(store, run)["status"] for run in (begun, unbegun)] == ["failed", "failed"]
    state.close()


async def test_outputs_may_come_before_the_first_leg_is_cleared_away(tmp_path: Path) -> None:
    state, store = opened(tmp_path)
    run = stored_run(store, "@tool f {}\n@say done")
    runs = engine(store)
    first = runs.start(run)
    await until_it_waits(first)
    assert not first.ended.is_set()
    match found(store, run)["required_action"]:
        case {"submit_tool_outputs": {"tool_calls": [{"id": str(call_id)}]}}:
            second = runs.submit(found(store, run), {call_id: "1"})
    assert [event async for event in second.events()][-1].startswith("event: done")
    assert found(store, run)["status"] == "completed"
    state.close()


async def test_a_run_that_waits_may_be_cancelled_before_its_leg_is_cleared_away(tmp_path: Path) -> None:
    state, store = opened(tmp_path)
    run = stored_run(store, "@tool f {}")
    runs = engine(store)
    leg = runs.start(run)
    await until_it_waits(leg)
    assert not leg.ended.is_set()
    assert runs.cancel(found(store, run))["status"] == "cancelling"
    await leg.ended.wait()
    assert found(store, run)["status"] == "cancelled"
    state.close()
