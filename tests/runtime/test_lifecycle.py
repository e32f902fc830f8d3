from __future__ import annotations

import asyncio
import threading

import pytest

from runtime import Lifecycle, NotReady
from runtime import lifecycle as lifecycle_module
from tests.runtime.standing_clock import StandingClock


class Starter:
    """Counts its starts; the first `failures` of them raise."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.starts = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> str:
        self.starts += 1
        await self.gate.wait()
        if self.starts <= self.failures:
            raise RuntimeError(f"no database\nattempt {self.starts}")
        return f"app {self.starts}"


async def test_the_application_is_built_once_for_concurrent_callers() -> None:
    starter = Starter()
    lifecycle = Lifecycle(starter.__call__)
    assert await asyncio.gather(*(lifecycle.ensure() for _ in range(5))) == ["app 1"] * 5
    assert starter.starts == 1
    assert lifecycle.app_instance == "app 1"
    assert lifecycle.ready


async def test_a_failed_start_is_shared_by_its_waiters_and_tried_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = StandingClock()
    monkeypatch.setattr(lifecycle_module, "time", clock)
    starter = Starter(failures=1)
    lifecycle = Lifecycle(starter.__call__)
    outcomes = await asyncio.gather(*(lifecycle.ensure() for _ in range(3)), return_exceptions=True)
    assert {str(outcome) for outcome in outcomes} == {"RuntimeError: no database"}
    assert all(isinstance(outcome, NotReady) for outcome in outcomes)
    # At a bounded pace: whoever asks meanwhile hears the same reason, and when to come again.
    for waited in (0, 0.49):
        clock.now += waited
        with pytest.raises(NotReady, match="no database") as caught:
            await lifecycle.ensure()
        assert caught.value.retry_after_seconds == 1
        assert starter.starts == 1
    clock.now += 0.02
    assert await lifecycle.ensure() == "app 2"


async def test_a_caller_that_gives_up_does_not_cancel_the_start() -> None:
    starter = Starter()
    starter.gate.clear()
    lifecycle = Lifecycle(starter.__call__)
    impatient = asyncio.create_task(lifecycle.ensure())
    patient = asyncio.create_task(lifecycle.ensure())
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    starter.gate.set()
    assert await patient == "app 1"


async def test_a_sync_initializer_runs_in_a_thread() -> None:
    lifecycle = Lifecycle(threading.get_ident)
    assert await lifecycle.ensure() != threading.get_ident()


async def test_without_an_initializer_there_is_no_application() -> None:
    lifecycle = Lifecycle()
    assert await lifecycle.ensure() is None
    assert lifecycle.ready


async def test_ensure_within_tries_again_until_its_time_is_up() -> None:
    starter = Starter(failures=1)
    lifecycle = Lifecycle(starter.__call__)
    assert await lifecycle.ensure_within(60) == "app 2"
    hopeless = Starter(failures=100)
    with pytest.raises(NotReady):
        await Lifecycle(hopeless.__call__).ensure_within(0.1)
    assert hopeless.starts == 1


async def test_shutdown_takes_the_application_or_nothing_and_runs_once() -> None:
    closed: list[object] = []

    async def close(app: object) -> None:
        closed.append(app)

    def close_plainly() -> None:
        closed.append("plain")

    for shutdown in (close, close_plainly):
        lifecycle = Lifecycle(Starter().__call__, shutdown)
        await lifecycle.shutdown()  # never started: nothing to close
        await lifecycle.ensure()
        await lifecycle.shutdown()
        await lifecycle.shutdown()
        assert lifecycle.app_instance is None
    assert closed == ["app 1", "plain"]


async def test_shutdown_stops_a_start_under_way() -> None:
    starter = Starter()
    starter.gate.clear()
    lifecycle = Lifecycle(starter.__call__)
    waiter = asyncio.create_task(lifecycle.ensure())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the start is under way
    await lifecycle.shutdown()
    with pytest.raises(NotReady, match="stopping"):
        await waiter
    starter.gate.set()

    assert await lifecycle.ensure() == "app 2"


async def test_a_start_is_given_up_when_the_host_stops_and_no_other_begins() -> None:
    starter = Starter()
    starter.gate.clear()
    lifecycle = Lifecycle(starter.__call__)
    waiter = asyncio.create_task(lifecycle.ensure())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the start is under way
    lifecycle.stop_starting()
    for waiting in (waiter, lifecycle.ensure()):
        with pytest.raises(NotReady, match="stopping"):
            await waiting
    assert starter.starts == 1
