"""What the SDKs raise, as errors of AOS."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aos.errors import AgentGone, AosError, ConversationGone, FoundryRefused, FoundryUnavailable, RequestRefused

if TYPE_CHECKING:
    from azure.core.exceptions import HttpResponseError
    from openai import APIStatusError

OVERLOADED = frozenset({408, 429, 500, 502, 503, 504})
LONGEST_RETRY_AFTER = 3600.0
"""Seconds; a service that asks for more is tried again after this time all the same."""


@contextmanager
def foundry_errors(what: str) -> Iterator[None]:
    """Turns errors of azure-core and openai into `FoundryUnavailable` or `FoundryRefused`.

    The SDKs check the shape of nothing: a page of a proxy, or half a body, shows as one of Python's own errors when it
    is read. So answers are read within this context.
    """
    import httpx2
    import openai
    from azure.core.exceptions import (
        ClientAuthenticationError,
        DecodeError,
        HttpResponseError,
        ServiceRequestError,
        ServiceResponseError,
    )

    try:
        yield
    except (openai.APITimeoutError, httpx2.TimeoutException, TimeoutError) as error:
        raise FoundryUnavailable(f"Foundry did not answer in time ({what}).", sent=not _refused(error)) from error
    except openai.APIConnectionError as error:
        raise FoundryUnavailable(
            f"Foundry cannot be reached ({what}): {_first_line(error.__cause__ or error)}", sent=not _refused(error)
        ) from error
    except httpx2.TransportError as error:
        # Older versions of openai let a stream's own errors through.
        raise FoundryUnavailable(f"Foundry cannot be reached ({what}): {_first_line(error)}", sent=True) from error
    except openai.APIStatusError as error:
        raise _of_status(error, what) from error
    except openai.APIError as error:
        raise _unreadable(what) from error
    except ServiceRequestError as error:
        raise FoundryUnavailable(f"Foundry cannot be reached ({what}): {_first_line(error)}", sent=False) from error
    except ServiceResponseError as error:
        raise FoundryUnavailable(f"Foundry did not answer ({what}): {_first_line(error)}", sent=True) from error
    except ClientAuthenticationError as error:
        raise _unauthorized(what, _first_line(error), sent=True) from error
    except DecodeError as error:
        raise _unreadable(what) from error
    except HttpResponseError as error:
        raise _of_response(error, what) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(what) from error


def _of_response(error: HttpResponseError, what: str) -> AosError:
    """An error of azure-core's clients."""
    if error.status_code == 403:
        return _unauthorized(what, _said(error), sent=True)
    if error.status_code in OVERLOADED:
        headers = getattr(error.response, "headers", {})
        return FoundryUnavailable(
            f"Foundry refused with HTTP {error.status_code} ({what}).",
            sent=True,
            retry_after=_seconds(headers.get("Retry-After")),
        )
    message = _said(error)
    if error.status_code == 404 and (gone := _missing(message, what)) is not None:
        return gone
    code = error.error.code if error.error is not None else None
    return RequestRefused(f"Foundry refused {what}: {message}", code=code or None)


def _of_status(error: APIStatusError, what: str) -> AosError:
    body = error.body if isinstance(error.body, dict) else {}
    code = str(body.get("code") or "")
    message = str(body.get("message") or _first_line(error))
    if error.status_code == 409 and code == "conversation_locked":
        # A step of ours may be running there: what it brings is adopted.
        return FoundryUnavailable(f"The Foundry conversation is busy ({what}).", sent=True, code=code)
    if error.status_code in OVERLOADED:
        headers = error.response.headers
        retry_after = _seconds(headers.get("retry-after"))
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            retry_after = _seconds(milliseconds, unit=1000.0) or retry_after
        return FoundryUnavailable(
            f"Foundry refused with HTTP {error.status_code} ({what}): {message}",
            sent=error.status_code != 429,
            retry_after=retry_after,
        )
    if error.status_code in (401, 403):
        return _unauthorized(what, message, sent=False)
    if error.status_code == 404:
        gone = _missing(message, what)
        if gone is not None:
            return gone
    return RequestRefused(f"Foundry refused {what}: {message}", code=code or None)


def _missing(message: str, what: str) -> FoundryRefused | None:
    """Which of the things that are made anew the service says is not there."""
    # What is missing stands outside the quotes; the names in them may hold any word.
    missing = re.sub(r"'[^']*'|\"[^\"]*\"", "", message).lower()
    if "conversation" in missing or "thread" in missing:
        return ConversationGone(f"{message} ({what})")
    if "agent" in missing or "assistant" in missing:
        return AgentGone(f"{message} It is made again for the next message.")
    return None


def _unreadable(what: str) -> FoundryUnavailable:
    # The step may have happened.
    return FoundryUnavailable(f"Foundry's answer could not be read ({what}).", sent=True)


def _said(error: HttpResponseError) -> str:
    return (error.error.message if error.error is not None else None) or _first_line(error)


def _unauthorized(what: str, said: str, *, sent: bool) -> FoundryUnavailable:
    """A token ran out, a role is missing: a matter of the account, not of the request.

    Once the operator has mended it the same request succeeds; so messages wait, as they do for storage.

    Args:
        sent: False if the whole step was this one request, which was refused before it was looked at.
    """
    return FoundryUnavailable(
        f"Foundry refused the sign-in ({what}): {said[:300]} Check AZURE_AI_API_KEY (is it this resource's, or was it "
        "renewed?), or give the app's identity a role on the project that may use agents (Azure AI User).",
        sent=sent,
        code="foundry_unauthorized",
    )


def _refused(error: Exception) -> bool:
    """Whether no byte of the request can have reached the service."""
    import httpx2

    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)


def _seconds(value: str | None, *, unit: float = 1.0) -> float | None:
    """A header's value in seconds, as far as it is one; `unit` of them make a second."""
    try:
        seconds = math.nan if value is None else float(value) / unit
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_AFTER) if seconds >= 0 else None


def seconds_in(message: str) -> float | None:
    """How long a message asks to wait: inside a failed run or response, that is said nowhere else."""
    found = re.search(r"(\d+(?:\.\d+)?) ?s(?:ec|\b)", message)
    return _seconds(found.group(1)) if found else None


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
