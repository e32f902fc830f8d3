"""What an agent's entry says of how far it may go: limits of its turns, and calls that a person has to approve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aos.registry.entries import Finding
from aos.registry.problems import suggest

ApprovalPolicy = Literal["never", "always", "writes"]
"""When a call waits for a person; `writes`: when the tool is not annotated as read-only."""

ArgumentName = Annotated[str, Field(min_length=1, max_length=256)]


class TurnLimits(BaseModel):
    """`metadata.limits` of an agent: bounds of each of its turns in place of the default ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_steps: Annotated[int, Field(strict=True, ge=1, le=64)] = 16
    tool_calls: Annotated[int, Field(strict=True, ge=0, le=256)] = 64
    total_tokens: Annotated[int, Field(strict=True, ge=1, le=10_000_000)] = 200_000
    context_tokens: Annotated[int, Field(strict=True, ge=1_000, le=10_000_000)] | None = None
    """Size at which a conversation is rolled over before its next turn; `AOS_CONTEXT_TOKENS` without it."""
    delegation_depth: Annotated[int, Field(strict=True, ge=0, le=8)] = 3
    """How many agents may stand in a row behind the first one, each asked by the one before."""


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


class ToolConfiguration(BaseModel):
    """`configuration` of a tool in an agent's entry: how the agent may use the tool. Unknown keys are warned about.

    Attributes:
        approval: When a call waits for a person.
        defaults: Arguments that a call has unless the model gives them another value.
        fixed: Arguments that every call has; the model neither sees nor changes them.
        hidden: Arguments that the model does not see and cannot give: their value is that of `defaults`, else the
            tool's own.
        timeout_seconds: Seconds that the agent waits for the result of a call in all, retries and the way over the bus
            included; None for what the server's entry adds up to.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    approval: ApprovalPolicy = "never"
    defaults: dict[ArgumentName, JsonValue] = Field(default_factory=dict, max_length=64)
    fixed: dict[ArgumentName, JsonValue] = Field(default_factory=dict, max_length=64)
    hidden: Annotated[tuple[ArgumentName, ...], Field(max_length=64)] = ()
    timeout_seconds: Annotated[float, Field(strict=True, gt=0, le=3600)] | None = None

    @property
    def locked(self) -> frozenset[str]:
        """Arguments that the model may not give."""
        return frozenset((*self.fixed, *self.hidden))

    def approves(self, *, read_only: bool) -> bool:
        """Whether a person has to approve each call of a tool that is, or is not, annotated as read-only."""
        return self.approval == "always" or (self.approval == "writes" and not read_only)


def tool_configuration(configuration: Mapping[str, JsonValue]) -> ToolConfiguration:
    """The configuration as a model; `configuration_faults` says first whether it is valid."""
    return ToolConfiguration.model_validate(configuration)


def configuration_faults(configuration: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """What is wrong with the `configuration` of a tool."""
    if not configuration:
        return
    try:
        found = tool_configuration(configuration)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            at = details["loc"][:-1] if details["loc"][-1] == "[key]" else details["loc"]
            if details["type"] == "literal_error":
                yield ("configuration", *at), f"It must be one of: {', '.join(get_args(ApprovalPolicy))}."
            else:
                yield ("configuration", *at), details["msg"].replace("Input", "It", 1) + "."
        return
    for name in sorted(found.fixed.keys() & found.defaults.keys()):
        yield ("configuration", "defaults", name), "The argument is fixed: a default for it would never count."


def configuration_cautions(configuration: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """What in a valid `configuration` is probably a mistake."""
    if not configuration:
        return
    for name in tool_configuration(configuration).model_extra or ():
        yield ("configuration", name), f"AOS does not know this key.{suggest(name, ToolConfiguration.model_fields)}"
