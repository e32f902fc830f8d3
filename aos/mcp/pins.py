"""Approved tool definitions: `mcp_tools.lock.json`, a blob beside the registry of MCP servers.

A server may change what its tools are at any time, and with their descriptions what a model is told. So the first
definition of a tool that is seen is trusted and kept; another one is not used until somebody approves it. Every
process reads the blob, and writes it only if it is the version that it read (ETag).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from aos.errors import StorageUnavailable
from aos.kernel.clock import Clock, SystemClock
from aos.mcp.errors import LockInvalid
from aos.mcp.tools import ServerTools, ToolInfo
from aos.storage.account import StorageAccount, storage_errors

log = logging.getLogger("aos.mcp")

LOCK = "mcp_tools.lock.json"
KEEP = 10.0
"""Seconds for which a process trusts what it read."""
LARGEST = 32 * 1024 * 1024
TRIES = 20
"""Attempts to write while other processes write too."""
PAUSE = 0.05


class Pin(BaseModel):
    """An approved definition.

    Attributes:
        hash: SHA-256 (hex) of the definition; see `ToolInfo.definition_hash`.
        since: When it was first seen, or approved.
        by: `first sight`, or `approval`.
    """

    model_config = ConfigDict(frozen=True)

    hash: str
    since: datetime
    by: Literal["first sight", "approval"] = "first sight"
    description: str = ""
    input_schema: dict[str, Any]
    read_only: bool = False
    idempotent: bool = False

    def info(self, name: str) -> ToolInfo:
        """The definition as a tool."""
        return ToolInfo(
            name=name,
            description=self.description,
            input_schema=self.input_schema,
            read_only=self.read_only,
            idempotent=self.idempotent,
        )


class Lock(BaseModel):
    """The document: pins by server id and tool name."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    servers: dict[str, dict[str, Pin]] = {}

    def pins(self, server_id: str) -> dict[str, Pin]:
        """The approved definitions of a server, by name."""
        return self.servers.get(server_id, {})


class ToolPins:
    """The lock of the storage account.

    Args:
        container: Where the registry of MCP servers lies.
    """

    def __init__(self, account: StorageAccount, container: str, clock: Clock | None = None) -> None:
        self._account = account
        self._container = container
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._etag: str | None = None
        self._looked_at: float | None = None
        self._versions: dict[str, str] = {}
        self._turn = asyncio.Lock()

    @property
    def origin(self) -> str:
        return f"blob {self._container}/{LOCK}"

    def version(self, server_id: str) -> str:
        """Changes when an approved definition of the server does, as far as this process has read."""
        if server_id not in self._versions:
            pins = sorted((name, pin.hash) for name, pin in self._lock.pins(server_id).items())
            self._versions[server_id] = hashlib.sha256(repr(pins).encode()).hexdigest()
        return self._versions[server_id]

    async def current(self, *, fresh: bool = False) -> Lock:
        """The document, at most ten seconds old.

        Raises:
            StorageUnavailable: It could not be read.
            LockInvalid: It is not what AOS writes.
        """
        async with self._turn:
            if fresh or self._looked_at is None or self._clock.now() - self._looked_at >= KEEP:
                await self._read()
            return self._lock

    async def hold(self, listed: ServerTools) -> ServerTools:
        """Pins the tools that were never seen, and marks those that are not what was approved.

        Raises: as `current`.
        """
        await self.current()

        def unseen(lock: Lock) -> dict[str, Pin]:
            known = lock.pins(listed.server_id)
            return {tool.name: self._pin(tool, "first sight") for tool in listed.tools if tool.name not in known}

        await self._add(listed.server_id, unseen)
        pins = self._lock.pins(listed.server_id)
        tools = [
            tool if pins[tool.name].hash == tool.definition_hash else tool.model_copy(update={"changed": True})
            for tool in listed.tools
        ]
        return listed.model_copy(update={"tools": tuple(tools)})

    async def approve(self, server_id: str, tools: Iterable[ToolInfo]) -> None:
        """Makes these the definitions that may be used. Raises as `current`."""
        pins = {tool.name: self._pin(tool, "approval") for tool in tools}
        await self.current(fresh=True)
        await self._add(server_id, lambda lock: pins)

    async def _add(self, server_id: str, wanted: Callable[[Lock], dict[str, Pin]]) -> None:
        def changed(lock: Lock) -> Lock:
            pins = wanted(lock)
            return _with(lock, server_id, {**lock.pins(server_id), **pins}) if pins else lock

        await self._change(changed)

    async def _change(self, change: Callable[[Lock], Lock]) -> None:
        """Applies a change to the newest version; writes nothing if it makes no difference."""
        async with self._turn:
            for attempt in range(TRIES):
                if (new := change(self._lock)) is self._lock:
                    return
                if await self._write(new):
                    return
                # Somebody else wrote in between.
                await self._clock.sleep(PAUSE * (1 + attempt))
                await self._read()
        raise StorageUnavailable(f"{self.origin} changes too fast.")

    async def _read(self) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        container = await self._account.container(self._container)
        condition: dict[str, Any] = {}
        if self._etag is not None:
            condition = {"etag": self._etag, "match_condition": MatchConditions.IfModified}
        with storage_errors(self.origin):
            try:
                stream = await container.download_blob(LOCK, **condition)
                if stream.size > LARGEST:
                    raise LockInvalid(f"{self.origin} has {stream.size} bytes; at most {LARGEST} are read.")
                data = await stream.readall()
                self._take(_parsed(data, self.origin), stream.properties.etag)
            except ResourceNotFoundError:
                # There is none yet, or somebody removed it: what is seen next is trusted.
                self._take(Lock(), None)
            except HttpResponseError as error:
                if error.status_code != 304:
                    raise
        self._looked_at = self._clock.now()

    async def _write(self, lock: Lock) -> bool:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

        container = await self._account.container(self._container)
        condition: dict[str, Any] = {"overwrite": False}
        if self._etag is not None:
            condition = {"overwrite": True, "etag": self._etag, "match_condition": MatchConditions.IfNotModified}
        data = lock.model_dump_json(indent=1).encode()
        if len(data) > LARGEST:
            raise LockInvalid(f"{self.origin} would have {len(data)} bytes; at most {LARGEST} are kept.")
        with storage_errors(self.origin):
            try:
                done = await container.get_blob_client(LOCK).upload_blob(data, **condition)
            except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                return False
        self._take(lock, done["etag"])
        return True

    def _take(self, lock: Lock, etag: str | None) -> None:
        self._lock, self._etag = lock, etag
        self._versions.clear()

    def _pin(self, tool: ToolInfo, by: Literal["first sight", "approval"]) -> Pin:
        return Pin(
            hash=tool.definition_hash,
            since=datetime.fromtimestamp(round(self._clock.now()), UTC),
            by=by,
            description=tool.description,
            input_schema=tool.input_schema,
            read_only=tool.read_only,
            idempotent=tool.idempotent,
        )


def _with(lock: Lock, server_id: str, pins: dict[str, Pin]) -> Lock:
    return lock.model_copy(update={"servers": {**lock.servers, server_id: pins}})


def _parsed(data: bytes, origin: str) -> Lock:
    try:
        return Lock.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"/{part}" for part in first["loc"])
        raise LockInvalid(
            f"{origin} is not valid: {where or 'the document'}: {first['msg']}. Mend it, or delete it to trust the "
            "definitions that are seen next."
        ) from None
