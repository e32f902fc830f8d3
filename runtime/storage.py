"""A place for an application's documents, as `storage_type` says: blobs of a storage account, or this process.

Calls go through `Outgoing`, so the reliability switches of the configuration hold for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from runtime.config_loader import RuntimeConfig, RuntimeConfigError
from runtime.outgoing import Outgoing

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient

MAX_DOCUMENT_BYTES = 32 * 1_048_576
MAX_LISTED = 5000


class Storage(Protocol):
    """Documents by name, up to 32 MiB each. Names may contain slashes."""

    async def get(self, name: str) -> bytes | None:
        """The document, or None. Raises `ValueError` if it is longer than 32 MiB."""

    async def put(self, name: str, data: bytes) -> None:
        """Writes or replaces the document. Raises `ValueError` if it is longer than 32 MiB."""

    async def delete(self, name: str) -> bool:
        """Removes the document. False: there was none."""

    async def names(self, prefix: str = "") -> list[str]:
        """Up to 5000 names that begin so, in order."""


@asynccontextmanager
async def open_storage(
    config: RuntimeConfig,
    settings: Mapping[str, str],
    *,
    container: str,
    connection: str = "AzureWebJobsStorage",
    outgoing: Outgoing | None = None,
) -> AsyncIterator[Storage]:
    """The storage of the configuration, while the context is open.

    Args:
        settings: `connection` names the one with a connection string, or, with the suffix `__blobServiceUri`, the
            account, which the identity of the process signs in to (`__clientId` picks a user-assigned one).
        container: Made if it is not there.

    Raises:
        RuntimeConfigError: Names the setting that is missing.
    """
    if config.storage_type == "memory":
        yield MemoryStorage()
        return
    from azure.core.exceptions import ResourceExistsError
    from azure.identity.aio import DefaultAzureCredential
    from azure.storage.blob.aio import BlobServiceClient

    text = settings.get(connection, "").strip()
    uri = settings.get(f"{connection}__blobServiceUri", "").strip()
    if not text and not uri:
        raise RuntimeConfigError({connection: "is not set, and storage_type is blob"})
    credential = None
    if not text:
        chosen = settings.get(f"{connection}__clientId", "").strip()
        credential = DefaultAzureCredential(**({"managed_identity_client_id": chosen} if chosen else {}))
    # Retries are ours, as the configuration wants them.
    service = (
        BlobServiceClient.from_connection_string(text, retry_total=0)
        if text
        else BlobServiceClient(uri, credential, retry_total=0)
    )
    try:
        async with service:
            storage = BlobStorage(service.get_container_client(container), outgoing or Outgoing(config))
            with suppress(ResourceExistsError):
                await storage.create()
            yield storage
    finally:
        if credential is not None:
            await credential.close()


class MemoryStorage:
    """In this process, for tests and for work on one machine: gone when it ends."""

    def __init__(self) -> None:
        self._documents: dict[str, bytes] = {}

    async def get(self, name: str) -> bytes | None:
        return self._documents.get(name)

    async def put(self, name: str, data: bytes) -> None:
        self._documents[name] = _bounded(name, data)

    async def delete(self, name: str) -> bool:
        return self._documents.pop(name, None) is not None

    async def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self._documents if name.startswith(prefix))[:MAX_LISTED]


class BlobStorage:
    """Blobs of one container."""

    def __init__(self, container: ContainerClient, outgoing: Outgoing) -> None:
        self._container = container
        self._outgoing = outgoing
        self._name = f"storage {container.account_name}"

    async def create(self) -> None:
        """Makes the container. Raises `ResourceExistsError` of the SDK if there is one."""
        await self._outgoing.call(self._name, self._container.create_container, transient=_may_pass)

    async def get(self, name: str) -> bytes | None:
        from azure.core.exceptions import ResourceNotFoundError

        async def read() -> bytes:
            download = await self._container.download_blob(name)
            if download.size > MAX_DOCUMENT_BYTES:
                raise ValueError(f"{name!r} is longer than {MAX_DOCUMENT_BYTES} bytes")
            return await download.readall()

        try:
            return await self._outgoing.call(self._name, read, transient=_may_pass)
        except ResourceNotFoundError:
            return None

    async def put(self, name: str, data: bytes) -> None:
        _bounded(name, data)

        async def write() -> None:
            await self._container.upload_blob(name, data, overwrite=True)

        await self._outgoing.call(self._name, write, transient=_may_pass)

    async def delete(self, name: str) -> bool:
        from azure.core.exceptions import ResourceNotFoundError

        async def remove() -> None:
            await self._container.delete_blob(name)

        try:
            await self._outgoing.call(self._name, remove, transient=_may_pass)
        except ResourceNotFoundError:
            return False
        return True

    async def names(self, prefix: str = "") -> list[str]:
        async def listed() -> list[str]:
            found: list[str] = []
            async for name in self._container.list_blob_names(name_starts_with=prefix or None):
                found.append(name)
                if len(found) == MAX_LISTED:
                    break
            return found

        return await self._outgoing.call(self._name, listed, transient=_may_pass)


def _bounded(name: str, data: bytes) -> bytes:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{name!r} is longer than {MAX_DOCUMENT_BYTES} bytes")
    return data


def _may_pass(error: BaseException) -> bool:
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    if isinstance(error, HttpResponseError):
        return error.status_code is not None and (error.status_code >= 500 or error.status_code in (408, 429))
    return isinstance(error, (ServiceRequestError, ServiceResponseError, OSError, TimeoutError))
