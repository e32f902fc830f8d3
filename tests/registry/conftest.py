from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos.config import STORAGE, load_settings
from aos.storage.account import StorageAccount
from emulators.azurite import Azurite


@pytest.fixture(scope="session")
async def registry_storage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StorageAccount]:
    """A storage account on an Azurite that keeps its data in memory."""
    installed = Path(os.environ.get("AOS_AZURITE_DIR", ".aos"))
    async with Azurite(state_dir=tmp_path_factory.mktemp("azurite"), install_dir=installed) as azurite:
        account = StorageAccount(load_settings({STORAGE: azurite.connection_string}))
        try:
            yield account
        finally:
            await account.close()
