"""One agent in Foundry per definition: found, or made exactly once.

The table `aosagents` remembers which version was made from which definition, so that cold starts ask storage and not
Foundry; making one is guarded by a lease in the same row, so that twenty cold starts at once make one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import uuid
from dataclasses import dataclass
from typing import Any, Protocol

from aos.config import Settings
from aos.errors import AgentNotReady, FoundryRefused
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import AgentSpec
from aos.kernel.types import AgentRef
from aos.storage.account import StorageAccount, storage_errors

log = logging.getLogger("aos.foundry")

LEASE = 60.0
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """What Foundry says about an agent's newest version. `ours`: this app made it."""

    version: str
    definition_hash: str
    ours: bool


class AgentMaker(Protocol):
    """The part of an adapter that finds and makes agents."""

    async def find_agent(self, name: str) -> KnownAgent | None: ...

    async def create_agent(self, name: str, spec: AgentSpec, definition_hash: str) -> str: ...


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
        self._locks: dict[str, asyncio.Lock] = {}

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
                if self._account is None:
                    version = await self._make(name, spec, wanted, maker)
                else:
                    version = await self._shared(self._account, name, spec, wanted, maker)
                known = self._known[spec.agent_id] = AgentRef(name, version, wanted, spec.deployment)
        return known

    async def forget(self, agent_id: str) -> None:
        """The agent turned out to be gone from Foundry: look again when it is next needed."""
        self._known.pop(agent_id, None)
        if self._account is not None:
            table = await self._account.table("aosagents")
            with storage_errors("aosagents"):
                await table.delete_entity(self._scope, foundry_name(agent_id))

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
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        table = await account.table("aosagents")
        gives_up = self._clock.now() + PATIENCE
        while True:
            row: dict[str, Any] | None
            with storage_errors("aosagents"):
                try:
                    entity = await table.get_entity(self._scope, name)
                    row, etag = dict(entity), entity.metadata["etag"]
                except ResourceNotFoundError:
                    row, etag = None, None
                if row is not None and row.get("hash") == wanted:
                    return str(row["version"])
                now = self._clock.now()
                if row is None or row["owner"] in ("", self._owner) or row["lease_until"] <= now:
                    claim = {
                        **(row or {"PartitionKey": self._scope, "RowKey": name, "hash": "", "version": ""}),
                        "owner": self._owner,
                        "lease_until": now + LEASE,
                    }
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
                        break
                    except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                        continue
            if self._clock.now() > gives_up:
                raise AgentNotReady(f"Another process is making agent {name}.", retry_after=2.0)
            await self._clock.sleep(0.2)
        freed: dict[str, Any] = {**claim, "owner": "", "lease_until": 0.0}
        try:
            version = await self._make(name, spec, wanted, maker)
            freed |= {"hash": wanted, "version": version}
        finally:
            with storage_errors("aosagents"):
                try:
                    await table.update_entity(
                        freed,
                        mode=UpdateMode.REPLACE,
                        etag=written["etag"],
                        match_condition=MatchConditions.IfNotModified,
                    )
                except (ResourceModifiedError, ResourceNotFoundError):
                    # The row is another owner's now, or was forgotten: whoever looks next finds the agent by its hash.
                    log.warning("the lease for making agent %s ran out before it was made", name)
        return version


def scope_of(settings: Settings) -> str:
    """The generation of the API, the app and the project: an agent made for one of them is none of another."""
    project = hashlib.sha256((settings.project_endpoint or "").rstrip("/").lower().encode()).hexdigest()[:16]
    return f"{settings.foundry_api}.{settings.app_name}.{project}"


def definition_hash(spec: AgentSpec) -> str:
    """Equal for specs that make the same agent."""
    data = {
        "deployment": spec.deployment,
        "instructions": spec.instructions,
        "functions": [[f.name, f.description, f.parameters] for f in spec.functions],
    }
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
