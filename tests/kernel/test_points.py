"""The named points of a turn: all of them are passed, and a process that is ordered to die at one dies there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from aos.kernel import points
from aos.kernel.points import FAULT_POINT, TURN_POINTS, Point
from aos.kernel.types import Decision, Message, Origin
from tests.kernel.world import KEY, World, run


class Passed:
    """Notes which points were passed, instead of dying."""

    def __init__(self) -> None:
        self.points: set[Point] = set()

    def at(self, point: Point) -> None:
        self.points.add(point)


def test_every_point_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = Passed()
    monkeypatch.setattr(points, "_fault", passed)

    async def scenario(world: World) -> None:
        asked = await world.tell("1: approve", reply=True)
        await world.kernel.decide(Decision(asked.tool_calls[0].request_id, True, "ada"))
        assert (await world.finished(asked)).status == "completed"
        world.foundry.faults.append("lost answer")
        assert (await world.tell("talk")).status == "completed"
        world.foundry.faults.append("too long")
        assert (await world.tell("much")).status == "completed"
        world.foundry.down = True
        late = await world.tell("late")
        await world.kernel.cancel(late.operation_id, "me")
        world.foundry.down = False
        assert (await world.finished(await world.tell("1: ask cfo/hello"))).status == "completed"
        asking = await world.tell("1: ask cfo/1: approve")
        await asyncio.sleep(5.0)
        await world.kernel.cancel(asking.operation_id, "me")
        world.agents.state = "unknown"
        message = Message("op_x", "event", world.now, world.now + 600.0, origin=Origin("agent-events", "m1", "{}"))
        parked, _ = await world.kernel.accept(KEY, message, "event", fresh=False)
        assert (await world.finished(parked)).parked

    run(scenario)
    assert passed.points == set(TURN_POINTS)


def dies(order: str, passes: int) -> subprocess.CompletedProcess[str]:
    program = f"from aos.kernel.points import reached\nfor _ in range({passes}): reached('before-save')\nprint('alive')"
    environment = {**os.environ, FAULT_POINT: order}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_a_process_dies_at_the_point_that_was_ordered() -> None:
    assert dies("before-save", 1).returncode == -signal.SIGKILL
    assert dies("before-save:3", 3).returncode == -signal.SIGKILL
    assert dies("before-save:3", 2).stdout == "alive\n"
    assert dies("", 2).stdout == "alive\n"


@pytest.mark.parametrize("order", ["nowhere", "before-save:0", "before-save:often"])
def test_an_order_that_cannot_be_carried_out_stops_the_process(order: str) -> None:
    died = dies(order, 1)
    assert died.returncode == 1
    assert f"{FAULT_POINT}={order!r}" in died.stderr
