"""What tests of several areas share: one Azurite for the whole run, or one for a module; an account that is dead."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aos.config import Settings, load_settings
from aos.storage.account import StorageAccount
from emulators.azurite import Azurite
from emulators.settings import load_settings as load_stack_settings


@asynccontextmanager
async def _azurite(state_dir: Path) -> AsyncIterator[Azurite]:
    stack = load_stack_settings()
    installed = stack.azurite_dir or stack.state_dir
    async with Azurite(state_dir=state_dir, install_dir=installed) as running:
        yield running


@pytest.fixture(scope="session")
async def azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azurite]:
    async with _azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(scope="session")
def storage_settings(azurite: Azurite) -> Settings:
    """Settings of an app whose storage account is Azurite; tests keep apart by using ids of their own."""
    return load_settings({"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string})


@pytest.fixture(scope="module")
async def own_storage_settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """The same with an account of the module's own: for tests of what reads, or forgets, everything in it."""
    async with _azurite(tmp_path_factory.mktemp("own-azurite")) as running:
        yield load_settings({"AZURE_STORAGE_CONNECTION_STRING": running.connection_string})


@pytest.fixture
async def dead_account() -> AsyncIterator[StorageAccount]:
    """An account that refuses every connection."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
        connection = (
            f"AccountName=devstoreaccount1;AccountKey=c2VjcmV0;BlobEndpoint={endpoint};TableEndpoint={endpoint};"
        )
        account = StorageAccount(load_settings({"AZURE_STORAGE_CONNECTION_STRING": connection}))
        yield account
        await account.close()
