"""Calls that wait for a person, as approvers see them.

The conversation is the truth: there a call is parked, decided and made (`aos.kernel`). Table `aosapprovals` shows it:
partition `pending` holds what waits, `decided` what became of it, the newest first. Rows are effects of the kernel's
outbox: writing one again is harmless, and one that is late never undoes a decision in `decided`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import Outlet
from aos.kernel.types import ApprovalRecord, ConversationKey, Outgoing
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.payloads import Payloads
from aos.storage.values import RowValues

TABLE = "aosapprovals"
PAGE = 50
"""Approvals listed at once."""
LAST_MOMENT = 10**15
"""Milliseconds since the epoch that no decision reaches: rows of later decisions sort first."""


Listed = Literal["pending", "decided"]
RECORD = TypeAdapter(ApprovalRecord)


class ApprovalDecision(BaseModel):
    """Body of `POST approvals/{approval_id}`.

    Attributes:
        reason: Why; the model is told when the call is rejected.
    """

    model_config = ConfigDict(extra="forbid")

    decision: Literal["approve", "reject"]
    reason: str = Field(default="", max_length=2000)


class ApprovalBoard:
    """The approvals of all agents in Table storage."""

    def __init__(self, account: StorageAccount, payloads: Payloads, clock: Clock | None = None) -> None:
        self._account = account
        self._values = RowValues(payloads)
        self._clock = clock or SystemClock()

    async def put(self, record: ApprovalRecord) -> None:
        """Shows a call that waits, or what became of it."""
        from azure.core.exceptions import ResourceExistsError
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        pending, approval_id = record.approval.state == "pending", record.approval_id
        row = {"PartitionKey": "pending" if pending else "decided", "RowKey": _row_key(record)}
        row |= await self._values.columns(RECORD.dump_json(record), f"approvals/{approval_id}")
        with storage_errors(TABLE):
            if pending:
                try:
                    await table.create_entity(row)
                except ResourceExistsError:
                    return
            else:
                await table.upsert_entity(row, mode=UpdateMode.REPLACE)
                # Deleting what is not there is no error in this SDK.
                await table.delete_entity("pending", approval_id)

    async def page(self, listed: Listed, after: str = "") -> tuple[list[ApprovalRecord], str | None]:
        """Up to `PAGE` approvals.

        Args:
            after: Where the last page ended.

        Returns:
            The approvals, and where the page ended if there are more.
        """
        table = await self._account.table(TABLE)
        found: list[ApprovalRecord] = []
        last = None
        with storage_errors(TABLE):
            rows = table.query_entities(
                "PartitionKey eq @p and RowKey gt @after",
                parameters={"p": listed, "after": after},
                results_per_page=PAGE + 1,
            )
            async for row in rows:
                if len(found) == PAGE:
                    return found, last
                last = str(row["RowKey"])
                record = RECORD.validate_json(await self._values.read(row))
                # What expired is rejected by the next sweep of its conversation.
                if listed == "decided" or record.approval.expires_at > self._clock.now():
                    found.append(record)
        return found, None


class ApprovalOutlet:
    """An `Outlet` that shows approvals on the board and leaves everything else to another outlet."""

    def __init__(self, outlet: Outlet, board: ApprovalBoard) -> None:
        self._outlet = outlet
        self._board = board

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        for effect in effects:
            if effect.kind == "approval":
                await self._board.put(effect.record)
        await self._outlet.send(key, [effect for effect in effects if effect.kind != "approval"])

    async def wake(self, key: ConversationKey, delay: float) -> None:
        await self._outlet.wake(key, delay)


def _row_key(record: ApprovalRecord) -> str:
    if record.approval.decided_at is None:
        return record.approval_id
    return f"{LAST_MOMENT - int(record.approval.decided_at * 1000):015d}.{record.approval_id}"
