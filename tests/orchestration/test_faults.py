from __future__ import annotations

import pytest

from aos.errors import AosError, CircuitOpen, FoundryRefused, FoundryUnavailable, StorageUnavailable
from aos.kernel.breaker import THRESHOLD, Breaker
from aos.ml import ModelSettingError
from aos.orchestration.faults import cannot_answer, meaning
from aos.orchestration.model_types import ModelRefused, ModelUnavailable


class Clock:
    def now(self) -> float:
        return 1000.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("error", "other_model", "says"),
    [
        (ModelUnavailable("x"), True, "failure"),
        (FoundryUnavailable("x", sent=True), True, "failure"),
        (FoundryUnavailable("x", sent=True, code="conversation_locked"), True, "nothing"),
        (FoundryUnavailable("x", sent=False, code="foundry_unauthorized"), True, "failure"),
        (FoundryRefused("x", code="content_filter"), False, "answer"),
        (ModelRefused("x"), False, "answer"),
        (ModelSettingError("x"), False, "nothing"),
        (StorageUnavailable("x"), False, "nothing"),
    ],
)
def test_what_errors_mean(error: AosError, other_model: bool, says: str) -> None:
    assert cannot_answer(error) is other_model
    assert meaning(error) == says


def test_a_model_that_keeps_failing_is_left_alone() -> None:
    breaker = Breaker("vllm", Clock(), meaning)
    for _ in range(THRESHOLD):
        with pytest.raises(ModelUnavailable), breaker.guard():
            raise ModelUnavailable("down", retry_after=20)
    with pytest.raises(CircuitOpen) as refused, breaker.guard():
        pytest.fail("the call is not made")
    assert refused.value.retry_after == 20
