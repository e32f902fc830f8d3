"""Ports: free ones, taken ones, and messages that name the setting."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from emulators import ports
from emulators.errors import PortInUse
from emulators.ports import HOST, accepts, in_use, settle


def unclaimed() -> int:
    """A port that is free and stays so: kept for this process, and none that the system hands out."""
    return settle({"X": ("x", 0)})["X"]


def test_zero_gives_distinct_free_ports_and_keeps_the_named_ones() -> None:
    named = unclaimed()
    settled = settle({"A": ("a", 0), "B": ("b", named), "C": ("c", 0)})
    assert settled["B"] == named
    assert len(set(settled.values())) == 3
    assert not any(map(in_use, settled.values()))


def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    port = unclaimed()
    monkeypatch.setattr(ports, "_ours", set())
    with socket.create_server((HOST, port)):
        monkeypatch.setattr(ports, "FREE", range(port, port + 1))
        with pytest.raises(PortInUse, match=f"no free port found between {port} and {port}"):
            settle({"A": ("a", 0)})
    assert settle({"A": ("a", 0)}) == {"A": port}


def test_a_port_that_another_process_chose_is_not_given_before_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from emulators.ports import settle; print(*settle({'A': ('a', 0)}).values(), flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        monkeypatch.setattr(ports, "FREE", range(port, port + 1))
        assert not in_use(port)
        with pytest.raises(PortInUse, match="no free port"):
            settle({"A": ("a", 0)})
        other.communicate("\n")
    assert settle({"A": ("a", 0)}) == {"A": port}


@pytest.mark.parametrize("address", [HOST, "0.0.0.0"])  # noqa: S104 - another program's listener
def test_a_port_in_use_is_named_with_its_part_and_setting(address: str) -> None:
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
        assert in_use(port)
        with pytest.raises(PortInUse, match=f"port {port} of the table service is in use .* set AOS_TABLE_PORT"):
            settle({"AOS_TABLE_PORT": ("the table service", port)})


def test_a_port_that_two_settings_name_is_refused() -> None:
    port = unclaimed()
    with pytest.raises(PortInUse, match=f"A and B both say {port}"):
        settle({"A": ("a", port), "B": ("b", port)})


async def test_accepts_waits_for_a_listener() -> None:
    (port,) = settle({"A": ("a", 0)}).values()
    waiting = asyncio.create_task(accepts(port))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    with socket.create_server((HOST, port)):
        await asyncio.wait_for(waiting, 30)
