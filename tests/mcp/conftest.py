from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aos.config import Settings
from aos.kernel.clock import SystemClock
from aos.mcp.connections import McpConnection
from aos.mcp.secrets import EnvironmentSecrets
from aos.registry.mcp_servers import ServerEntry
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads

SERVERS = Path(__file__).parent / "servers"


class ShiftedClock(SystemClock):
    """The system's time and a shift that tests move."""

    def __init__(self) -> None:
        self.shift = 0.0

    def now(self) -> float:
        return time.time() + self.shift


def server_entry(server_id: str = "workshop", script: str = "workshop.py", *args: str, **changes: Any) -> ServerEntry:
    values: dict[str, Any] = {
        "server_id": server_id,
        "server_name": server_id.title(),
        "command": "python",
        "args": (str(SERVERS / script), *args),
        **changes,
    }
    return ServerEntry.model_validate(values)


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

    def make(entry: ServerEntry | None = None, environment: dict[str, str] | None = None) -> McpConnection:
        made.append(McpConnection(entry or server_entry(), EnvironmentSecrets(environment or {}), clock))
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
