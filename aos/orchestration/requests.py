"""Requests to the orchestrator, checked."""

from __future__ import annotations

from collections.abc import Sequence

from aos.foundry.values import whole
from aos.ml import InvalidModelRequest
from aos.orchestration.model_types import ModelRequest, ModelType

LONGEST_TEXT = 250_000
"""Characters."""
LONGEST_DOMAIN = 64
LONGEST_ID = 256


def parse_type(value: ModelType | str) -> ModelType:
    """A type of model by its name.

    Raises:
        InvalidModelRequest: There is none of this name.
    """
    try:
        return ModelType(value)
    except ValueError:
        known = ", ".join(kind.value for kind in ModelType)
        raise InvalidModelRequest(f"model_type: {str(value)[:64]!r} unknown; known: {known}.") from None


def parse_request(
    *,
    domain: str,
    text: str,
    conversation_id: str,
    instructions: str | None,
    tools: Sequence[str],
    timeout: float | None,
) -> ModelRequest:
    """A request whose every part is within its bounds.

    Raises:
        InvalidModelRequest: The detail names the field.
    """
    _require_name("domain", domain, LONGEST_DOMAIN)
    _require_name("conversation_id", conversation_id, LONGEST_ID)
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT:
        raise InvalidModelRequest(f"user_input: 1 to {LONGEST_TEXT} characters.")
    if instructions is not None and (not isinstance(instructions, str) or len(instructions) > LONGEST_TEXT):
        raise InvalidModelRequest(f"system_prompt: text of up to {LONGEST_TEXT} characters.")
    if timeout is not None and not 0 < timeout <= 3600:
        raise InvalidModelRequest(f"timeout: {timeout}; seconds, up to 3600.")
    return ModelRequest(domain, whole(text), conversation_id, instructions, tuple(tools), timeout)


def _require_name(field: str, value: str, longest: int) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise InvalidModelRequest(f"{field}: 1 to {longest} printable characters.")
