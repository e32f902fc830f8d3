"""Ticks become turns, in a world whose time jumps: two processes, restarts, outages, hours of sleep."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aos.answers import AgentStatusAnswer
from aos.kernel.ports import AgentBinding
from aos.registry.agents import AgentRegistry, parse_agents
from aos.schedules import Schedules
from tests.kernel.process import Process
from tests.kernel.virtual_time import EPOCH
from tests.kernel.world import KEY, World, run

HOURLY = "0 0 * * * *"
TEXT = "brief me"
FIRST = EPOCH - EPOCH % 3600 + 3600
"""The first full hour of the world."""


def registry(*entries: dict[str, Any]) -> AgentRegistry:
    return parse_agents(json.dumps({"version": "1.0", "agents": list(entries)}).encode())


def ceo(schedule: object = HOURLY, **more: Any) -> dict[str, Any]:
    listed = [{"cron": schedule, "payload": {"message": TEXT}}] if isinstance(schedule, str) else schedule
    entry = {"agent_id": "ceo", "purpose": "Leads", "domain_knowledge": {"domain": "ceo"}}
    return {**entry, "agent_type": "perpetual", "metadata": {"schedule": listed}, **more}


class Directory:
    """The agents of the world, with a registry."""

    def __init__(self, world: World, *entries: dict[str, Any]) -> None:
        self.world = world
        self.value = registry(*entries)

    async def registry(self) -> AgentRegistry:
        return self.value

    async def bind(self, agent_id: str) -> AgentBinding:
        binding: AgentBinding = await self.world.agents.bind(agent_id)
        return binding


class Host:
    """A process and its timer."""

    def __init__(self, world: World, process: Process, directory: Directory) -> None:
        self.process = process
        self.schedules = Schedules(process.kernel, world.store, directory, world.clock)

    async def look(self) -> int:
        return await self.schedules.run()


async def minutes(world: World, hosts: list[Host], until: float) -> None:
    """Both timers of each minute, at the same time."""
    while world.now < until:
        await asyncio.sleep(60.0 - world.now % 60.0)
        await asyncio.gather(*(host.look() for host in hosts))


def asked(world: World) -> int:
    return sum(world.foundry.steps.values())


def test_a_tick_is_one_turn_on_any_number_of_processes() -> None:
    async def scenario(world: World) -> None:
        directory = Directory(world, ceo())
        hosts = [Host(world, process, directory) for process in (world.process, world.start())]
        await minutes(world, hosts, FIRST + 3 * 3600 + 120)
        await asyncio.sleep(60)
        assert asked(world) == 4
        assert (await world.store.read(KEY)).state.turns == 4

    run(scenario)


def test_a_restart_does_not_repeat_a_tick() -> None:
    async def scenario(world: World) -> None:
        directory = Directory(world, ceo())
        await minutes(world, [Host(world, world.process, directory)], FIRST + 60)
        await minutes(world, [Host(world, world.start(), directory)], FIRST + 600)
        assert asked(world) == 1

    run(scenario)


def test_missed_ticks_are_not_made_up_for() -> None:
    async def scenario(world: World) -> None:
        directory = Directory(world, ceo())
        # Nobody looks for half a day; then the last tick is 4 minutes old, or 6.
        await asyncio.sleep(FIRST + 12 * 3600 + 240 - world.now)
        host = Host(world, world.process, directory)
        assert await host.look() == 1
        await asyncio.sleep(12 * 3600 + 120)
        assert await host.look() == 0
        await asyncio.sleep(60)
        assert asked(world) == 1

    run(scenario)


def test_a_tick_waits_a_little_for_what_is_down() -> None:
    async def scenario(world: World) -> None:
        directory = Directory(world, ceo())
        host = Host(world, world.process, directory)
        world.agents.state = "starting"
        await minutes(world, [host], FIRST + 120)
        assert asked(world) == 0
        world.agents.state = "ready"
        await minutes(world, [host], FIRST + 300)
        await asyncio.sleep(60)
        assert asked(world) == 1

    run(scenario)


def test_a_wake_up_that_is_lost_is_made_up_for_by_the_sweep() -> None:
    async def scenario(world: World) -> None:
        host = Host(world, world.process, Directory(world, ceo()))
        world.bus.down = True
        await minutes(world, [host], FIRST)
        assert asked(world) == 0
        world.bus.down = False
        await asyncio.sleep(60)
        await world.kernel.sweep()
        assert asked(world) == 1

    run(scenario)


def test_a_stopped_agent_gets_no_storm_when_it_starts() -> None:
    async def scenario(world: World) -> None:
        host = Host(world, world.process, Directory(world, ceo("0 */10 * * * *")))
        world.agents.state = "stopped"
        await minutes(world, [host], FIRST + 3600 + 420)
        world.agents.state = "ready"
        await minutes(world, [host], FIRST + 3600 + 900)
        await asyncio.sleep(60)
        assert asked(world) == 1, "the tick of the tenth minute after it was started"

    run(scenario)


def test_ticks_do_not_pile_up_behind_a_turn_that_takes_long() -> None:
    async def scenario(world: World) -> None:
        world.foundry.latency = 100.0
        host = Host(world, world.process, Directory(world, ceo("0 * * * * *")))
        until = world.now + 20 * 60
        await minutes(world, [host], until)
        assert len((await world.store.read(KEY)).inbox) <= 1
        await asyncio.sleep(400)
        assert 10 <= asked(world) <= 14

    run(scenario)


def test_a_disabled_agent_does_not_tick_and_two_schedules_are_two_turns() -> None:
    async def scenario(world: World) -> None:
        both = [{"cron": HOURLY, "event_type": "Hour"}, {"cron": "0 0 */2 * * *", "event_type": "Two hours"}]
        directory = Directory(world, ceo(both))
        host = Host(world, world.process, directory)
        even = FIRST + FIRST % 7200
        await minutes(world, [host], even)
        await asyncio.sleep(60)
        told = [item.text for item in world.foundry.remotes["conv_1"].items if item.kind == "user"]
        assert sum("Event: Two hours" in text for text in told) == 1
        assert '"due": "1970-01-12' in told[-1]
        before = asked(world)
        directory.value = registry(ceo(both, enabled=False))
        await minutes(world, [host], even + 7300)
        assert asked(world) == before

    run(scenario)


def test_the_heartbeat_says_when_the_last_event_came_and_when_the_next_tick_is() -> None:
    async def scenario(world: World) -> None:
        host = Host(world, world.process, Directory(world, ceo()))
        (entry,) = registry(ceo()).enabled
        assert await host.schedules.heartbeat(entry) == {
            "last_event_at": None,
            "next_tick": "1970-01-12T14:00:00.000+00:00",
        }
        await minutes(world, [host], FIRST + 60)
        assert await host.schedules.heartbeat(entry) == {
            "last_event_at": "1970-01-12T14:00:00.000+00:00",
            "next_tick": "1970-01-12T15:00:00.000+00:00",
        }
        assert (await host.schedules.heartbeat(entry)).keys() - AgentStatusAnswer.model_fields.keys() == set()

    run(scenario)
