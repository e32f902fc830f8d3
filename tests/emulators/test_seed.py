"""Registries in storage: uploaded once, never overwritten unasked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from azure.storage.blob.aio import BlobServiceClient

from emulators.azurite import Azurite
from emulators.errors import BadSetting
from emulators.seed import seed_registries

INSTALLED = Path(__file__).parents[2] / ".aos"


@pytest_asyncio.fixture(scope="module")
async def storage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with Azurite(state_dir=tmp_path_factory.mktemp("state"), install_dir=INSTALLED) as running:
        yield running.connection_string


async def content(storage: str, container: str, name: str) -> object:
    async with BlobServiceClient.from_connection_string(storage) as service:
        return json.loads(await (await service.get_blob_client(container, name).download_blob()).readall())


async def test_a_blob_is_uploaded_once_kept_when_edited_and_replaced_when_asked(storage: str, tmp_path: Path) -> None:
    file = tmp_path / "agent_registry.json"
    file.write_text('{"agents": []}')
    told: list[str] = []
    await seed_registries(storage, {file: "configs"}, report=told.append)
    await seed_registries(storage, {file: "configs"}, report=told.append)
    assert told == ["configs/agent_registry.json: uploaded"]
    assert await content(storage, "configs", file.name) == {"agents": []}

    async with BlobServiceClient.from_connection_string(storage) as service:
        await service.get_blob_client("configs", file.name).upload_blob(b'{"agents": ["edited"]}', overwrite=True)
    await seed_registries(storage, {file: "configs"}, report=told.append)
    assert told[1] == f"configs/agent_registry.json: kept, although it differs from {file} (--seed replaces it)"
    assert await content(storage, "configs", file.name) == {"agents": ["edited"]}

    await seed_registries(storage, {file: "configs"}, replace=True, report=told.append)
    assert told[2] == f"configs/agent_registry.json: replaced by {file}"
    assert await content(storage, "configs", file.name) == {"agents": []}


async def test_a_missing_file_leaves_an_empty_container(storage: str, tmp_path: Path) -> None:
    told: list[str] = []
    await seed_registries(storage, {tmp_path / "none.json": "empty-container"}, report=told.append)
    assert told == [f"{tmp_path / 'none.json'} does not exist: nothing to put into container empty-container"]
    async with BlobServiceClient.from_connection_string(storage) as service:
        container = service.get_container_client("empty-container")
        assert await container.exists()
        assert [name async for name in container.list_blob_names()] == []


async def test_a_file_that_is_not_json_is_refused_with_its_line(storage: str, tmp_path: Path) -> None:
    file = tmp_path / "agent_registry.json"
    file.write_text('{"agents": [],\n "version" 1}')
    with pytest.raises(BadSetting, match=r"agent_registry\.json is not JSON: .*line 2 column 12"):
        await seed_registries(storage, {file: "broken"}, report=pytest.fail)
