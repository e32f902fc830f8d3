"""Ports on the loopback address: which are free, which are taken, and by whose setting."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import socket
import tempfile
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from emulators.errors import PortInUse

HOST = "127.0.0.1"
FREE = range(20_000, 30_000)
"""Free ports come from here: below those that systems hand out by themselves (Linux from 32768, macOS from 49152).

So no outgoing connection and no other listener is given a port between its choice and the start of the part, or while
the part is started again.
"""
FREE_ATTEMPTS = 100
_ours: set[int] = set()


def in_use(port: int) -> bool:
    """Whether something listens on `port` of the loopback address, or holds it."""
    with socket.socket() as probe:
        probe.settimeout(1)
        # Some systems allow to bind beside a listener on all addresses: ask for an answer first.
        if probe.connect_ex((HOST, port)) == 0:
            return True
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def settle(wanted: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Gives every setting its port: the one that it names, or a free one for 0.

    Args:
        wanted: setting -> (what the port is for, port).

    Raises:
        PortInUse: naming the part, the port and the setting.
    """
    settled: dict[str, int] = {}
    for setting, (purpose, port) in wanted.items():
        if not port:
            continue
        for other, taken in settled.items():
            if taken == port:
                raise PortInUse(f"{other} and {setting} both say {port}; give each its own port (0 = a free one)")
        if in_use(port):
            raise PortInUse(
                f"port {port} of {purpose} is in use on {HOST}: stop the program that listens there,"
                f" or set {setting} to another port (0 = a free one)"
            )
        settled[setting] = port
    for setting, (_, port) in wanted.items():
        if not port:
            settled[setting] = _free(settled.values())
    return settled


def _free(taken: Collection[int]) -> int:
    for _ in range(FREE_ATTEMPTS):
        port = FREE.start + secrets.randbelow(len(FREE))
        if port not in taken and not in_use(port) and _reserve(port):
            return port
    raise PortInUse(f"no free port found between {FREE.start} and {FREE.stop - 1} on {HOST}: set the ports yourself")


def _reserve(port: int) -> bool:
    """Keeps a port, which nothing listens on yet, from other processes that choose one; until this process ends."""
    if port in _ours:
        return False
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    _ours.add(port)
    return True


@cache
def _reservations() -> int:
    """A file with a byte for each port: whoever has locked it, has chosen the port."""
    path = Path(tempfile.gettempdir(), f"aos-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


async def accepts(port: int) -> None:
    """Returns when a connection to `port` is accepted; the caller bounds the time."""
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return
