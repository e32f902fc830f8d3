from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from emulators.foundry import FoundryEmulator
from tests.foundry.project import Project, running
from tests.orchestration.model_server import ModelServer


@pytest.fixture(scope="session")
async def shared_model_project() -> AsyncIterator[Project]:
    async with running(FoundryEmulator()) as project:
        yield project


@pytest.fixture
async def project(shared_model_project: Project) -> AsyncIterator[Project]:
    yield shared_model_project
    await shared_model_project.heal()


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer().serve() as server:
        yield server
