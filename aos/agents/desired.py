"""What operators want of agents: running or stopped, as rows that every process reads and that survive restarts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Literal

from aos.errors import StorageUnavailable
from aos.kernel.clock import Clock, SystemClock
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.rows import table_key

log = logging.getLogger("aos.agents")

TABLE = "aosdesired"
PARTITION = "agent"
MAX_AGE = 5.0
"""Seconds after which a process looks again whether an agent was stopped."""
MAX_AGE_STOPPED = 0.5
"""The same for an agent that is stopped: nothing else waits for that look."""
TRIES = 20
"""Writes over a row that others write, too."""

Order = Literal["start", "stop", "restart"]


@dataclass(frozen=True, slots=True)
class Desired:
    """What was last asked for.

    Attributes:
        stopped: It takes up no message until it is started.
        running_since: When it was last started after a stop, in seconds since the epoch; 0 if it was never stopped.
        restarts: How often a restart was asked for; each process compares it with what it has seen.
    """

    stopped: bool = False
    running_since: float = 0.0
    restarts: int = 0


class DesiredStates:
    """The rows of table `aosdesired`, read together and remembered for a few seconds."""

    def __init__(self, account: StorageAccount, clock: Clock | None = None) -> None:
        self._account = account
        self._clock = clock or SystemClock()
        self._states: dict[str, Desired] | None = None
        self._read_at = 0.0
        self._lock = asyncio.Lock()

    async def get(self, agent_id: str) -> Desired:
        """What is wanted of an agent; nothing special for one that nobody gave a command.

        Raises:
            StorageUnavailable: It was never read, and the account does not answer.
        """
        found = self._remembered(agent_id)
        if found is not None:
            return found
        async with self._lock:
            found = self._remembered(agent_id)
            if found is not None:
                return found
            try:
                self._states, _ = await self._read()
            except StorageUnavailable as error:
                if self._states is None:
                    raise
                log.warning("what operators want of agents is as of %.0f: %s", self._read_at, error.detail)
            self._read_at = self._clock.now()
            return self._states.get(agent_id, Desired())

    async def order(self, agent_id: str, order: Order) -> Desired:
        """Records what an operator asks for.

        Raises:
            StorageUnavailable: The account does not answer; give the order again.
        """
        async with self._lock:
            for _ in range(TRIES):
                states, versions = await self._read()
                known, etag = states.get(agent_id, Desired()), versions.get(agent_id)
                stopped = order == "stop"
                wanted = Desired(
                    stopped,
                    self._clock.now() if known.stopped and not stopped else known.running_since,
                    known.restarts + int(order == "restart"),
                )
                if await self._written(agent_id, wanted, etag):
                    self._states = states | {agent_id: wanted}
                    self._read_at = self._clock.now()
                    return wanted
        raise StorageUnavailable(f"Agent {agent_id!r} is given orders all the time; try again.", retry_after=1.0)

    async def _written(self, agent_id: str, wanted: Desired, etag: str | None) -> bool:
        """False: another process wrote since the row was read; over its order, this one would undo it."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        row = {
            "PartitionKey": PARTITION,
            "RowKey": table_key(agent_id),
            "agent_id": agent_id,
            "stopped": wanted.stopped,
            "running_since": wanted.running_since,
            "restarts": wanted.restarts,
        }
        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                if etag is None:
                    await table.create_entity(row)
                else:
                    await table.update_entity(
                        row, mode=UpdateMode.REPLACE, etag=etag, match_condition=MatchConditions.IfNotModified
                    )
            except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                return False
        return True

    def _remembered(self, agent_id: str) -> Desired | None:
        if self._states is None:
            return None
        found = self._states.get(agent_id, Desired())
        age = self._clock.now() - self._read_at
        return found if 0 <= age < (MAX_AGE_STOPPED if found.stopped else MAX_AGE) else None

    async def _read(self) -> tuple[dict[str, Desired], dict[str, str]]:
        """What is wanted of each agent, and the version of its row."""
        table = await self._account.table(TABLE)
        states: dict[str, Desired] = {}
        versions: dict[str, str] = {}
        with storage_errors(TABLE):
            async for row in table.query_entities("PartitionKey eq @p", parameters={"p": PARTITION}):
                name = row["agent_id"]
                states[name] = Desired(row["stopped"], row["running_since"], row["restarts"])
                versions[name] = str(row.metadata["etag"])
        return states, versions
