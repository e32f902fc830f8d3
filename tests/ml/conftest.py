from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aos.ml import FoundryAgentServiceClient, FoundryAgentServiceConfig
from emulators.foundry import FoundryEmulator
from tests.foundry.project import Project, running


@pytest.fixture(scope="session")
async def shared_ml_project() -> AsyncIterator[Project]:
    async with running(FoundryEmulator()) as project:
        yield project


@pytest.fixture
async def project(shared_ml_project: Project) -> AsyncIterator[Project]:
    yield shared_ml_project
    await shared_ml_project.heal()


@pytest.fixture
def config(project: Project) -> FoundryAgentServiceConfig:
    return FoundryAgentServiceConfig(endpoint_url=project.emulator.endpoint, api_key="local", retry_delay=0.01)


@pytest.fixture
async def client(config: FoundryAgentServiceConfig) -> AsyncIterator[FoundryAgentServiceClient]:
    async with FoundryAgentServiceClient(config) as client:
        yield client
