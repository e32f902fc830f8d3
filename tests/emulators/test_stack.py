"""The whole stack as its user starts it: what it prints and writes, and that nothing survives it but its data."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.storage.blob.aio import BlobServiceClient

from emulators.errors import AlreadyRunning
from emulators.ports import in_use
from emulators.settings import StackSettings
from emulators.stack import Stack

ROOT = Path(__file__).parents[2]
PORTS = (
    "AOS_BLOB_PORT",
    "AOS_QUEUE_PORT",
    "AOS_TABLE_PORT",
    "AOS_SERVICEBUS_PORT",
    "AOS_FOUNDRY_PORT",
    "AOS_CALENDAR_PORT",
)
SETTINGS = {
    "AZURE_SERVICE_BUS_CONNECTION_STRING",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_AI_PROJECT_ENDPOINT",
    "AZURE_AI_API_KEY",
    "AZURE_AI_MODEL_DEPLOYMENT",
    "FOUNDRY_API",
    "AGENT_CONFIG_BLOB_CONTAINER",
    "MCP_REGISTRY_BLOB_CONTAINER",
    "USE_FOUNDRY_RUNTIME",
    "AOS_MCP_PRIVATE_NETWORKS",
    "BUSINESS_CALENDAR_URL",
}


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def processes() -> dict[int, tuple[int, str]]:
    """Every process that is no zombie: its parent and command."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    )
    found = {}
    for line in listed.stdout.splitlines():
        pid, parent, state, *command = line.split(None, 3)
        if not state.startswith("Z"):
            found[int(pid)] = (int(parent), command[0] if command else "")
    return found


def descendants(pid: int) -> dict[int, str]:
    table = processes()
    family = {pid}
    while True:
        more = {child for child, (parent, _) in table.items() if parent in family} - family
        if not more:
            return {child: table[child][1] for child in family - {pid}}
        family |= more


class Running:
    """`python -m emulators ...` in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "emulators", *arguments],
            cwd=folder,
            env={
                **{name: value for name, value in os.environ.items() if name not in SETTINGS},
                **dict.fromkeys(PORTS, "0"),
                "AOS_AZURITE_DIR": str(ROOT / ".aos"),
                "PYTHONPATH": str(ROOT),
                **settings,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Iterator[str], lines: list[str]) -> None:
        lines.extend(line.rstrip("\n") for line in iter(lambda: next(stream, ""), ""))

    def ready(self) -> dict[str, str]:
        """The settings that it prints."""
        until(lambda: len(self.lines) >= len(SETTINGS) or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        return dict(line.split("=", 1) for line in self.lines)

    @property
    def said(self) -> str:
        return "\n".join(self.errors)

    def ended(self, seconds: float = 60.0) -> int:
        status = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(30)
        return status


@contextmanager
def running(folder: Path, *arguments: str, **settings: str) -> Iterator[Running]:
    started = Running(folder, *arguments, **settings)
    try:
        yield started
    finally:
        family = descendants(started.process.pid)
        started.process.kill()
        started.ended()
        for stream in (started.process.stdin, started.process.stdout, started.process.stderr):
            assert stream is not None
            stream.close()
        until(lambda: not family.keys() & processes().keys())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with registries."""
    for name in ("agent_registry.json", "mcp_server_registry.json"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


async def blob(settings: Mapping[str, str], name: str, new: bytes | None = None) -> bytes:
    async with BlobServiceClient.from_connection_string(settings["AZURE_STORAGE_CONNECTION_STRING"]) as service:
        client = service.get_blob_client(settings["AGENT_CONFIG_BLOB_CONTAINER"], name)
        if new is not None:
            await client.upload_blob(new, overwrite=True)
        return await (await client.download_blob()).readall()


async def deployments(settings: Mapping[str, str]) -> list[str]:
    url = f"{settings['AZURE_AI_PROJECT_ENDPOINT']}/deployments?api-version=v1"
    async with httpx2.AsyncClient() as http:
        answer = await http.get(url, headers={"api-key": settings["AZURE_AI_API_KEY"]})
    return [deployment["name"] for deployment in answer.raise_for_status().json()["value"]]


def sourced(file: Path) -> dict[str, str]:
    """The environment of a shell that reads the file."""
    shell = subprocess.run(["sh", "-c", f"set -a; . {file}; env"], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in shell.stdout.splitlines() if "=" in line)


async def test_up_serves_all_prints_and_writes_the_settings_and_leaves_nothing(project: Path) -> None:
    with running(project, "up", "--write", "local.env") as stack:
        settings = stack.ready()
        assert settings.keys() == SETTINGS
        assert settings["AZURE_AI_MODEL_DEPLOYMENT"] == "llama-3.3-70b"

        assert await blob(settings, "agent_registry.json") == (ROOT / "agent_registry.json").read_bytes()
        async with ServiceBusClient.from_connection_string(settings["AZURE_SERVICE_BUS_CONNECTION_STRING"]) as bus:
            async with bus.get_queue_sender("agent-commands") as sender:
                await sender.send_messages(ServiceBusMessage("start"))
            async with bus.get_queue_receiver("agent-commands") as receiver:
                (message,) = await receiver.receive_messages(max_wait_time=30)
                assert str(message) == "start"
                await receiver.complete_message(message)
        assert "llama-3.3-70b-ceo" in await deployments(settings)

        written = project / "local.env"
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
        assert settings.items() <= sourced(written).items()

        family = descendants(stack.process.pid)
        assert len(family) == 8  # four parts, each on its leash
        stack.process.send_signal(signal.SIGINT)
        assert stack.ended() == 0
        assert "Traceback" not in stack.said
        assert re.search(r"Azurite +127\.0\.0\.1:\d+, \d+, \d+ +ready +\.aos/azurite", stack.said)
        assert not family.keys() & processes().keys()


async def test_killed_it_leaves_no_child_and_its_data_and_edited_registries_for_the_next(project: Path) -> None:
    edited = b'{"version": "1.0", "agents": []}'
    with running(project, "up") as stack:
        settings = stack.ready()
        await blob(settings, "mine", b"precious")
        await blob(settings, "agent_registry.json", edited)
        family = descendants(stack.process.pid)
        assert len(family) == 8
        stack.process.kill()
        stack.ended()
        # At once: the lock makes the new one wait for the parts of the old.
        with running(project, "up") as another:
            settings = another.ready()
            assert not family.keys() & processes().keys()
            assert await blob(settings, "mine") == b"precious"
            assert await blob(settings, "agent_registry.json") == edited
            another.process.terminate()
            assert another.ended() == 0
            assert "kept, although it differs" in another.said
    with running(project, "up", "--seed") as stack:
        assert await blob(stack.ready(), "agent_registry.json") == (ROOT / "agent_registry.json").read_bytes()


async def test_in_a_program_of_its_own(project: Path) -> None:
    told: list[str] = []
    settings = StackSettings(
        state_dir=project / "state",
        azurite_dir=ROOT / ".aos",
        blob_port=0,
        queue_port=0,
        table_port=0,
        servicebus_port=0,
        foundry_port=0,
        calendar_port=0,
        foundry_deployments="gpt-5",
    )
    async with Stack(settings, project=project, report=told.append) as stack:
        assert stack.environment.keys() == SETTINGS
        roles = ("ceo", "cfo", "cto", "cmo", "coo")
        expected = {"llama-3.3-70b", "gpt-5", *(f"llama-3.3-70b-{role}" for role in roles)}
        assert set(await deployments(stack.environment)) == expected
        with pytest.raises(AlreadyRunning):
            await Stack(settings, project=project).start()
    assert [line.rpartition(" ")[2] for line in told] == ["uploaded", "uploaded"]
    assert not any(in_use(port) for part in stack.parts for port in part.ports.values())


def test_a_second_stack_on_the_same_folder_is_refused(project: Path) -> None:
    with running(project, "up") as stack:
        stack.ready()
        with running(project, "up") as second:
            assert second.ended() == 1
            assert f"already (process {stack.process.pid}): stop it, or set AOS_STATE_DIR" in second.said
        with running(project, "up", AOS_STATE_DIR="other") as other:  # but two fit on one machine
            other.ready()
        assert stack.process.poll() is None


def test_a_port_in_use_is_named_before_anything_starts(project: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        port = other.stdout.readline().strip()
        with running(project, "up", AOS_SERVICEBUS_PORT=port) as stack:
            assert stack.ended() == 1
            assert f"port {port} of the Service Bus emulator is in use" in stack.said
            assert "set AOS_SERVICEBUS_PORT to another port" in stack.said
            assert not (project / ".aos" / "logs").exists()
        other.kill()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"AOS_BLOB_PORT": "many"}, "AOS_BLOB_PORT='many'"),
        ({"AOS_STATE_DIR": "/dev/null/state"}, "AOS_STATE_DIR=/dev/null/state cannot be used"),
    ],
)
def test_a_bad_setting_is_one_line(project: Path, settings: dict[str, str], text: str) -> None:
    with running(project, "up", **settings) as stack:
        assert stack.ended() == 1
        assert text in stack.said
        assert len(stack.errors) == 1


def test_a_part_that_dies_comes_back_on_its_port_with_the_same_settings(project: Path) -> None:
    with running(project, "up") as stack:
        settings = stack.ready()
        for module in ("emulators.servicebus", "emulators.foundry", "azurite.js", "business_calendar"):
            family = descendants(stack.process.pid).items()
            os.kill(
                next(pid for pid, command in family if module in command and "leash" not in command), signal.SIGKILL
            )
        until(lambda: stack.said.count("ended with status 137; starting it again (1 of 5)") == 4)
        endpoint = settings["AZURE_AI_PROJECT_ENDPOINT"]
        until(lambda: in_use(int(endpoint.split(":")[2].split("/")[0])))
        blob_port = re.search(r"BlobEndpoint=http://[\d.]+:(\d+)/", settings["AZURE_STORAGE_CONNECTION_STRING"])
        assert blob_port is not None
        until(lambda: in_use(int(blob_port[1])))
        until(lambda: len(descendants(stack.process.pid)) == 8)
        stack.process.terminate()
        assert stack.ended() == 0


def test_run_gives_a_command_the_settings_and_its_own_status(project: Path) -> None:
    script = 'read line; echo "$line from $AZURE_AI_PROJECT_ENDPOINT with $AZURE_AI_API_KEY"; exit 7'
    with running(project, "run", "--", "sh", "-c", script) as stack:
        assert stack.process.stdin is not None
        stack.process.stdin.write("hello\n")
        stack.process.stdin.flush()
        assert stack.ended() == 7
        (line,) = stack.lines
        assert re.fullmatch(r"hello from http://127\.0\.0\.1:\d+/api/projects/local with \S+", line)


def test_run_passes_a_signal_on_once_and_waits_for_the_command(project: Path) -> None:
    source = """
import os, signal, sys, time
def stop(number, frame):
    print("asked by", signal.Signals(number).name, flush=True)
    time.sleep(0.3)
    print("done", flush=True)
    sys.exit(3)
signal.signal(signal.SIGINT, stop)
os.write(1, b"serving\\n")  # print is not to be interrupted by itself
time.sleep(60)
"""
    with running(project, "run", "--", sys.executable, "-c", source) as stack:
        until(lambda: stack.lines == ["serving"])
        family = descendants(stack.process.pid)
        assert len(family) == 10
        stack.process.send_signal(signal.SIGINT)
        assert stack.ended() == 3
        assert stack.lines == ["serving", "asked by SIGINT", "done"]
        assert "Traceback" not in stack.said
        assert not family.keys() & processes().keys()


def test_a_command_of_run_dies_with_a_stack_that_is_killed(project: Path) -> None:
    with running(project, "run", "--", "sleep", "61") as stack:
        until(lambda: any("sleep 61" in command for command in descendants(stack.process.pid).values()))
        family = descendants(stack.process.pid)
        stack.process.kill()
        stack.ended()
        until(lambda: not family.keys() & processes().keys())


def test_a_command_that_does_not_exist(project: Path) -> None:
    with running(project, "run", "no-such-command") as stack:
        assert stack.ended() == 127
        assert "cannot start no-such-command: No such file or directory" in stack.said


@pytest.mark.parametrize("after", [0.0, 0.2, 0.5])
def test_interrupted_while_it_starts_it_leaves_nothing(project: Path, after: float) -> None:
    with running(project, "up") as stack:
        until((project / ".aos" / "stack.lock").exists)
        time.sleep(after)
        family = descendants(stack.process.pid)
        stack.process.send_signal(signal.SIGINT)
        assert stack.ended() == 0
        assert "Traceback" not in stack.said
        assert not family.keys() & processes().keys()


def test_asked_twice_to_stop_it_leaves_at_once_and_leaves_nothing(project: Path) -> None:
    with running(project, "up") as stack:
        stack.ready()
        family = descendants(stack.process.pid)
        stack.process.send_signal(signal.SIGINT)
        until(lambda: "stopping" in stack.said or stack.process.poll() is not None)
        stack.process.send_signal(signal.SIGTERM)
        assert stack.ended() in (0, 128 + signal.SIGTERM)  # 0: it was done before the second
        until(lambda: not family.keys() & processes().keys())
