"""Children: readiness, output, the bounded log, stopping; and that they end with a parent that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emulators import child as child_module
from emulators.child import Child
from emulators.errors import PartFailed

ROOT = Path(__file__).parents[2]
ENVIRONMENT = dict(os.environ)


def python(source: str, tmp_path: Path) -> Child:
    return Child("worker", [sys.executable, "-uc", source], env=ENVIRONMENT, log=tmp_path / "logs" / "w.log")


async def test_a_line_of_output_tells_that_it_is_ready(tmp_path: Path) -> None:
    child = python("import time; print('hello'); print('ready at port 42 now'); time.sleep(60)", tmp_path)
    line = child.line(r"port \d+")
    await child.start()
    assert await child.ready(line, 30) == "port 42"
    assert child.running
    await child.stop()
    await child.stop()
    assert not child.running
    assert child.tail() == "hello\nready at port 42 now"
    assert (tmp_path / "logs" / "w.log").read_text() == "hello\nready at port 42 now\n"


async def test_one_that_ends_before_it_is_ready_is_reported_with_its_output(tmp_path: Path) -> None:
    child = python("import sys; print('cannot bind', file=sys.stderr); sys.exit(3)", tmp_path)
    line = child.line("never")
    await child.start()
    with pytest.raises(PartFailed, match=r"worker: ended with status 3 before it was ready(?s:.*)cannot bind"):
        await child.ready(line, 30)


async def test_one_that_is_not_ready_in_time_is_reported(tmp_path: Path) -> None:
    child = python("import time; time.sleep(60)", tmp_path)
    line = child.line("never")
    await child.start()
    with pytest.raises(PartFailed, match=r"worker: not ready in 0\.2 s; its log is .*w\.log$"):
        await child.ready(line, 0.2)
    assert child.running
    await child.stop()


async def test_a_signal_reaches_it_and_its_status_comes_back(tmp_path: Path) -> None:
    child = python("import signal, sys; print('up'); signal.sigwait([signal.SIGUSR1, signal.SIGTERM])", tmp_path)
    line = child.line("up")
    await child.start()
    await child.ready(line, 30)
    child.send_signal(signal.SIGTERM)
    assert await child.wait() == 128 + signal.SIGTERM


async def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES", 10_000)
    child = python("for n in range(20000): print('line', n)", tmp_path)
    await child.start()
    assert await child.wait() == 0
    log, earlier = tmp_path / "logs" / "w.log", tmp_path / "logs" / "w.log.1"
    assert earlier.stat().st_size + log.stat().st_size < 3 * (10_000 + child_module.LINE_BYTES)
    assert child.tail().endswith("line 19999")
    assert (earlier.read_text() + log.read_text()).endswith("line 19998\nline 19999\n")


async def test_output_without_line_breaks_does_not_pile_up(tmp_path: Path) -> None:
    child = python("import sys; sys.stdout.write('x' * 3_000_000); sys.stdout.write('end')", tmp_path)
    await child.start()
    assert await asyncio.wait_for(child.wait(), 60) == 0
    assert child.tail().endswith("xend")
    assert len(child.tail()) <= child_module.LINE_BYTES * 2


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = f"""
import asyncio, os, sys
from pathlib import Path
from emulators.child import Child
async def main():
    source = "import os, time; print('pid', os.getpid()); time.sleep(60)"
    log = Path({str(tmp_path / "w.log")!r})
    child = Child("worker", [sys.executable, "-uc", source], env=dict(os.environ), log=log)
    line = child.line(r"\\d+")
    await child.start()
    print(await child.ready(line, 60), flush=True)
    await child.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} outlived its parent")
