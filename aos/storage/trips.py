"""The circuits that processes opened and closed, as rows that all of them read (`aos.kernel.trips`)."""

from __future__ import annotations

from pydantic import TypeAdapter

from aos.kernel.breaker import Trip
from aos.kernel.records import replace
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.rows import table_key

TABLE = "aosbreakers"
PARTITION = "circuits"
MOST = 1000
"""Circuits that are read: more than there are deployments and servers."""
LONGEST_REASON = 2000
TRIES = 5
TRIP = TypeAdapter(Trip)


class TableTrips:
    """Implements `aos.kernel.trips.TripBoard` on table `aosbreakers`."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def put(self, trip: Trip) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        table = await self._account.table(TABLE)
        kept = replace(trip, reason=trip.reason[:LONGEST_REASON])
        row = {"PartitionKey": PARTITION, "RowKey": table_key(trip.name), "data": TRIP.dump_json(kept).decode()}
        for _ in range(TRIES):
            with storage_errors(TABLE):
                try:
                    known = await table.get_entity(PARTITION, row["RowKey"])
                except ResourceNotFoundError:
                    known = None
                try:
                    if known is None:
                        await table.create_entity(row)
                    elif TRIP.validate_json(str(known["data"])).at < trip.at:
                        await table.update_entity(
                            row,
                            mode=UpdateMode.REPLACE,
                            etag=known.metadata["etag"],
                            match_condition=MatchConditions.IfNotModified,
                        )
                    return
                except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                    # Somebody else wrote: whose news is newer stays.
                    continue

    async def all(self) -> list[Trip]:
        table = await self._account.table(TABLE)
        found: list[Trip] = []
        with storage_errors(TABLE):
            async for row in table.query_entities("PartitionKey eq @p", parameters={"p": PARTITION}):
                found.append(TRIP.validate_json(str(row["data"])))
                if len(found) >= MOST:
                    break
        return found
