"""The comparison itself: its script is checked, its rows can be told apart, and it does not rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.__main__ import Runner, document, plot, table
from benchmarks.peers.contract import TEXT, TOOL, Adapter
from benchmarks.peers.environments import ROOT, Missing, interpreter
from benchmarks.peers.measure import turns
from benchmarks.peers.systems import SYSTEMS, System

AOS = SYSTEMS[0]


class Careless(Adapter):
    """Answers right, but never runs its tool, or runs it twice."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        self._runs = runs

    async def open(self) -> None:
        return

    def create(self) -> object:
        return object()

    async def turn(self, text: str) -> str:
        if text == TOOL:
            for _ in range(self._runs):
                self.echo("hi")
            return "echoed"
        return "something else"


async def test_a_wrong_reply_and_a_wrong_count_of_tool_runs_are_noticed() -> None:
    await turns(Careless(1), TOOL, 3)
    with pytest.raises(AssertionError, match="the reply to 'hello' is 'something else'"):
        await turns(Careless(1), TEXT, 1)
    for runs in (0, 2):
        with pytest.raises(AssertionError, match="tool runs in 2 turns"):
            await turns(Careless(runs), TOOL, 2)


def test_aos_takes_the_script_and_is_shown() -> None:
    figures = Runner("", 0.002, 5).round(AOS, sys.executable)
    assert all(value is not None and value > 0 for value in figures.values())
    results = {AOS: figures}
    assert table(results).row_count == 1
    assert json.dumps(document(results, {}, 1))
    assert "AOS, stores in memory" in plot(results)


def test_a_system_without_its_interpreter_is_skipped_with_a_line(tmp_path: Path) -> None:
    system = System("none", "none", "none==1", "", "", "", python="3.99")
    with pytest.raises(Missing, match=r"needs Python 3\.99"):
        interpreter(system, tmp_path)


def test_every_adapter_that_is_named_is_there_and_no_other() -> None:
    folder = ROOT / "benchmarks" / "peers" / "adapters"
    assert {system.adapter for system in SYSTEMS} == {path.stem for path in folder.glob("[a-z]*.py")}


def test_the_command_refuses_a_name_that_it_does_not_know() -> None:
    command = [sys.executable, "-m", "benchmarks.peers", "--only", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "unknown: nobody" in done.stderr
