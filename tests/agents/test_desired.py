from __future__ import annotations

import asyncio
import uuid

import pytest
from azure.data.tables.aio import TableClient

from aos.agents.desired import MAX_AGE, Desired, DesiredStates
from aos.config import Settings
from aos.errors import StorageUnavailable
from aos.storage.account import StorageAccount
from tests.agents.office import ShiftedClock


async def test_what_was_asked_for_holds_in_every_process(account: StorageAccount) -> None:
    clock, agent_id = ShiftedClock(), f"a/b {uuid.uuid4().hex}"
    here, there = DesiredStates(account, clock), DesiredStates(account, clock)
    assert await there.get(agent_id) == Desired()
    assert (await here.order(agent_id, "stop")).stopped
    assert (await here.get(agent_id)).stopped
    clock.shift += MAX_AGE + 1
    assert (await there.get(agent_id)).stopped
    started = await here.order(agent_id, "start")
    assert not started.stopped
    assert started.running_since == pytest.approx(clock.now(), abs=5)
    clock.shift += 1
    assert await there.get(agent_id) == started, "that a stopped agent was started is seen soon"
    assert await DesiredStates(account, clock).get(agent_id) == started


async def test_starting_what_runs_changes_nothing_and_a_restart_counts(account: StorageAccount) -> None:
    states, agent_id = DesiredStates(account), uuid.uuid4().hex
    assert await states.order(agent_id, "start") == Desired()
    assert await states.order(agent_id, "restart") == Desired(restarts=1)
    assert await states.order(agent_id, "stop") == Desired(stopped=True, restarts=1)
    again = await states.order(agent_id, "restart")
    assert (again.stopped, again.restarts) == (False, 2)
    assert again.running_since > 0


class Away(StorageAccount):
    """An account that can go away."""

    away = False

    async def table(self, name: str) -> TableClient:
        if self.away:
            raise StorageUnavailable("It is away.")
        return await super().table(name)


async def test_what_was_read_stays_in_force_while_storage_is_away(storage_settings: Settings) -> None:
    clock, account, agent_id = ShiftedClock(), Away(storage_settings), uuid.uuid4().hex
    account.away = True
    with pytest.raises(StorageUnavailable):
        await DesiredStates(account, clock).get(agent_id)
    account.away = False
    states = DesiredStates(account, clock)
    await states.order(agent_id, "stop")
    account.away = True
    clock.shift += 60
    assert (await states.get(agent_id)).stopped
    await account.close()


async def test_of_orders_to_two_processes_at_once_none_is_lost(account: StorageAccount) -> None:
    here, there, agent_id = DesiredStates(account), DesiredStates(account), uuid.uuid4().hex
    for _ in range(2):  # of an agent that nobody gave an order before, and of one that has a row
        await asyncio.gather(here.order(agent_id, "restart"), there.order(agent_id, "restart"))
    assert (await DesiredStates(account).get(agent_id)).restarts == 4
