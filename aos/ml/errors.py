"""What callers of the model clients may have done wrong."""

from __future__ import annotations

from aos.errors import AosError, SettingError, TransientError


class ModelSettingError(SettingError, ValueError):
    """A model is not configured, or wrongly; the detail names the setting."""


class InvalidModelRequest(AosError, ValueError):
    """A request that no model can be asked: an empty message, an unknown tool, metadata that is too long."""

    code = "invalid_model_request"
    title = "The request to the model is not valid."


class ModelUnavailable(TransientError):
    """A model did not answer, answered what cannot be read, or is overloaded."""

    code = "model_unavailable"
    title = "The model is unavailable."


class ModelRefused(AosError):
    """A model refused the request for good."""

    code = "model_refused"
    title = "The model refused the request."


OVERLOADED = frozenset({408, 409, 429, 500, 502, 503, 504})
TOO_LONG = "context_length_exceeded"
"""Code of a refusal because what was said is more than the model can read at once."""
_SAYS_TOO_LONG = (
    TOO_LONG,
    "maximum context length",
    "context window",
    "available context size",
    "longer than the maximum model len",
)
"""How servers say it: OpenAI's code, and the words of vLLM, llama.cpp and others."""


def of_status(what: str, status: int, message: str, retry_after: str | None = None, *, reason: str = "") -> AosError:
    """The error behind an HTTP status of a model's server; `reason` is the code that it gives, if any."""
    if status in OVERLOADED:
        seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
        return ModelUnavailable(f"{what} refused with HTTP {status}: {message}", retry_after=seconds)
    if status in (401, 403):
        return ModelRefused(f"{what} refused the sign-in: check its API key.", code="model_unauthorized")
    too_long = any(words in f"{reason} {message}".lower() for words in _SAYS_TOO_LONG)
    return ModelRefused(f"{what} refused: {message}", code=TOO_LONG if too_long else None)
