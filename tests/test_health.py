from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, tzinfo

import pytest

import aos.health
from aos.errors import AosError
from aos.health import Check, Finding, Health, Level, worst


class Thing:
    """Something to look at."""

    def __init__(self, wrong: str | None = None) -> None:
        self.wrong: str | BaseException | None = wrong
        self.looks = 0
        self.takes = 0.0

    async def look(self) -> str | None:
        self.looks += 1
        await asyncio.sleep(self.takes)
        if isinstance(self.wrong, BaseException):
            raise self.wrong
        return self.wrong


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aos.health, "REMEMBERED", 0.0)


@pytest.mark.parametrize(
    ("levels", "whole"),
    [
        ([], "healthy"),
        (["healthy", "healthy"], "healthy"),
        (["healthy", "degraded"], "degraded"),
        (["unhealthy", "degraded"], "unhealthy"),
    ],
)
def test_the_whole_is_as_well_as_its_worst_part(levels: list[Level], whole: Level) -> None:
    assert worst({str(number): Finding(level) for number, level in enumerate(levels)}) == whole


async def test_each_check_says_how_bad_it_is() -> None:
    health = Health(
        {
            "storage": Check(Thing("gone").look, "unhealthy"),
            "bus": Check(Thing("slow").look),
            "foundry": Check(Thing().look, "unhealthy"),
        }
    )
    findings = await health.findings()
    assert {name: (finding.level, finding.detail) for name, finding in findings.items()} == {
        "storage": ("unhealthy", "gone"),
        "bus": ("degraded", "slow"),
        "foundry": ("healthy", ""),
    }


async def test_findings_are_remembered_and_shared() -> None:
    thing = Thing()
    health = Health({"thing": Check(thing.look)})
    await asyncio.gather(*(health.findings() for _ in range(10)))
    assert thing.looks == 1
    thing.wrong = "broken"
    assert (await health.findings())["thing"].level == "healthy"
    health._looked -= 10.1
    assert (await health.findings())["thing"].level == "degraded"
    assert thing.looks == 2


@pytest.mark.usefixtures("no_memory")
async def test_since_is_when_the_level_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    thing = Thing()
    health = Health({"thing": Check(thing.look)})
    seconds = iter(range(100))

    class Watch(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Watch:
            return cls(2026, 1, 1, 0, 0, next(seconds), tzinfo=UTC)

    monkeypatch.setattr(aos.health, "datetime", Watch)
    sinces: list[str] = []
    for wrong in (None, None, "one", "two", None):
        thing.wrong = wrong
        finding = (await health.findings())["thing"]
        assert finding.detail == (wrong or "")
        sinces.append(finding.since)
    assert sinces == [f"2026-01-01T00:00:0{second}+00:00" for second in (0, 0, 2, 2, 4)]


async def test_raising_is_wrong_too(caplog: pytest.LogCaptureFixture) -> None:
    refused, broken, fine = Thing(), Thing(), Thing()
    refused.wrong, broken.wrong = AosError("not allowed"), KeyError("secret")
    health = Health({"refused": Check(refused.look), "broken": Check(broken.look), "fine": Check(fine.look)})
    with caplog.at_level(logging.ERROR, "aos.health"):
        findings = await health.findings()
    assert (findings["refused"].level, findings["refused"].detail) == ("degraded", "not allowed")
    assert (findings["broken"].level, findings["broken"].detail) == ("degraded", "The check itself failed: KeyError.")
    assert findings["fine"].level == "healthy"
    assert "secret" in caplog.text


async def test_no_answer_is_wrong_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aos.health, "PATIENCE", 0.1)
    slow, fine = Thing(), Thing()
    slow.takes = 60.0
    health = Health({"slow": Check(slow.look, "unhealthy"), "fine": Check(fine.look)})
    async with asyncio.timeout(30):  # half of what it takes
        findings = await health.findings()
    assert (findings["slow"].level, findings["fine"].level) == ("unhealthy", "healthy")
    assert "No answer within" in findings["slow"].detail


async def test_checks_run_side_by_side() -> None:
    everybody = asyncio.Barrier(20)

    async def look() -> None:
        """Ends when all the others look, too."""
        await everybody.wait()

    findings = await Health({str(number): Check(look) for number in range(20)}).findings()
    assert {finding.level for finding in findings.values()} == {"healthy"}
