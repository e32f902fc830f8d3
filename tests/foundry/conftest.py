from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aos.config import Settings
from aos.storage.account import StorageAccount
from emulators.foundry import FoundryEmulator
from tests.foundry.project import Project, running


@pytest.fixture(scope="session")
async def shared_project() -> AsyncIterator[Project]:
    async with running(FoundryEmulator()) as project:
        yield project


@pytest.fixture
async def project(shared_project: Project) -> AsyncIterator[Project]:
    """A project in good health; tests keep apart by using agents and conversations of their own."""
    yield shared_project
    await shared_project.heal()


@pytest.fixture(scope="session")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()
