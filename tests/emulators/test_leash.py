"""The leash as a process: what ends its command, and with which status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulators.child import LEASH

FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('grandchild', flush=True); time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"not yet\\n"))  # print is not to be interrupted by itself
print(os.getpid(), flush=True)
while True: time.sleep(0.05)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # An orphan that was killed may wait as a zombie for a first process that never reaps.
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def leashed(*command: str, grace: float = 30.0, output: str = "relay") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A command on a leash, and the end of the lifeline that the parent holds."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(LEASH), str(read), str(grace), output, *command],
        pass_fds=(read,),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    os.close(read)
    try:
        yield process, write
    finally:
        process.kill()
        process.communicate()
        try:
            os.close(write)
        except OSError:
            assert process.returncode is not None


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((sys.executable, "-c", "raise SystemExit(7)"), 7),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), 128 + 9),
        (("there-is-no-such-program",), 127),
        (("true",), 0),
    ],
)
def test_the_status_is_that_of_the_command(command: tuple[str, ...], status: int) -> None:
    with leashed(*command) as (process, _):
        assert process.wait(60) == status


def test_a_cut_lifeline_ends_the_command_and_its_children() -> None:
    with leashed(sys.executable, "-c", FAMILY) as (process, lifeline):
        pids = [int(word) for line in lines(process, 2) if line != "grandchild" for word in line.split()]
        assert len(pids) == 2
        os.close(lifeline)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert soon(lambda: all(map(gone, pids)))


def test_a_command_that_ignores_the_request_is_killed_after_the_grace() -> None:
    with leashed(sys.executable, "-c", STUBBORN, grace=0.3) as (process, lifeline):
        lines(process, 1)
        began = time.monotonic()
        os.close(lifeline)
        assert process.wait(60) == 128 + signal.SIGKILL
        assert 0.3 <= time.monotonic() - began < 8  # not the time that a child has by default


def test_a_command_is_asked_first_and_left_its_grace() -> None:
    with leashed(sys.executable, "-c", STUBBORN, grace=90) as (process, lifeline):
        lines(process, 1)
        os.close(lifeline)
        assert lines(process, 1) == ["not yet"]
        assert process.poll() is None


def test_signals_are_passed_on() -> None:
    with leashed(sys.executable, "-c", STUBBORN, grace=0.1) as (process, _):
        lines(process, 1)
        process.send_signal(signal.SIGTERM)
        assert lines(process, 1) == ["not yet"]
        process.send_signal(signal.SIGTERM)
        assert lines(process, 1) == ["not yet"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (1, 128 + signal.SIGINT)  # KeyboardInterrupt ends Python either way


def test_children_that_the_command_leaves_behind_end_with_it() -> None:
    leaving = FAMILY.replace("time.sleep(60)\n", "")
    with leashed(sys.executable, "-c", leaving) as (process, _):
        assert process.wait(60) == 0
        assert process.stdout is not None
        (pair,) = [line for line in process.stdout.read().splitlines() if line != "grandchild"]
        assert soon(lambda: gone(int(pair.split()[1])))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_the_command_dies_with_a_leash_that_is_killed() -> None:
    with leashed(sys.executable, "-c", STUBBORN) as (process, _):
        (pid,) = lines(process, 1)
        process.kill()
        assert soon(lambda: gone(int(pid)))


SAVING = """
import os, signal, sys, time
def stop(*_):
    print("saving " + "x" * 200_000, flush=True)
    open(sys.argv[1], "w").write("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
os.write(1, b"ready\\n")  # print is not to be interrupted by itself
time.sleep(60)
"""


def test_a_command_that_writes_when_nobody_reads_any_more_ends_in_order(tmp_path: Path) -> None:
    with leashed(sys.executable, "-c", SAVING, str(tmp_path / "data")) as (process, lifeline):
        lines(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        os.close(lifeline)
        assert process.wait(60) == 0
        assert (tmp_path / "data").read_text() == "saved"


@pytest.mark.parametrize("output", ["relay", "share"])
def test_all_output_arrives(output: str) -> None:
    source = "import sys; sys.stdout.write('o' * 1_000_000); sys.stdout.flush(); sys.stderr.write('e' * 100)"
    with leashed(sys.executable, "-c", source, output=output) as (process, _):
        assert process.stdout is not None
        assert process.stdout.read() == "o" * 1_000_000 + "e" * 100


def test_the_command_holds_neither_the_lifeline_nor_other_files_of_the_leash() -> None:
    listing = "import os; print(sorted(f for f in range(3, 64) if os.path.exists(f'/dev/fd/{f}')))"
    with leashed(sys.executable, "-c", listing) as (process, _):
        assert lines(process, 1) == ["[]"]


@pytest.mark.parametrize("after", [0.0, 0.005, 0.01, 0.015, 0.02, 0.03])
def test_a_lifeline_cut_early_ends_the_command_without_the_grace(after: float) -> None:
    with leashed("sleep", "120", grace=90) as (process, lifeline):
        time.sleep(after)
        os.close(lifeline)
        assert process.wait(60) == 128 + signal.SIGTERM
