from __future__ import annotations

import asyncio

import pytest

from runtime import CircuitOpen, Outgoing, RuntimeConfig, outgoing
from runtime.outgoing import FAILURES_TO_OPEN, OPEN_SECONDS


class Service:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or ConnectionResetError("gone")
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "answer"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        (RuntimeConfig(max_retries=3), 4),
        (RuntimeConfig(max_retries=0), 1),
        (RuntimeConfig(retry_enabled=False), 1),
    ],
)
async def test_retries_are_those_of_the_configuration(config: RuntimeConfig, calls: int) -> None:
    service = Service(10)
    with pytest.raises(ConnectionResetError):
        await Outgoing(config).call("crm", service)
    assert service.calls == calls


async def test_what_may_pass_is_tried_again_and_nothing_else() -> None:
    calls = Outgoing(RuntimeConfig())
    assert await calls.call("crm", Service(2)) == "answer"
    refused = Service(1, PermissionError("no"))
    with pytest.raises(PermissionError):
        await calls.call("crm", refused, transient=lambda error: isinstance(error, TimeoutError))
    once = Service(1)
    with pytest.raises(ConnectionResetError):
        await calls.call("crm", once, repeatable=False)
    assert (refused.calls, once.calls) == (1, 1)


async def test_a_failing_service_is_left_alone_then_tried_once() -> None:
    now = 0.0
    calls = Outgoing(RuntimeConfig(retry_enabled=False), clock=lambda: now)
    service = Service(FAILURES_TO_OPEN + 1)
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(ConnectionResetError):
            await calls.call("crm", service)
    for _ in range(3):
        with pytest.raises(CircuitOpen) as caught:
            await calls.call("crm", service)
    assert (service.calls, caught.value.retry_after_seconds) == (FAILURES_TO_OPEN, OPEN_SECONDS)
    assert (calls.state("crm"), calls.state("mail")) == ("open", "closed")
    assert await calls.call("mail", Service(0)) == "answer"
    now = OPEN_SECONDS
    assert calls.state("crm") == "half_open"
    with pytest.raises(ConnectionResetError):
        await calls.call("crm", service)
    with pytest.raises(CircuitOpen):
        await calls.call("crm", service)
    now = 2 * OPEN_SECONDS
    assert await calls.call("crm", service) == "answer"
    assert calls.state("crm") == "closed"


async def test_one_call_tries_it_whatever_was_under_way_before() -> None:
    now = 0.0
    calls = Outgoing(RuntimeConfig(retry_enabled=False), clock=lambda: now)
    answer = asyncio.Event()
    trials = 0

    async def slow() -> None:
        nonlocal trials
        trials += 1
        await answer.wait()

    before = asyncio.create_task(calls.call("crm", slow))
    await asyncio.sleep(0)
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(ConnectionResetError):
            await calls.call("crm", Service(1))
    now = OPEN_SECONDS
    trial = asyncio.create_task(calls.call("crm", slow))
    await asyncio.sleep(0)
    before.cancel()
    await asyncio.wait([before])
    with pytest.raises(CircuitOpen):
        async with asyncio.timeout(30):
            await calls.call("crm", slow)
    assert trials == 2
    answer.set()
    await trial


async def test_the_breaker_can_be_switched_off() -> None:
    calls = Outgoing(RuntimeConfig(retry_enabled=False, circuit_breaker_enabled=False))
    service = Service(20)
    for _ in range(20):
        with pytest.raises(ConnectionResetError):
            await calls.call("crm", service)
    assert await calls.call("crm", service) == "answer"
