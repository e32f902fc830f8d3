from __future__ import annotations

import pytest

from aos.errors import FoundryRefused
from aos.orchestration.breaker import CircuitBreaker, CircuitOpen
from aos.orchestration.model_types import ModelUnavailable


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def state(breaker: CircuitBreaker) -> str:
    return breaker.state


def fail(breaker: CircuitBreaker, error: Exception) -> None:
    with pytest.raises(type(error)), breaker.guard():
        raise error


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker("vllm", clock)
    for _ in range(3):
        assert state(breaker) == "closed"
        fail(breaker, ModelUnavailable("down"))
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert state(breaker) == "open"
    clock.time += 10
    with pytest.raises(CircuitOpen) as refused, breaker.guard():
        pytest.fail("the call is not made")
    assert refused.value.retry_after == 20


def test_one_try_closes_it_or_opens_it_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.time += 30
    assert state(breaker) == "half_open"
    fail(breaker, ModelUnavailable("still down"))
    assert state(breaker) == "open"
    clock.time += 30
    with breaker.guard(), pytest.raises(CircuitOpen), breaker.guard():
        pytest.fail("only one at a time")
    assert state(breaker) == "closed"


def test_a_try_that_is_cancelled_leaves_room_for_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.time += 30
    with pytest.raises(KeyboardInterrupt), breaker.guard():
        raise KeyboardInterrupt
    with breaker.guard():
        pass
    assert state(breaker) == "closed"


def test_refusals_are_answers_but_refused_sign_ins_are_not() -> None:
    breaker = CircuitBreaker("vllm", Clock(), threshold=2)
    fail(breaker, ModelUnavailable("down"))
    fail(breaker, FoundryRefused("filtered"))
    fail(breaker, ModelUnavailable("down"))
    assert state(breaker) == "closed"
    fail(breaker, FoundryRefused("who?", code="foundry_unauthorized"))
    assert state(breaker) == "open"
