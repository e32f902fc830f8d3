"""Tools as their servers describe them."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict


class ToolInfo(BaseModel):
    """One tool. Without annotations a tool is taken to write: the cautious reading of the MCP specification.

    Attributes:
        read_only: `readOnlyHint`: calling it changes nothing.
        idempotent: `idempotentHint`: calling it twice is calling it once.
        wire_name: What the server calls it, if that has characters that nobody sees.
        changed: It is not the definition that was approved: it is neither offered nor called.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    description: str = ""
    input_schema: dict[str, Any]
    read_only: bool = False
    idempotent: bool = False
    wire_name: str | None = None
    changed: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether a call whose outcome is unknown may be made again."""
        return self.read_only or self.idempotent

    @property
    def definition_hash(self) -> str:
        """SHA-256 (hex) of what is approved: name, description, input schema and annotations."""
        data = self.model_dump(include={"name", "description", "input_schema", "read_only", "idempotent"})
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


class ServerTools(BaseModel):
    """The tools of one server as it last listed them.

    Attributes:
        listed_at: Seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    server_id: str
    tools: tuple[ToolInfo, ...]
    listed_at: float

    @cached_property
    def hash(self) -> str:
        """Changes when any tool's name, description, schema or annotation does."""
        data = [tool.model_dump() for tool in sorted(self.tools, key=lambda tool: tool.name)]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
