from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aos.config import Settings, load_settings
from aos.custom.adapter import AgentFrameworkAdapter
from aos.custom.definitions import Definitions
from aos.custom.history import BlobHistories, Histories, MemoryHistories
from aos.storage.account import StorageAccount
from tests.model_server import ModelServer, model_server


@pytest.fixture(scope="session")
async def shared_model() -> AsyncIterator[ModelServer]:
    async with model_server() as model:
        yield model


@pytest.fixture
def model(shared_model: ModelServer) -> ModelServer:
    shared_model.reset()
    return shared_model


@pytest.fixture(scope="session")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


@pytest.fixture(params=["memory", "blob"])
def histories(request: pytest.FixtureRequest, account: StorageAccount) -> Histories:
    return MemoryHistories() if request.param == "memory" else BlobHistories(account)


@pytest.fixture
async def adapter(model: ModelServer, account: StorageAccount) -> AsyncIterator[AgentFrameworkAdapter]:
    settings = load_settings({"AOS_MODEL_ENDPOINT": model.url, "AOS_MODEL_API_KEY": "secret"})
    adapter = AgentFrameworkAdapter(settings, BlobHistories(account), Definitions(account))
    yield adapter
    await adapter.close()
