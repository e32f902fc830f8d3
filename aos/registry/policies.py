"""What an agent's entry says of how far it may go: limits of its turns, and calls that a person has to approve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aos.registry.entries import Finding

ApprovalPolicy = Literal["never", "always", "writes"]
"""When a call waits for a person; `writes`: when the tool is not annotated as read-only."""


class TurnLimits(BaseModel):
    """`metadata.limits` of an agent: bounds of each of its turns in place of the default ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_steps: Annotated[int, Field(strict=True, ge=1, le=64)] = 16
    tool_calls: Annotated[int, Field(strict=True, ge=0, le=256)] = 64
    total_tokens: Annotated[int, Field(strict=True, ge=1, le=10_000_000)] = 200_000
    context_tokens: Annotated[int, Field(strict=True, ge=1_000, le=10_000_000)] | None = None
    """Size at which a conversation is rolled over before its next turn; `AOS_CONTEXT_TOKENS` without it."""


def turn_limits(metadata: Mapping[str, JsonValue]) -> TurnLimits | None:
    """The agent's own limits, if it has any; `limits_faults` says first whether they are valid."""
    given = metadata.get("limits")
    return None if given is None else TurnLimits.model_validate(given)


def limits_faults(metadata: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """What is wrong with `metadata.limits`."""
    try:
        turn_limits(metadata)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            yield ("metadata", "limits", *details["loc"]), details["msg"].replace("Input", "It", 1) + "."


def approval_policy(configuration: Mapping[str, JsonValue]) -> ApprovalPolicy:
    """The policy that a tool's `configuration` sets; one that is wrong means `always`, the cautious reading."""
    given = configuration.get("approval", "never")
    return next((policy for policy in get_args(ApprovalPolicy) if policy == given), "always")


def approval_fault(configuration: Mapping[str, JsonValue]) -> Finding | None:
    """What is wrong with `configuration.approval`."""
    if configuration.get("approval", "never") in get_args(ApprovalPolicy):
        return None
    return ("configuration", "approval"), f"It must be one of: {', '.join(get_args(ApprovalPolicy))}."
