from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from aos.config import Settings, load_settings
from aos.storage.account import StorageAccount


@pytest.fixture(scope="session")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


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
