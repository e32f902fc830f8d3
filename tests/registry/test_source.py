from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.storage.blob import BlobBlock
from azure.storage.blob.aio import ContainerClient

from aos.config import STORAGE, load_settings
from aos.errors import StorageUnavailable
from aos.registry.document import MAX_DOCUMENT
from aos.registry.errors import RegistryInvalid, RegistryMissing, RegistryUnreadable
from aos.registry.source import BlobSource, Document, FileSource
from aos.storage.account import StorageAccount

NAME = "agent_registry.json"


@pytest.fixture
async def container(registry_storage: StorageAccount) -> AsyncIterator[ContainerClient]:
    client = await registry_storage.container(f"configs-{uuid.uuid4().hex}")
    yield client
    await client.delete_container()


@pytest.fixture
def blob(registry_storage: StorageAccount, container: ContainerClient) -> BlobSource:
    return BlobSource(registry_storage, container.container_name, NAME)


async def read(source: BlobSource | FileSource, etag: str | None = None) -> Document:
    document = await source.read(etag)
    assert document is not None
    return document


async def upload_large(container: ContainerClient, size: int) -> None:
    """In blocks: aiohttp warns of bodies over 1 MiB."""
    blob, ids = container.get_blob_client(NAME), []
    for start in range(0, size, 1_000_000):
        ids.append(f"{start:010}")
        await blob.stage_block(ids[-1], b" " * min(1_000_000, size - start))
    await blob.commit_block_list([BlobBlock(block_id) for block_id in ids])


async def test_a_blob_is_read_once_per_change(blob: BlobSource, container: ContainerClient) -> None:
    await container.upload_blob(NAME, b'{"agents": []}')
    first = await read(blob)
    assert first.data == b'{"agents": []}'
    assert first.origin == f"blob {container.container_name}/{NAME}"
    assert await blob.read(first.etag) is None

    await container.upload_blob(NAME, b'{"agents": [1]}', overwrite=True)
    second = await read(blob, first.etag)
    assert second.data == b'{"agents": [1]}'
    assert second.etag != first.etag
    assert await blob.read(second.etag) is None


async def test_an_empty_blob_is_an_empty_document(blob: BlobSource, container: ContainerClient) -> None:
    await container.upload_blob(NAME, b"")
    document = await read(blob)
    assert document.data == b""
    assert await blob.read(document.etag) is None


async def test_each_read_is_one_request(
    blob: BlobSource, container: ContainerClient, caplog: pytest.LogCaptureFixture
) -> None:
    await upload_large(container, 5_000_000)
    caplog.set_level("INFO", "azure.core.pipeline.policies.http_logging_policy")
    first = await read(blob)
    assert _requests(caplog, container.container_name) == 1
    assert await blob.read(first.etag) is None
    assert _requests(caplog, container.container_name) == 2


def _requests(caplog: pytest.LogCaptureFixture, container: str) -> int:
    said = [record.getMessage() for record in caplog.records]
    return sum("Request URL" in message and f"/{container}/" in message for message in said)


async def test_a_missing_blob_says_how_to_upload_it(blob: BlobSource, container: ContainerClient) -> None:
    with pytest.raises(RegistryMissing) as caught:
        await blob.read(None)
    assert caught.value.code == "registry_missing"
    assert f"--container-name {container.container_name} --name {NAME}" in caught.value.detail
    await container.upload_blob(NAME, b"{}")
    etag = (await read(blob)).etag
    await container.delete_blob(NAME)
    with pytest.raises(RegistryMissing):
        await blob.read(etag)


async def test_a_missing_container_is_not_made_by_reading(registry_storage: StorageAccount) -> None:
    source = BlobSource(registry_storage, "no-such-container", NAME)
    for _ in range(2):
        with pytest.raises(RegistryMissing, match="no-such-container"):
            await source.read(None)


async def test_a_blob_that_is_too_large_is_refused(blob: BlobSource, container: ContainerClient) -> None:
    await upload_large(container, MAX_DOCUMENT + 1)
    with pytest.raises(RegistryInvalid, match=f"at most {MAX_DOCUMENT}"):
        await blob.read(None)


async def test_a_wrong_key_is_named_as_such(registry_storage: StorageAccount, container: ContainerClient) -> None:
    endpoint = container.url.removesuffix(f"/{container.container_name}")
    connection = f"AccountName=devstoreaccount1;AccountKey=d3Jvbmc=;BlobEndpoint={endpoint};"
    account = StorageAccount(load_settings({STORAGE: connection}))
    try:
        with pytest.raises(StorageUnavailable, match="check the key") as caught:
            await BlobSource(account, container.container_name, NAME).read(None)
        assert caught.value.code == "storage_denied"
    finally:
        await account.close()


async def test_an_account_that_does_not_answer_is_transient_and_not_tried_again(
    dead_account: StorageAccount, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "azure.core.pipeline.policies.http_logging_policy")
    with pytest.raises(StorageUnavailable, match=f"blob configs/{NAME}"):
        await BlobSource(dead_account, "configs", NAME).read(None)
    assert _requests(caplog, "configs") == 1, "the next check is never far"


@pytest.fixture
async def half_an_answer() -> AsyncIterator[str]:
    """A server that promises a document and hangs up in the middle of it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\nContent-Range: bytes 0-99/100\r\n")
        writer.write(b'ETag: "1"\r\nx-ms-blob-type: BlockBlob\r\n\r\nhalf')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a"


async def test_an_answer_that_is_cut_off_is_transient(half_an_answer: str) -> None:
    account = StorageAccount(
        load_settings({STORAGE: f"AccountName=a;AccountKey=d3Jvbmc=;BlobEndpoint={half_an_answer};"})
    )
    try:
        with pytest.raises(StorageUnavailable):
            await BlobSource(account, "configs", NAME).read(None)
    finally:
        await account.close()


async def test_a_file_is_read_once_per_change(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"one")
    source = FileSource(path)
    first = await read(source)
    assert (first.data, first.origin) == (b"one", f"file {path}")
    path.write_bytes(b"one")
    assert await source.read(first.etag) is None
    path.write_bytes(b"two")
    second = await read(source, first.etag)
    assert second.data == b"two"
    path.write_bytes(b"one")
    assert (await read(source, second.etag)).etag == first.etag


async def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RegistryMissing, match=r"nothing\.json"):
        await FileSource(tmp_path / "nothing.json").read(None)
    with pytest.raises(RegistryUnreadable, match="Is a directory"):
        await FileSource(tmp_path).read(None)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(MAX_DOCUMENT + 1)
    with pytest.raises(RegistryInvalid, match=f"at most {MAX_DOCUMENT}"):
        await FileSource(large).read(None)
