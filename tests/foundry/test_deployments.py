from __future__ import annotations

import logging
from pathlib import Path

import pytest

from aos.foundry.deployments import Deployments
from emulators.foundry import FoundryEmulator
from emulators.ports import settle
from tests.foundry.project import DEPLOYMENT, Project, running, spec


class Hand:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


async def test_without_a_fallback_nobody_is_asked(project: Project) -> None:
    before = await project.calls("GET /deployments")
    assert await Deployments(project.clients).choose("llama-3.3-70b-cxo") == "llama-3.3-70b-cxo"
    assert await project.calls("GET /deployments") == before


async def test_a_listing_serves_many_agents(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    clock = Hand()
    deployments = Deployments(project.clients, DEPLOYMENT, clock)
    before = await project.calls("GET /deployments")
    assert [await deployments.choose(f"llama-3.3-70b-{number}") for number in range(20)] == [DEPLOYMENT] * 20
    assert await project.calls("GET /deployments") == before + 1
    ours = [record for record in caplog.records if record.name == "aos.foundry"]
    assert [record.levelno for record in ours] == [logging.WARNING] * 20
    clock.time += 31.0
    await deployments.choose("llama-3.3-70b-cxo")
    assert await project.calls("GET /deployments") == before + 2


async def test_one_that_exists_is_chosen(project: Project) -> None:
    assert await Deployments(project.clients, DEPLOYMENT).choose("llama-3.3-70b-cfo") == "llama-3.3-70b-cfo"


async def test_an_agent_on_the_fallback_moves_when_its_deployment_comes(tmp_path: Path) -> None:
    clock, database, wanted = Hand(), str(tmp_path / "foundry.db"), spec(deployment="llama-3.3-70b-new")
    port = settle({"PORT": ("the emulator", 0)})["PORT"]
    async with running(FoundryEmulator(port, db=database, deployments=[DEPLOYMENT])) as project:
        assert (await project.any_adapter(fallback=DEPLOYMENT).ensure_agent(wanted)).deployment == DEPLOYMENT
    later = FoundryEmulator(port, db=database, deployments=[DEPLOYMENT, "llama-3.3-70b-new"])
    async with running(later) as project:
        moved = await project.any_adapter(fallback=DEPLOYMENT, clock=clock).ensure_agent(wanted)
        assert (moved.deployment, moved.version) == ("llama-3.3-70b-new", "2")
