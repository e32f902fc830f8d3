"""What clients of OpenAI-compatible servers raise, as errors of AOS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aos.errors import AosError, CircuitOpen, FoundryRefused, FoundryUnavailable
from aos.kernel.breaker import BUSY, Meaning
from aos.ml.errors import ModelRefused, ModelUnavailable, of_status

UNUSABLE = frozenset({"model_unauthorized", "deployment_not_found"})
"""Refusals that concern the model's service rather than the request."""


def cannot_answer(error: AosError) -> bool:
    """Whether an error says that the model cannot answer at present, rather than that it will not answer this."""
    return isinstance(error, FoundryUnavailable | ModelUnavailable | CircuitOpen) or error.code in UNUSABLE


def meaning(error: AosError) -> Meaning:
    """What an error says to the circuit breaker of a model."""
    if error.code == BUSY:
        return "nothing"
    if cannot_answer(error):
        return "failure"
    return "answer" if isinstance(error, FoundryRefused | ModelRefused) else "nothing"


@contextmanager
def model_errors(what: str) -> Iterator[None]:
    """Turns errors of the openai SDK into `ModelUnavailable` or `ModelRefused`.

    The SDK checks the shape of nothing, so answers are read within this context.
    """
    import openai

    try:
        yield
    except AosError:
        raise  # some of them are a `ValueError`, too
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        code = str(body.get("code") or "")
        message = str(body.get("message") or code or f"HTTP {error.status_code}")[:500]
        later = error.response.headers.get("retry-after")
        raise of_status(what, error.status_code, message, later, reason=code) from error
    except (openai.APIError, TimeoutError) as error:
        # Without details, a connection error only says that it is one.
        reason = str(error.__cause__ or error) or type(error).__name__
        raise ModelUnavailable(f"{what} did not answer: {reason[:300]}") from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelUnavailable(f"{what} gave an answer that cannot be read.") from error
