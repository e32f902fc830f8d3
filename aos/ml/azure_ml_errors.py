"""What can go wrong between this machine and an adapter that was trained in Azure Machine Learning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from aos.errors import AosError, TransientError


class AzureMLRequestInvalid(AosError, ValueError):
    """The detail names each argument that is missing or wrong, and the setting that may stand in for it."""

    code = "bad_azure_ml_request"
    title = "The pipeline cannot be run as it was asked for."


class AzureMLSignIn(AosError):
    """Nobody is signed in, or the identity may not do this in the workspace."""

    code = "azure_ml_sign_in"
    title = "Azure Machine Learning refused the sign-in."


class WorkspaceUnknown(AosError):
    code = "unknown_workspace"
    title = "There is no such Azure Machine Learning workspace."


class AzureMLQuota(AosError):
    code = "azure_ml_quota"
    title = "The quota of the subscription does not allow it."


class AzureMLRefused(AosError):
    code = "azure_ml_refused"
    title = "Azure Machine Learning refused the request."


class AzureMLMissing(AzureMLRefused):
    """Something that the request names does not exist in the workspace."""

    code = "azure_ml_missing"
    title = "Azure Machine Learning does not have it."


class AzureMLUnavailable(TransientError):
    code = "azure_ml_unavailable"
    title = "Azure Machine Learning is unavailable."


class AzureMLJobFailed(AosError):
    """A job ended without an adapter.

    Attributes:
        job_name: Its name.
        studio_url: Where its logs are.
    """

    code = "azure_ml_job_failed"
    title = "The training job failed."

    def __init__(self, detail: str, *, job_name: str, studio_url: str | None) -> None:
        super().__init__(detail)
        self.job_name, self.studio_url = job_name, studio_url


class AzureMLTimedOut(AosError):
    """Something took longer than it was given.

    Attributes:
        job_name: Of the job that was waited for; it was cancelled.
    """

    code = "azure_ml_timed_out"
    title = "Azure Machine Learning took too long."

    def __init__(self, detail: str, *, job_name: str | None = None) -> None:
        super().__init__(detail)
        self.job_name = job_name


OVERLOADED = frozenset({408, 429, 500, 502, 503, 504})
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_QUOTA = ("quota", "notenoughcores", "insufficient capacity")


def is_quota(message: str) -> bool:
    return any(word in message.lower() for word in _QUOTA)


@contextmanager
def azure_ml_errors(what: str) -> Iterator[None]:
    """Errors of the SDK as errors of AOS.

    Args:
        what: What is being done, as the beginning of a sentence.
    """
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        DeserializationError,
        HttpResponseError,
        ResourceNotFoundError,
        ServiceRequestError,
        ServiceResponseError,
    )

    try:
        yield
    except ResourceNotFoundError as error:
        raise AzureMLMissing(f"{what}: {_first_line(error)}") from error
    except ClientAuthenticationError as error:
        raise AzureMLSignIn(
            f"{what}: cannot sign in to Azure: run `az login`, or set AZURE_CLIENT_ID to a managed identity of "
            f"this app. {_first_line(error)}"
        ) from error
    except HttpResponseError as error:
        status, said = error.status_code or 0, _first_line(error)
        if status in (401, 403):
            raise AzureMLSignIn(
                f"{what}: the identity may not do this; it needs the role AzureML Data Scientist (AzureML Compute "
                f"Operator to make compute) on the workspace. {said}"
            ) from error
        if is_quota(f"{error}"):
            raise AzureMLQuota(f"{what}: {said} Ask for more, or name another compute or VM size.") from error
        if status in OVERLOADED:
            raise AzureMLUnavailable(f"{what}: HTTP {status}: {said}") from error
        raise AzureMLRefused(f"{what}: {said}") from error
    except (ServiceRequestError, ServiceResponseError) as error:
        raise AzureMLUnavailable(f"{what}: Azure cannot be reached: {_first_line(error)}") from error
    except DeserializationError as error:
        raise AzureMLUnavailable(f"{what}: an answer cannot be read: {_first_line(error)}") from error
    except (AzureError, MlException) as error:
        raise AzureMLRefused(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """What an error of the SDK says, without the frame and the colours that it puts around it."""
    lines = [_COLOUR.sub("", line).strip() for line in str(error).splitlines()]
    marked = [line.removeprefix("(x)").strip() for line in lines if line.startswith("(x)")]
    said = marked or [line for line in lines if line]
    return said[0][:500] if said else type(error).__name__
