from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos.config import Settings
from aos.storage.account import StorageAccount
from emulators.foundry import FoundryEmulator
from tests.agents.office import Office
from tests.foundry.project import Project, running


@pytest.fixture(scope="session")
async def project() -> AsyncIterator[Project]:
    async with running(FoundryEmulator()) as project:
        yield project


@pytest.fixture(scope="session")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


@pytest.fixture
def office(tmp_path: Path, project: Project, account: StorageAccount) -> Office:
    office = Office(tmp_path, project, account)
    office.clock.stand()
    return office
