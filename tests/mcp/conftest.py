from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aos.config import Settings
from aos.kernel.clock import SystemClock
from aos.mcp import transport
from aos.mcp.connections import McpConnection
from aos.mcp.secrets import EnvironmentSecrets
from aos.registry.mcp_servers import ServerEntry
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads
from emulators.ports import settle

SERVERS = Path(__file__).parent / "servers"
ROOT = SERVERS.parents[2]


class ShiftedClock(SystemClock):
    """The system's time and a shift that tests move."""

    def __init__(self) -> None:
        self.shift = 0.0

    def now(self) -> float:
        return time.time() + self.shift


class StandingClock(ShiftedClock):
    """A clock that stands still unless a test moves it: for what is kept for a while, to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.time()

    def now(self) -> float:
        return self.began + self.shift


def server_entry(server_id: str = "workshop", script: str = "workshop.py", *args: str, **changes: Any) -> ServerEntry:
    values: dict[str, Any] = {
        "server_id": server_id,
        "server_name": server_id.title(),
        "command": "python",
        "args": (str(SERVERS / script), *args),
        **changes,
    }
    return ServerEntry.model_validate(values)


async def written(file: Path) -> None:
    """Waits until a tool has begun to write."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(file.exists):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)


def let_end(file: Path) -> None:
    """Lets `append_until` end."""
    file.with_name(f"{file.name}.done").touch()


class HttpWorkshop:
    """The workshop as an HTTP server in a process of its own, which can die and come back on the same port."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.port = settle({"PORT": ("the workshop", 0)})["PORT"]
        self.process: asyncio.subprocess.Process | None = None

    @property
    def entry(self) -> ServerEntry:
        return self.entry_with()

    def entry_with(self, **changes: Any) -> ServerEntry:
        path = "mcp" if self.kind == "streamable_http" else "sse"
        url = f"http://127.0.0.1:{self.port}/{path}"
        values = {"server_id": "workshop", "server_name": "Workshop", "server_type": self.kind, "url": url, **changes}
        return ServerEntry.model_validate(values)

    async def start(self) -> None:
        command = (sys.executable, str(SERVERS / "workshop.py"), self.kind, str(self.port))
        self.process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture(params=["streamable_http", "sse"])
async def http_workshop(request: pytest.FixtureRequest) -> AsyncIterator[HttpWorkshop]:
    workshop = HttpWorkshop(request.param)
    await workshop.start()
    yield workshop
    await workshop.kill()


@pytest.fixture(autouse=True)
def last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server said last is waited for however slow the machine is; its pipe ends with it."""
    monkeypatch.setattr(transport, "LAST_WORDS", 60.0)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture(scope="session")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


@pytest.fixture(scope="session")
def payloads(account: StorageAccount) -> Payloads:
    return Payloads(account)


Connect = Callable[..., McpConnection]


@pytest.fixture
async def connect(clock: ShiftedClock) -> AsyncIterator[Connect]:
    """Makes connections and closes them in the end."""
    made: list[McpConnection] = []

    def make(
        entry: ServerEntry | None = None,
        environment: dict[str, str] | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> McpConnection:
        secrets = EnvironmentSecrets(environment or {})
        made.append(McpConnection(entry or server_entry(), secrets, clock, on_change, private_networks=True))
        return made[-1]

    yield make
    for connection in made:
        await connection.close()


@pytest.fixture(scope="session")
async def workshop() -> AsyncIterator[McpConnection]:
    """One connection to the workshop for the tests that leave it as it is."""
    connection = McpConnection(server_entry(), EnvironmentSecrets({}), SystemClock())
    yield connection
    await connection.close()
