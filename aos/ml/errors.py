"""What callers of the model clients may have done wrong."""

from __future__ import annotations

from aos.errors import AosError, SettingError


class ModelSettingError(SettingError, ValueError):
    """A model is not configured, or wrongly; the detail names the setting."""


class InvalidModelRequest(AosError, ValueError):
    """A request that no model can be asked: an empty message, an unknown tool, metadata that is too long."""

    code = "invalid_model_request"
    title = "The request to the model is not valid."
