"""What tests of several areas share: one Azurite for the whole run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aos.config import Settings, load_settings
from emulators.azurite import Azurite
from emulators.settings import load_settings as load_stack_settings


@pytest.fixture(scope="session")
async def azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azurite]:
    stack = load_stack_settings()
    installed = stack.azurite_dir or stack.state_dir
    async with Azurite(state_dir=tmp_path_factory.mktemp("azurite"), install_dir=installed) as running:
        yield running


@pytest.fixture(scope="session")
def storage_settings(azurite: Azurite) -> Settings:
    """Settings of an app whose storage account is Azurite; tests keep apart by using ids of their own."""
    return load_settings({"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string})
