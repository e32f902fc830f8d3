"""What can be wrong with a training, an adapter or the machine it runs on."""

from __future__ import annotations

from aos.errors import AosError


class TrainingDataInvalid(AosError):
    """The detail names file, line and field of the first mistakes."""

    code = "bad_training_data"
    title = "The training data is not valid."


class TrainingJobInvalid(AosError, ValueError):
    """The detail names each wrong parameter."""

    code = "bad_training_job"
    title = "The training cannot be done as it was asked for."


class BaseModelMissing(AosError):
    code = "base_model_missing"
    title = "The base model cannot be loaded."


class TrainingRunning(AosError):
    code = "training_running"
    title = "This adapter is being trained."


class TrainingFailed(AosError):
    """The training ended without an adapter; its checkpoints stay, so that the same training goes on from there."""

    code = "training_failed"
    title = "The training failed."


class DiskFull(TrainingFailed):
    code = "disk_full"
    title = "The adapter could not be written."


class UnknownAdapter(AosError):
    code = "unknown_adapter"
    title = "There is no such adapter."


class PromptTooLong(AosError):
    code = "context_length_exceeded"
    title = "The conversation is more than the model can read at once."


class ExtraMissing(AosError):
    code = "extra_missing"
    title = "The packages for training are not installed."


def need_torch() -> None:
    """Says what to install, before a long import fails in the middle.

    Raises:
        ExtraMissing: torch, transformers or peft are not there.
    """
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "peft", "accelerate") if find_spec(name) is None]
    if missing:
        raise ExtraMissing(
            f"{', '.join(missing)} cannot be imported: pip install 'agent-operating-system[ml]' installs all that "
            "training, evaluating and serving adapters on this machine takes."
        )
