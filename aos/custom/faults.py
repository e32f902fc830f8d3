"""What Agent Framework and the OpenAI client raise, as errors of AOS."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aos.errors import AosError, ConversationGone, FoundryRefused, FoundryUnavailable

if TYPE_CHECKING:
    from openai import APIStatusError

OVERLOADED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_RETRY_AFTER = 3600.0
"""Seconds; an endpoint that asks for more is tried again after this time all the same."""
TOO_LONG = (
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "available context size",
    "is longer than the maximum model len",
)
"""How servers say that a prompt does not fit: OpenAI's code, and the words of vLLM, llama.cpp and others."""


class ModelUnavailable(FoundryUnavailable):
    """The model endpoint did not answer, or said that it is overloaded."""

    code = "model_unavailable"
    title = "The model endpoint is unavailable."


class ModelRefused(FoundryRefused):
    """The model endpoint refused the request for good."""

    code = "model_refused"
    title = "The model endpoint refused the request."


class HistoryGone(ConversationGone):
    """The history of the conversation was deleted, or belongs to another runtime."""

    title = "The history of the conversation no longer exists."


@contextmanager
def model_errors(what: str) -> Iterator[None]:
    """Turns errors of Agent Framework and openai into `ModelUnavailable` or `ModelRefused`.

    Agent Framework wraps what the OpenAI client raises; the cause says what happened. An answer of the wrong shape (a
    page of a proxy, half a body) shows as one of Python's own errors.
    """
    import openai
    from agent_framework.exceptions import AgentFrameworkException

    try:
        yield
    except (openai.OpenAIError, TimeoutError) as error:
        raise _fault(error, what) from error
    except AgentFrameworkException as error:
        raise _fault(error.__cause__ or error, what) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(what) from error


def _fault(error: BaseException, what: str) -> AosError:
    import openai

    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return ModelUnavailable(f"The model endpoint did not answer in time ({what}).", sent=not _refused(error))
    if isinstance(error, openai.APIConnectionError):
        cause = _first_line(error.__cause__ or error)
        return ModelUnavailable(f"The model endpoint cannot be reached ({what}): {cause}", sent=not _refused(error))
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, what)
    return _unreadable(what)


def _of_status(error: APIStatusError, what: str) -> AosError:
    body = error.body if isinstance(error.body, dict) else {}
    code, message = str(body.get("code") or ""), str(body.get("message") or _first_line(error))
    status = error.status_code
    if status in (401, 403):
        return ModelRefused(
            f"The model endpoint refused the sign-in ({what}): check AOS_MODEL_API_KEY.", code="model_unauthorized"
        )
    if status in OVERLOADED:
        return ModelUnavailable(
            f"The model endpoint refused with HTTP {status} ({what}): {message}",
            sent=status != 429,
            retry_after=_seconds(error.response.headers.get("retry-after")),
        )
    if status == 404 and ("model" in message.lower() or code == "model_not_found"):
        return ModelRefused(f"Model not found: {message}", code="deployment_not_found")
    if code == "content_filter":
        return ModelRefused(f"The content filter stopped {what}: {message}", code=code)
    if any(words in f"{code} {message}".lower() for words in TOO_LONG):
        return ModelRefused(f"The conversation is too long for the model ({what}).", code="context_length_exceeded")
    return ModelRefused(f"The model endpoint refused {what} with HTTP {status}: {message}")


def _unreadable(what: str) -> ModelUnavailable:
    return ModelUnavailable(f"The model endpoint's answer could not be read ({what}).", sent=True)


def _refused(error: BaseException) -> bool:
    """Whether no byte of the request can have reached the endpoint."""
    import httpx2

    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)


def _seconds(value: str | None) -> float | None:
    try:
        seconds = math.nan if value is None else float(value)
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_AFTER) if seconds >= 0 else None


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
