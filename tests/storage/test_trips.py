"""The rows by which processes tell each other of their circuits."""

from __future__ import annotations

import asyncio
import uuid

from aos.kernel.breaker import Trip
from aos.storage.account import StorageAccount
from aos.storage.trips import LONGEST_REASON, TableTrips


async def test_the_newest_word_on_a_circuit_stands(account: StorageAccount) -> None:
    board, name = TableTrips(account), f"Deployment {uuid.uuid4().hex}"
    opened = Trip(name, 100.0, since=90.0, until=105.0, pause=5.0, failures=5, reason="No connection.")
    await board.put(opened)
    assert opened in await board.all()
    await board.put(Trip(name, 99.0))
    assert opened in await board.all()
    closed = Trip(name, 101.0)
    await board.put(closed)
    found = await board.all()
    assert closed in found
    assert opened not in found


async def test_of_many_that_speak_at_once_the_newest_is_heard(account: StorageAccount) -> None:
    board, name = TableTrips(account), f"Deployment {uuid.uuid4().hex}"
    trips = [Trip(name, float(number), since=1.0, reason="x" * 5000) for number in range(4)]
    await asyncio.gather(*map(board.put, trips))
    (kept,) = [trip for trip in await board.all() if trip.name == name]
    assert kept.at == 3.0
    assert len(kept.reason) == LONGEST_REASON
