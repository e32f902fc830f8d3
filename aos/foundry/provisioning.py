"""One agent in Foundry per definition: found, or made exactly once; and removed when nobody needs it any more.

The table `aosagents` remembers which version was made from which definition, so that cold starts ask storage and not
Foundry; making and removing one is guarded by a lease in the same row, so that twenty cold starts at once make one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aos.config import Settings
from aos.errors import AgentNotReady, FoundryRefused
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import AgentSpec
from aos.kernel.types import AgentRef
from aos.storage.account import StorageAccount, storage_errors

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient

log = logging.getLogger("aos.foundry")

TABLE = "aosagents"
LEASE = 60.0
PATIENCE = 20.0
FEW = 3
"""Agents that are looked up in Foundry one by one; for more of them all are listed, which is a request per hundred."""
TRANSACTION = 100
"""Rows that Table storage writes at once."""


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """What Foundry says about an agent's newest version.

    Attributes:
        ours: This app made it.
        agent_id: Whom it was made for, if it is ours.
    """

    version: str
    definition_hash: str
    ours: bool
    agent_id: str = ""


class AgentMaker(Protocol):
    """The part of an adapter that finds, makes and deletes agents."""

    async def list_agents(self) -> Mapping[str, KnownAgent]:
        """All agents of the project by name."""
        ...

    async def find_agent(self, name: str) -> KnownAgent | None: ...

    async def create_agent(self, name: str, spec: AgentSpec, definition_hash: str) -> str: ...

    async def delete_agent(self, name: str) -> bool:
        """Deletes what this app made under a name; False: there was nothing."""
        ...


class Provisioner:
    """Keeps one agent version per definition.

    Args:
        account: Where the memory is shared; without it this process remembers for itself.
        scope: Whose agents these are (see `scope_of`): memories of other projects, apps and generations keep apart.
    """

    def __init__(self, account: StorageAccount | None, clock: Clock | None = None, scope: str = "agent") -> None:
        self._account = account
        self._scope = scope
        self._clock = clock or SystemClock()
        self._owner = uuid.uuid4().hex
        self._known: dict[str, AgentRef] = {}
        self._seen: dict[str, tuple[str, str]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def look_up(self, agent_ids: Collection[str], maker: AgentMaker) -> frozenset[str]:
        """Many agents are about to be ensured: reads in bulk what storage, and then Foundry, know of them.

        Returns:
            Ids of all agents that this app made, as far as storage knows.

        Raises:
            StorageUnavailable, FoundryUnavailable, FoundryRefused: It cannot be looked up.
        """
        rows = {} if self._account is None else await self._rows(self._account)
        self._seen = {name: (row["hash"], row["version"]) for name, row in rows.items() if row["hash"]}
        for agent_id, known in [*self._known.items()] if self._account is not None else ():
            row = rows.get(known.name)
            if row is None or (row["hash"] == known.definition_hash and row["version"] != known.version):
                # Another process removed it, or made it again.
                del self._known[agent_id]
        wanted = {foundry_name(agent_id) for agent_id in set(agent_ids) - self._known.keys()}
        if len(wanted - self._seen.keys()) > FEW:
            listed = await maker.list_agents()
            # Only those asked for: another app of the same name in this project may have made the others.
            found = {
                name: listed[name]
                for name in (wanted - self._seen.keys()) & listed.keys()
                if listed[name].ours and listed[name].definition_hash
            }
            self._seen |= {name: (agent.definition_hash, agent.version) for name, agent in found.items()}
            if self._account is not None:
                rows |= await self._adopt(self._account, {n: a for n, a in found.items() if n not in rows})
        return frozenset(row["agent_id"] for row in rows.values() if row.get("agent_id"))

    async def ensure(self, spec: AgentSpec, maker: AgentMaker) -> AgentRef:
        """The version made from exactly this spec.

        Raises:
            AgentNotReady: Another process is making it and has not finished.
            FoundryUnavailable, FoundryRefused: From Foundry.
        """
        wanted = definition_hash(spec)
        known = self._known.get(spec.agent_id)
        if known is not None and known.definition_hash == wanted:
            return known
        async with self._locks.setdefault(spec.agent_id, asyncio.Lock()):
            known = self._known.get(spec.agent_id)
            if known is None or known.definition_hash != wanted:
                name = foundry_name(spec.agent_id)
                seen_hash, version = self._seen.pop(name, ("", ""))
                if seen_hash != wanted:
                    if self._account is None:
                        version = await self._make(name, spec, wanted, maker)
                    else:
                        version = await self._shared(self._account, name, spec, wanted, maker)
                known = self._known[spec.agent_id] = AgentRef(name, version, wanted, spec.deployment)
        return known

    async def forget(self, agent_id: str) -> None:
        """The agent turned out to be gone from Foundry: look again when it is next needed."""
        from azure.core.exceptions import ResourceNotFoundError

        name = foundry_name(agent_id)
        self._known.pop(agent_id, None)
        self._seen.pop(name, None)
        if self._account is not None:
            table = await self._account.table(TABLE)
            with storage_errors(TABLE):
                try:
                    # The row stays: it is known of the agent that this app makes it.
                    await table.update_entity({"PartitionKey": self._scope, "RowKey": name, "hash": "", "version": ""})
                except ResourceNotFoundError:
                    return

    async def remove(self, agent_id: str, maker: AgentMaker) -> bool:
        """Has the agent deleted, as far as this app made it.

        Returns:
            Whether there was anything to delete.

        Raises:
            AgentNotReady: Another process makes or removes it just now.
            FoundryUnavailable, FoundryRefused: From Foundry; the agent may be there still.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        name = foundry_name(agent_id)
        async with self._locks.setdefault(agent_id, asyncio.Lock()):
            self._known.pop(agent_id, None)
            self._seen.pop(name, None)
            if self._account is None:
                return await maker.delete_agent(name)
            table = await self._account.table(TABLE)
            claim = await self._claim(table, name, agent_id, None)
            assert isinstance(claim, _Claim)  # noqa: S101 - no version is wanted
            deleted = False
            try:
                deleted = await maker.delete_agent(name)
            except BaseException:
                await self._free(table, claim, {})
                raise
            with storage_errors(TABLE):
                try:
                    await table.delete_entity(
                        self._scope, name, etag=claim.etag, match_condition=MatchConditions.IfNotModified
                    )
                except (ResourceModifiedError, ResourceNotFoundError):
                    log.warning("the lease for removing agent %s ran out before it was removed", name)
        return deleted

    async def _make(self, name: str, spec: AgentSpec, wanted: str, maker: AgentMaker) -> str:
        found = await maker.find_agent(name)
        if found is not None and not found.ours:
            raise FoundryRefused(
                f"The Foundry project has an agent {name!r} that AOS did not make; AOS does not touch it. Rename "
                "the agent in the registry, or delete the other one.",
                code="agent_name_taken",
            )
        if found is not None and found.definition_hash == wanted:
            return found.version
        version = await maker.create_agent(name, spec, wanted)
        log.info("made agent %s version %s on %s", name, version, spec.deployment)
        return version

    async def _shared(self, account: StorageAccount, name: str, spec: AgentSpec, wanted: str, maker: AgentMaker) -> str:
        table = await account.table(TABLE)
        claim = await self._claim(table, name, spec.agent_id, wanted)
        if isinstance(claim, str):
            return claim
        made = {}
        try:
            version = await self._make(name, spec, wanted, maker)
            made = {"hash": wanted, "version": version}
        finally:
            await self._free(table, claim, made)
        return version

    async def _claim(self, table: TableClient, name: str, agent_id: str, wanted: str | None) -> _Claim | str:
        """Takes the lease of an agent's row, or returns the version that was made from the wanted definition.

        Args:
            wanted: None: the agent is to go, so meanwhile the row names no version.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        gives_up = self._clock.now() + PATIENCE
        blank = {"PartitionKey": self._scope, "RowKey": name, "hash": "", "version": ""}
        while True:
            row: dict[str, Any] | None
            with storage_errors(TABLE):
                try:
                    entity = await table.get_entity(self._scope, name)
                    row, etag = dict(entity), entity.metadata["etag"]
                except ResourceNotFoundError:
                    row, etag = None, None
                if row is not None and row.get("hash") == wanted:
                    return str(row["version"])
                now = self._clock.now()
                if row is None or row["owner"] in ("", self._owner) or row["lease_until"] <= now:
                    kept = blank if row is None or wanted is None else row
                    claim = {**kept, "agent_id": agent_id, "owner": self._owner, "lease_until": now + LEASE}
                    try:
                        if etag is None:
                            written = await table.create_entity(claim)
                        else:
                            written = await table.update_entity(
                                claim,
                                mode=UpdateMode.REPLACE,
                                etag=etag,
                                match_condition=MatchConditions.IfNotModified,
                            )
                        return _Claim(claim, written["etag"])
                    except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                        continue
            if self._clock.now() > gives_up:
                raise AgentNotReady(f"Another process is making agent {name}.", retry_after=2.0)
            await self._clock.sleep(0.2)

    async def _free(self, table: TableClient, claim: _Claim, made: Mapping[str, str]) -> None:
        """Gives the lease back and writes down what was made under it."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        freed = {**claim.row, "owner": "", "lease_until": 0.0, **made}
        etag: str | None = claim.etag
        with storage_errors(TABLE):
            while True:
                try:
                    await table.update_entity(
                        freed, mode=UpdateMode.REPLACE, etag=etag, match_condition=MatchConditions.IfNotModified
                    )
                    return
                except (ResourceModifiedError, ResourceNotFoundError):
                    pass
                try:
                    row = await table.get_entity(self._scope, claim.row["RowKey"])
                except ResourceNotFoundError:
                    row = None
                if row is None or row["owner"] != self._owner:
                    # Another owner's now, or gone: whoever looks next finds the agent by its hash.
                    log.warning("the lease for making agent %s ran out before it was made", claim.row["RowKey"])
                    return
                # A process that was told that the agent is gone made the row forget it; the lease is still ours.
                freed, etag = {**row, "owner": "", "lease_until": 0.0, **made}, row.metadata["etag"]

    async def _rows(self, account: StorageAccount) -> dict[str, dict[str, Any]]:
        """What is remembered of all agents of the scope, by name: one query, a request per thousand rows."""
        table = await account.table(TABLE)
        with storage_errors(TABLE):
            return {
                row["RowKey"]: dict(row)
                async for row in table.query_entities(
                    "PartitionKey eq @scope",
                    parameters={"scope": self._scope},
                    select=["RowKey", "agent_id", "hash", "version"],
                )
            }

    async def _adopt(self, account: StorageAccount, found: Mapping[str, KnownAgent]) -> dict[str, dict[str, Any]]:
        """Remembers agents of ours that storage knew nothing of; others may do the same at the same time.

        Returns:
            The rows that were written.
        """
        from azure.core.exceptions import HttpResponseError

        table = await account.table(TABLE)
        rows: dict[str, dict[str, Any]] = {
            name: {
                "PartitionKey": self._scope,
                "RowKey": name,
                "agent_id": agent.agent_id,
                "hash": agent.definition_hash,
                "version": agent.version,
                "owner": "",
                "lease_until": 0.0,
            }
            for name, agent in found.items()
        }
        names = sorted(rows)
        for start in range(0, len(names), TRANSACTION):
            batch = names[start : start + TRANSACTION]
            with storage_errors(TABLE):
                try:
                    await table.submit_transaction([("create", rows[name]) for name in batch])
                except HttpResponseError as error:
                    if error.status_code != 409:
                        raise
                    # Another process is about the same; what it leaves out is looked up again next time.
                    log.info("%s of %s are being remembered elsewhere", len(batch), len(rows))
        if rows:
            log.info("found %d agents in Foundry that were not remembered", len(rows))
        return rows


@dataclass(frozen=True, slots=True)
class _Claim:
    """A row whose lease is ours."""

    row: dict[str, Any]
    etag: str


def scope_of(settings: Settings) -> str:
    """The generation of the API, the app and the project: an agent made for one of them is none of another."""
    project = hashlib.sha256((settings.project_endpoint or "").rstrip("/").lower().encode()).hexdigest()[:16]
    return f"{settings.foundry_api}.{settings.app_name}.{project}"


def definition_hash(spec: AgentSpec) -> str:
    """Equal for specs that make the same agent."""
    data: dict[str, object] = {
        "deployment": spec.deployment,
        "instructions": spec.instructions,
        "functions": [[f.name, f.description, f.parameters] for f in spec.functions],
    }
    # Only where there are any: agents without them keep the hash that they were made with.
    if spec.service_functions:
        data["service_functions"] = [asdict(function) for function in spec.service_functions]
    if spec.service_agents:
        data["service_agents"] = [asdict(agent) for agent in spec.service_agents]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def foundry_name(agent_id: str) -> str:
    """The agent's name in Foundry: at most 63 letters, digits and hyphens, ending in a letter or digit.

    An id that has to be changed, or that looks as if it had been, gets a piece of its hash, so that two ids never
    share a name.
    """
    name = re.sub(r"[^A-Za-z0-9-]", "-", agent_id).strip("-")[:54].rstrip("-")
    if name == agent_id and not re.search(r"(^|-)[0-9a-f]{8}$", name):
        return name
    return f"{name}-{hashlib.sha256(agent_id.encode()).hexdigest()[:8]}".lstrip("-")
