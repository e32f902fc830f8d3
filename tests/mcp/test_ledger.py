from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import pytest

from aos.errors import Conflict, StorageUnavailable
from aos.mcp.ledger import (
    KEPT,
    LEASE,
    CallKey,
    Claimed,
    Expired,
    Finished,
    Ledger,
    MemoryLedger,
    Reused,
    Running,
    TableLedger,
)
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads
from tests.mcp.conftest import ShiftedClock, StandingClock

MakeLedger = Callable[[], Ledger]


@pytest.fixture
def clock() -> ShiftedClock:
    return StandingClock()


@pytest.fixture(params=["memory", "table"])
def ledger(request: pytest.FixtureRequest, clock: ShiftedClock) -> Ledger:
    if request.param == "memory":
        return MemoryLedger(clock)
    account: StorageAccount = request.getfixturevalue("account")
    payloads: Payloads = request.getfixturevalue("payloads")
    return TableLedger(account, payloads, clock)


@pytest.fixture
def key() -> CallKey:
    return CallKey("crm/eu", f"op_{uuid.uuid4().hex}.0.0")


async def claimed(ledger: Ledger, key: CallKey, params_hash: str = "h1") -> Claimed:
    claim = await ledger.claim(key, params_hash)
    assert isinstance(claim, Claimed)
    return claim


async def expired(ledger: Ledger, key: CallKey, clock: ShiftedClock) -> Expired:
    clock.shift += LEASE + 1
    standing = await ledger.claim(key, "h1")
    assert isinstance(standing, Expired)
    return standing


async def test_the_first_claim_wins_and_the_second_waits(ledger: Ledger, key: CallKey, clock: ShiftedClock) -> None:
    assert await ledger.look(key, "h1") is None
    claim = await claimed(ledger, key)
    assert claim.until == clock.now() + LEASE
    assert await ledger.claim(key, "h1") == Running(claim.until)
    assert await ledger.look(key, "h1") == Running(claim.until)


async def test_one_of_many_at_the_same_time_wins(ledger: Ledger, key: CallKey) -> None:
    answers = await asyncio.gather(*(ledger.claim(key, "h1") for _ in range(8)))
    assert sum(isinstance(answer, Claimed) for answer in answers) == 1
    assert sum(isinstance(answer, Running) for answer in answers) == 7


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_finished_call_keeps_its_answer(ledger: Ledger, key: CallKey, size: int) -> None:
    response = ("é" * (size // 2)).encode()
    await ledger.finish(await claimed(ledger, key), response)
    assert await ledger.claim(key, "h1") == Finished(response)
    assert await ledger.look(key, "h1") == Finished(response)


async def test_another_reply_address_is_another_call(ledger: Ledger, key: CallKey) -> None:
    await ledger.finish(await claimed(ledger, key), b"one")
    await claimed(ledger, CallKey(key.server_id, key.request_id, "answers"))
    await claimed(ledger, CallKey("other", key.request_id))


async def test_other_parameters_are_a_reuse(ledger: Ledger, key: CallKey) -> None:
    claim = await claimed(ledger, key)
    assert await ledger.claim(key, "h2") == Reused()
    await ledger.finish(claim, b"one")
    assert await ledger.look(key, "h2") == Reused()


async def test_a_renewed_lease_holds_longer(ledger: Ledger, key: CallKey, clock: ShiftedClock) -> None:
    claim = await claimed(ledger, key)
    clock.shift += LEASE - 1
    await ledger.renew(claim)
    clock.shift += LEASE - 1
    assert isinstance(await ledger.claim(key, "h1"), Running)
    await ledger.renew(claim)
    await ledger.finish(claim, b"one")


async def test_a_lease_that_could_not_be_renewed_ends_when_it_would_have(
    account: StorageAccount, dead_account: StorageAccount, payloads: Payloads, key: CallKey, clock: ShiftedClock
) -> None:
    claim = await claimed(TableLedger(account, payloads, clock), key)
    until = claim.until
    clock.shift += LEASE / 2
    with pytest.raises(StorageUnavailable):
        await TableLedger(dead_account, payloads, clock).renew(claim)
    assert claim.until == until


async def test_an_expired_claim_is_taken_over_once(ledger: Ledger, key: CallKey, clock: ShiftedClock) -> None:
    first = await claimed(ledger, key)
    standing = await expired(ledger, key, clock)
    takers = await asyncio.gather(*(ledger.take_over(standing) for _ in range(4)))
    (second,) = [taker for taker in takers if taker is not None]
    assert isinstance(await ledger.claim(key, "h1"), Running)
    for late in (ledger.renew(first), ledger.finish(first, b"late")):
        with pytest.raises(Conflict):
            await late
    await ledger.release(first)
    await ledger.finish(second, b"second")
    assert await ledger.claim(key, "h1") == Finished(b"second")


async def test_an_owner_that_was_only_slow_may_finish(ledger: Ledger, key: CallKey, clock: ShiftedClock) -> None:
    claim = await claimed(ledger, key)
    standing = await expired(ledger, key, clock)
    await ledger.finish(claim, b"in the end")
    assert await ledger.take_over(standing) is None
    assert await ledger.claim(key, "h1") == Finished(b"in the end")


async def test_a_released_call_can_be_claimed_again(ledger: Ledger, key: CallKey) -> None:
    await ledger.release(await claimed(ledger, key))
    await ledger.finish(await claimed(ledger, key, "h2"), b"one")


async def test_a_call_is_forgotten_after_a_week(ledger: Ledger, key: CallKey, clock: ShiftedClock) -> None:
    await ledger.finish(await claimed(ledger, key), b"one")
    clock.shift += KEPT - 60
    assert await ledger.claim(key, "h1") == Finished(b"one")
    clock.shift += 61
    assert await ledger.look(key, "h1") is None
    await claimed(ledger, key, "h2")


async def test_a_write_whose_confirmation_was_lost_is_still_ours(
    account: StorageAccount, payloads: Payloads, key: CallKey
) -> None:
    ledger = TableLedger(account, payloads)
    claim = await claimed(ledger, key)
    known = claim.etag
    await ledger.renew(claim)
    claim.etag = known
    await ledger.renew(claim)
    claim.etag = known
    await ledger.finish(claim, b"one")
    claim.etag = known
    await ledger.finish(claim, b"one")
    assert await ledger.claim(key, "h1") == Finished(b"one")
