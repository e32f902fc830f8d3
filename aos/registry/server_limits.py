"""`metadata.limits` of an MCP server: how hard it may be worked, and how much it may say at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aos.registry.entries import Finding


class ServerLimits(BaseModel):
    """Bounds of one server in one process.

    Attributes:
        concurrent_calls: Requests that the server works on at the same time.
        waiting_calls: Requests that may wait for their turn; more are refused.
        calls_per_second: Requests that are sent on average; None does not limit them.
        message_bytes: Bytes of one message from the server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrent_calls: Annotated[int, Field(strict=True, ge=1, le=256)] = 16
    waiting_calls: Annotated[int, Field(strict=True, ge=0, le=4096)] = 256
    calls_per_second: Annotated[float, Field(gt=0, le=10_000)] | None = None
    message_bytes: Annotated[int, Field(strict=True, ge=4096, le=64 * 1024 * 1024)] = 32 * 1024 * 1024


def server_limits(metadata: Mapping[str, JsonValue]) -> ServerLimits:
    """The limits that hold; `server_limits_faults` says first whether the server's own are valid."""
    return ServerLimits.model_validate(metadata.get("limits") or {})


def server_limits_faults(metadata: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """What is wrong with `metadata.limits`."""
    try:
        server_limits(metadata)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            yield ("metadata", "limits", *details["loc"]), details["msg"].replace("Input", "It", 1) + "."
