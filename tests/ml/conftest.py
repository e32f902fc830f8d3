from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator

import pytest

from aos.ml import FoundryAgentServiceClient, FoundryAgentServiceConfig
from emulators.azurite import Azurite
from emulators.foundry import FoundryEmulator
from tests.foundry.project import Project, running
from tests.ml.azure_cloud import AzureCloud
from tests.ml.azure_ml_service import AzureMLService

NEED_EXTRAS = ("test_azure_ml.py", "test_adapters_document.py", "test_seed_2.py")
EXTRAS = ("torch", "peft", "azure.ai.ml")


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


collect_ignore = [] if all(map(_there, EXTRAS)) else list(NEED_EXTRAS)


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


@pytest.fixture(scope="session")
def azure_ml(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AzureCloud, AzureMLService]]:
    """A workspace in an Azure of its own, for the whole run."""
    folder = tmp_path_factory.mktemp("azure")
    service = AzureMLService(azurite.connection_string, folder)
    app = service.app()
    hosts = {"management.azure.com": app, ".api.azureml.ms": app, ".inference.ml.azure.com": service.endpoints()}
    with AzureCloud(hosts, service.blobs, folder).serve() as cloud:
        yield cloud, service


@pytest.fixture
def azure(
    azure_ml: tuple[AzureCloud, AzureMLService], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[AzureCloud, AzureMLService]]:
    """The same, empty; this process and what it starts live in it."""
    cloud, service = azure_ml
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    yield cloud, service
    cloud.signed_in = True
    service.reset()
