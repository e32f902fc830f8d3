from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aos.config import Settings
from aos.storage.account import StorageAccount


@pytest.fixture(scope="session")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()
