"""What the MCP servers are doing, and what they are meant to do, as rows that every process reads.

Table `aosservers`: partition `status` holds what the process that runs a server last said of it, partition `desired`
what an operator asked for. A status is written on change and as a heartbeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from aos.errors import StorageUnavailable
from aos.kernel.clock import Clock, SystemClock
from aos.mcp.connections import State
from aos.mcp.drift import Drift
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.rows import table_key

if TYPE_CHECKING:
    from azure.data.tables import TableEntity

TABLE = "aosservers"
STATUS, DESIRED = "status", "desired"

HEARTBEAT = 30.0
"""Seconds between two heartbeats of a server that does not change."""
STALE = 90.0
"""Seconds after which a server that was not heard of no longer counts as running."""
LONGEST_ERROR = 2000
TRIES = 20
"""Attempts to write while other commands write too."""
PAUSE = 0.02


class ServerStatus(BaseModel):
    """One server, as the process that runs it sees it.

    Attributes:
        since: When it came into this state, in seconds since the epoch.
        tools: How many tools it listed; None if it never did.
        drift: Where it is not what was declared, or approved.
        heartbeat_at: When this was said, in seconds since the epoch.
        owner: The process that said it.
    """

    model_config = ConfigDict(frozen=True)

    server_id: str
    server_name: str
    state: State
    since: float
    last_error: str | None = None
    restarts: int = 0
    tools: int | None = None
    drift: tuple[Drift, ...] = ()
    heartbeat_at: float
    owner: str

    @property
    def running(self) -> bool:
        return self.state == "running"

    def view(self) -> dict[str, Any]:
        """What `GET mcp/servers` shows of it."""
        return {"status": self.state, **self.model_dump(exclude={"server_id", "server_name", "state"})}

    def at(self, now: float) -> ServerStatus:
        """The status as of now: a process that is silent for too long runs nothing any more."""
        if self.state not in ("running", "starting") or now - self.heartbeat_at < STALE:
            return self
        return self.model_copy(
            update={
                "state": "stopped",
                "since": self.heartbeat_at,
                "last_error": f"{self.owner}, which ran it, was last heard of {now - self.heartbeat_at:.0f} s ago",
            }
        )


class Desired(BaseModel):
    """What an operator asked for.

    Attributes:
        stopped: It shall not run.
        restarts: How often a restart was asked for; each process compares it with what it has seen.
    """

    model_config = ConfigDict(frozen=True)

    stopped: bool = False
    restarts: int = 0


class ServerStatusBoard:
    """The rows of the storage account. Every method raises `StorageUnavailable` when the account does not answer."""

    def __init__(self, account: StorageAccount, clock: Clock | None = None) -> None:
        self._account = account
        self._clock = clock or SystemClock()

    async def write(self, status: ServerStatus) -> bool:
        """Records a status. Where several processes run a server, the word of one that runs it outweighs the others'.

        Returns:
            Whether it was recorded.
        """
        if not status.running:
            known = await self._get(STATUS, status.server_id)
            if known is not None:
                other = ServerStatus.model_validate_json(known["data"])
                if other.owner != status.owner and other.at(self._clock.now()).running:
                    return False
        error = status.last_error and status.last_error[:LONGEST_ERROR]
        await self._put(STATUS, status.server_id, status.model_copy(update={"last_error": error}))
        return True

    async def all(self) -> list[ServerStatus]:
        """Every server that was ever heard of, by id, as of now."""
        now = self._clock.now()
        rows = await self._rows(STATUS)
        found = [ServerStatus.model_validate_json(row["data"]).at(now) for row in rows]
        return sorted(found, key=lambda status: status.server_id)

    async def remove(self, server_id: str) -> None:
        """Forgets a server that is not registered any more."""
        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            for partition in (STATUS, DESIRED):
                # Deleting what is not there is no error in this SDK.
                await table.delete_entity(partition, table_key(server_id))

    async def desired(self) -> dict[str, Desired]:
        """What operators asked for, by server id; nothing for a server that nobody gave a command."""
        return {row["server_id"]: Desired.model_validate_json(row["data"]) for row in await self._rows(DESIRED)}

    async def ask(self, server_id: str, *, stopped: bool, restart: bool = False) -> Desired:
        """Records what an operator asks for; every process follows within a heartbeat."""
        for attempt in range(TRIES):
            row = await self._get(DESIRED, server_id)
            known = Desired() if row is None else Desired.model_validate_json(row["data"])
            wanted = Desired(stopped=stopped, restarts=known.restarts + int(restart))
            if await self._replace(DESIRED, server_id, wanted, row):
                return wanted
            # Another command came in between: none of the two may be lost.
            await self._clock.sleep(PAUSE * (1 + attempt))
        raise StorageUnavailable(f"The row of MCP server {server_id} in {TABLE} changes too fast.")

    async def _get(self, partition: str, server_id: str) -> TableEntity | None:
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                return await table.get_entity(partition, table_key(server_id))
            except ResourceNotFoundError:
                return None

    async def _replace(self, partition: str, server_id: str, value: BaseModel, known: TableEntity | None) -> bool:
        """Writes a row if it is still the one that was read, or still not there."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        row = _row(partition, server_id, value)
        with storage_errors(TABLE):
            try:
                if known is None:
                    await table.create_entity(row)
                else:
                    await table.update_entity(
                        row,
                        mode=UpdateMode.REPLACE,
                        etag=known.metadata["etag"],
                        match_condition=MatchConditions.IfNotModified,
                    )
            except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                return False
        return True

    async def _put(self, partition: str, server_id: str, value: BaseModel) -> None:
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            await table.upsert_entity(_row(partition, server_id, value), mode=UpdateMode.REPLACE)

    async def _rows(self, partition: str) -> list[dict[str, Any]]:
        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            found = table.query_entities("PartitionKey eq @p", parameters={"p": partition})
            return [dict(row) async for row in found]


def _row(partition: str, server_id: str, value: BaseModel) -> dict[str, str]:
    return {
        "PartitionKey": partition,
        "RowKey": table_key(server_id),
        "server_id": server_id,
        "data": value.model_dump_json(),
    }
