"""A part that dies is started again on its port; one that keeps dying is given up."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from emulators import keeper
from emulators.errors import PartFailed, PortInUse
from emulators.keeper import keep
from emulators.parts import Emulator
from emulators.ports import HOST, in_use

ECHO = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
print("starting", file=sys.stderr)
print(f"process {os.getpid()} at http://127.0.0.1:{listener.getsockname()[1]}/echo")
DIE
time.sleep(60)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules a part can run."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    (folder / "echo_part.py").write_text(ECHO.replace("DIE", ""))
    (folder / "mortal_part.py").write_text(ECHO.replace("DIE", "sys.exit(4)"))
    return folder


def part(module: str, tmp_path: Path) -> Emulator:
    return Emulator(
        "echo",
        module,
        setting="AOS_ECHO_PORT",
        port=0,
        address=r"process \d+ at http://\S+",
        database=tmp_path / "echo.db",
        logs=tmp_path / "logs",
    )


@pytest_asyncio.fixture
async def echo(modules: Path, tmp_path: Path) -> AsyncIterator[Emulator]:
    running = part("echo_part", tmp_path)
    await running.start()
    yield running
    await running.stop()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def process(running: Emulator) -> int:
    return int(running.address.split()[1])


async def test_it_comes_back_on_its_port_and_the_user_is_told(echo: Emulator) -> None:
    told: list[str] = []
    port, first = echo.ports["AOS_ECHO_PORT"], process(echo)
    keeping = asyncio.create_task(keep(echo, told.append))
    os.kill(first, signal.SIGKILL)
    await until(lambda: process(echo) != first)
    assert echo.address.endswith(f":{port}/echo")
    assert in_use(port)
    assert told == ["echo: ended with status 137; starting it again (1 of 5)"]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_it_is_given_up_when_it_keeps_dying(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.001)
    told: list[str] = []
    mortal = part("mortal_part", tmp_path)
    await mortal.start()
    with pytest.raises(PartFailed, match=r"given up after 5 new starts within 60 s"):
        await asyncio.wait_for(keep(mortal, told.append), 60)
    assert [re.findall(r"\((\d) of 5\)$", line) for line in told] == [["1"], ["2"], ["3"], ["4"], ["5"]]


async def test_a_start_that_fails_counts_and_says_why(echo: Emulator, modules: Path) -> None:
    told: list[str] = []
    (modules / "echo_part.py").write_text("raise SystemExit('the database is damaged')")
    keeping = asyncio.create_task(keep(echo, told.append))
    os.kill(process(echo), signal.SIGKILL)
    await until(lambda: len(told) == 2)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert "ended with status 1 before it was ready" in told[1]
    assert "the database is damaged" in told[1]


async def test_another_program_on_its_port_ends_it_at_once(echo: Emulator, modules: Path) -> None:
    port = echo.ports["AOS_ECHO_PORT"]
    told: list[str] = []

    def take_over(line: str) -> None:
        told.append(line)
        rivals.enter_context(socket.create_server((HOST, port)))

    os.kill(process(echo), signal.SIGKILL)
    with ExitStack() as rivals, pytest.raises(PortInUse, match=f"port {port} of the echo is in use"):
        await asyncio.wait_for(keep(echo, take_over), 30)
    assert len(told) == 1
