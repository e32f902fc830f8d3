"""The ledger of tool calls: each is executed at most once, unless its tool says that twice is harmless.

Whoever executes a call holds its claim: a lease with an owner that is renewed while the tool works. What a call
answered is kept, so that a message that is delivered again gets the same answer. A claim whose lease has expired
belongs to a process that died: it can be taken over, and the former owner can then neither renew nor finish it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aos.errors import Conflict, StorageUnavailable
from aos.kernel.clock import Clock, SystemClock
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.payloads import Payloads
from aos.storage.rows import table_key
from aos.storage.values import RowValues

TABLE = "aosledger"
ROW = "call"

LEASE = 30.0
"""Seconds for which a claim holds without being renewed."""
KEPT = 7 * 86400.0
"""Seconds for which a call is remembered; after that the same id is a new call."""

TRIES = 3


@dataclass(frozen=True, slots=True)
class CallKey:
    """Names a call. The reply address belongs to it: two callers may use the same ids."""

    server_id: str
    request_id: str
    reply_to: str | None = None


@dataclass(slots=True)
class Claimed:
    """The call is ours to execute. Hand it to `renew`, then to `finish` or `release`."""

    key: CallKey
    params_hash: str
    owner: str
    etag: str = ""
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The call was executed; this is what was answered."""

    response: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody executes the call; the lease holds until this time, in seconds since the epoch."""

    until: float


@dataclass(frozen=True, slots=True)
class Expired:
    """Whoever executed the call is gone; nobody knows how far it came."""

    key: CallKey
    params_hash: str
    etag: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reused:
    """The id was used before with other parameters."""


Standing = Finished | Running | Expired | Reused


class Ledger(Protocol):
    """Every method raises `StorageUnavailable` when the store does not answer."""

    async def claim(self, key: CallKey, params_hash: str) -> Claimed | Standing:
        """Claims a call that nobody claimed before, or tells how it stands."""
        ...

    async def look(self, key: CallKey, params_hash: str) -> Standing | None:
        """How a call stands; None if nobody claimed it."""
        ...

    async def take_over(self, expired: Expired) -> Claimed | None:
        """Claims a call whose owner is gone; None if somebody else was faster."""
        ...

    async def renew(self, claim: Claimed) -> None:
        """Extends the lease; `until` of the claim says how far, and stays as it was on errors.

        Raises:
            Conflict: The claim was taken over.
        """
        ...

    async def finish(self, claim: Claimed, response: bytes) -> None:
        """Records the answer for good.

        Raises:
            Conflict: The claim was taken over; the answer must not be sent.
        """
        ...

    async def release(self, claim: Claimed) -> None:
        """Gives the claim back, because nothing was executed, or because doing it again is harmless."""
        ...


@dataclass(slots=True)
class _Entry:
    params_hash: str
    owner: str
    until: float
    expires_at: float
    response: bytes | None = None


class MemoryLedger:
    """A `Ledger` for one process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._entries: dict[CallKey, _Entry] = {}

    async def claim(self, key: CallKey, params_hash: str) -> Claimed | Standing:
        return await self.look(key, params_hash) or self._claim(key, params_hash)

    async def look(self, key: CallKey, params_hash: str) -> Standing | None:
        entry, now = self._entries.get(key), self._clock.now()
        if entry is None or entry.expires_at <= now:
            return None
        if entry.params_hash != params_hash:
            return Reused()
        if entry.response is not None:
            return Finished(entry.response)
        return Running(entry.until) if entry.until > now else Expired(key, params_hash, entry.owner)

    async def take_over(self, expired: Expired) -> Claimed | None:
        entry = self._entries.get(expired.key)
        if entry is None or entry.owner != expired.etag or entry.response is not None:
            return None
        return self._claim(expired.key, expired.params_hash)

    async def renew(self, claim: Claimed) -> None:
        entry = self._owned(claim)
        entry.until = claim.until = self._clock.now() + LEASE

    async def finish(self, claim: Claimed, response: bytes) -> None:
        self._owned(claim).response = response

    async def release(self, claim: Claimed) -> None:
        entry = self._entries.get(claim.key)
        if entry is not None and entry.owner == claim.owner and entry.response is None:
            del self._entries[claim.key]

    def _claim(self, key: CallKey, params_hash: str) -> Claimed:
        now = self._clock.now()
        owner = uuid.uuid4().hex
        self._entries[key] = _Entry(params_hash, owner, now + LEASE, now + KEPT)
        return Claimed(key, params_hash, owner, owner, now + LEASE)

    def _owned(self, claim: Claimed) -> _Entry:
        entry = self._entries.get(claim.key)
        if entry is None or entry.owner != claim.owner:
            raise _taken_over(claim)
        return entry


class TableLedger:
    """A `Ledger` that any number of processes share: table `aosledger`, one partition per call.

    Writes are fenced by the ETag. A lost answer of the service looks like somebody else's write; so when an ETag does
    not match, the owner is compared, which is new with every claim.

    Args:
        lease: Seconds for which a claim holds without being renewed.
    """

    def __init__(
        self, account: StorageAccount, payloads: Payloads, clock: Clock | None = None, *, lease: float = LEASE
    ) -> None:
        self._account = account
        self._lease = lease
        self._values = RowValues(payloads)
        self._clock = clock or SystemClock()

    async def claim(self, key: CallKey, params_hash: str) -> Claimed | Standing:
        from azure.core.exceptions import ResourceExistsError

        table = await self._account.table(TABLE)
        claim = self._new_claim(key, params_hash)
        for _ in range(TRIES):
            with storage_errors(TABLE):
                try:
                    claim.etag = str((await table.create_entity(self._row(claim)))["etag"])
                    return claim
                except ResourceExistsError:
                    row = await self._read(key)
            if row is None:  # released in between
                continue
            if row["owner"] == claim.owner:
                claim.etag = row["etag"]
                return claim
            if row["expires_at"] > self._clock.now():
                return await self._standing(key, params_hash, row)
            if await self._replace(claim, row["etag"]):
                return claim
        raise StorageUnavailable(f"The row of call {key.request_id} changes too fast to be claimed.")

    async def look(self, key: CallKey, params_hash: str) -> Standing | None:
        row = await self._read(key)
        if row is None or row["expires_at"] <= self._clock.now():
            return None
        return await self._standing(key, params_hash, row)

    async def take_over(self, expired: Expired) -> Claimed | None:
        claim = self._new_claim(expired.key, expired.params_hash)
        return claim if await self._replace(claim, expired.etag) else None

    async def renew(self, claim: Claimed) -> None:
        until = self._clock.now() + self._lease
        await self._write(claim, {"lease_until": until})
        # Only now: a lease that could not be renewed ends when the store says.
        claim.until = until

    async def finish(self, claim: Claimed, response: bytes) -> None:
        columns = await self._values.columns(response, f"ledger/{table_key(claim.key.server_id)}")
        await self._write(claim, {"status": "finished", **columns})

    async def release(self, claim: Claimed) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError

        table = await self._account.table(TABLE)
        etag = claim.etag
        with storage_errors(TABLE):
            for _ in range(TRIES):
                try:
                    await table.delete_entity(
                        _partition(claim.key), ROW, etag=etag, match_condition=MatchConditions.IfNotModified
                    )
                except ResourceModifiedError:
                    known = await self._read(claim.key)
                    if known is None or known["owner"] != claim.owner:
                        return  # taken over: no longer ours to give back
                    etag = known["etag"]
                else:
                    return

    async def _standing(self, key: CallKey, params_hash: str, row: Mapping[str, Any]) -> Standing:
        if row["params_hash"] != params_hash:
            return Reused()
        if row["status"] == "finished":
            return Finished(await self._values.read(row))
        until = float(row["lease_until"])
        return Running(until) if until > self._clock.now() else Expired(key, params_hash, row["etag"])

    async def _replace(self, claim: Claimed, etag: str) -> bool:
        try:
            await self._update(claim, self._row(claim), etag)
        except Conflict:
            return False
        return True

    async def _write(self, claim: Claimed, columns: Mapping[str, Any]) -> None:
        row = {"PartitionKey": _partition(claim.key), "RowKey": ROW, **columns}
        await self._update(claim, row, claim.etag)

    async def _update(self, claim: Claimed, row: Mapping[str, Any], etag: str) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        mode = UpdateMode.REPLACE if "owner" in row else UpdateMode.MERGE
        with storage_errors(TABLE):
            for _ in range(TRIES):
                try:
                    written = await table.update_entity(
                        row, mode=mode, etag=etag, match_condition=MatchConditions.IfNotModified
                    )
                except (ResourceModifiedError, ResourceNotFoundError):
                    known = await self._read(claim.key)
                    if known is None or known["owner"] != claim.owner:
                        break
                    etag = known["etag"]
                else:
                    claim.etag = str(written["etag"])
                    return
        raise _taken_over(claim)

    async def _read(self, key: CallKey) -> dict[str, Any] | None:
        from azure.core.exceptions import ResourceNotFoundError

        table = await self._account.table(TABLE)
        with storage_errors(TABLE):
            try:
                row = await table.get_entity(_partition(key), ROW)
            except ResourceNotFoundError:
                return None
        return {**row, "etag": row.metadata["etag"]}

    def _new_claim(self, key: CallKey, params_hash: str) -> Claimed:
        return Claimed(key, params_hash, uuid.uuid4().hex, until=self._clock.now() + self._lease)

    def _row(self, claim: Claimed) -> dict[str, Any]:
        return {
            "PartitionKey": _partition(claim.key),
            "RowKey": ROW,
            "server_id": claim.key.server_id,
            "request_id": claim.key.request_id,
            "reply_to": claim.key.reply_to or "",
            "params_hash": claim.params_hash,
            "status": "running",
            "owner": claim.owner,
            "lease_until": claim.until,
            "expires_at": self._clock.now() + KEPT,
        }


def _partition(key: CallKey) -> str:
    return table_key(key.server_id, key.request_id, key.reply_to or "")


def _taken_over(claim: Claimed) -> Conflict:
    return Conflict(f"The claim of call {claim.key.request_id} was taken over by somebody else.")
