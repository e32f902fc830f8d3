"""`make run` as a new user sees it: what it prints works, Ctrl-C ends all of it, a taken port is named."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.e2e.harness import ROOT

PARTS = (
    "AOS_BLOB_PORT",
    "AOS_QUEUE_PORT",
    "AOS_TABLE_PORT",
    "AOS_SERVICEBUS_PORT",
    "AOS_FOUNDRY_PORT",
    "AOS_CALENDAR_PORT",
)


def environment(state: Path, port: int) -> dict[str, str]:
    return {
        **os.environ,
        **dict.fromkeys(PARTS, "0"),
        "AOS_STATE_DIR": str(state),
        "AOS_AZURITE_DIR": str(ROOT / ".aos"),
        "AOS_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }


def children(pid: int) -> dict[int, str]:
    """All descendants of a process, with their command lines."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    family: dict[int, str] = {}
    for line in listed.stdout.splitlines():
        child, parent, *command = line.split(None, 2)
        if int(parent) in (pid, *family):
            family[int(child)] = " ".join(command)
    return family


def alive(pids: dict[int, str]) -> dict[int, str]:
    """Which of these processes still run the same command."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True)
    running = {}
    for line in listed.stdout.splitlines():
        pid, state, *command = line.split(None, 2)
        if not state.startswith("Z"):
            running[int(pid)] = " ".join(command)
    return {pid: command for pid, command in pids.items() if running.get(pid) == command}


async def run(state: Path, port: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "emulators", "run", "--", sys.executable, "-m", "aos", "serve"),
        cwd=ROOT,
        env=environment(state, port),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def test_the_printed_line_works_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = await run(tmp_path, 0)
    assert process.stdout is not None
    printed: list[str] = []
    async with asyncio.timeout(100):
        while not printed or not printed[-1].startswith("curl "):
            line = await process.stdout.readline()
            assert line, "".join(printed)
            printed.append(line.decode())
    words = shlex.split(printed[-1])
    url, header, body = words[2], words[words.index("-H") + 1], words[words.index("-d") + 1]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/agents/ceo", url)

    def ask() -> dict[str, object]:
        name, _, value = header.partition(": ")
        request = urllib.request.Request(url, body.encode(), {name: value})  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - checked above
            answer: dict[str, object] = json.load(response)
            return answer

    answer = await asyncio.to_thread(ask)
    assert answer["status"] == "completed"
    assert answer["tool_calls"]
    family = await asyncio.to_thread(children, process.pid)
    assert any("examples.company_ledger" in command for command in family.values())
    process.send_signal(signal.SIGINT)
    rest, _ = await asyncio.wait_for(process.communicate(), 100)
    assert b"Traceback" not in rest
    assert await asyncio.to_thread(alive, family) == {}


async def test_a_taken_port_is_named_with_the_setting_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await run(tmp_path, port)
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert f"Port {port} on 127.0.0.1 is in use; set AOS_PORT to another one.".encode() in output
    assert b"Traceback" not in output
