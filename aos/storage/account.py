"""The storage account: one set of SDK clients per process, made when first used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from aos.config import STORAGE, Settings
from aos.errors import SettingError, StorageUnavailable, TransientError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.data.tables.aio import TableClient, TableServiceClient
    from azure.storage.blob.aio import BlobServiceClient, ContainerClient
    from azure.storage.queue.aio import QueueClient, QueueServiceClient

    from aos.storage.rowtable import RowTable

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
DENIED_STATUS = frozenset({401, 403})

# The SDK's own: up to 5 minutes for a connection, 15 s and more between two tries of a blob request.
_BOUNDS: dict[str, Any] = {"retry_total": 2, "connection_timeout": 5, "read_timeout": 30}
_QUEUE_BOUNDS: dict[str, Any] = _BOUNDS | {"initial_backoff": 1, "increment_base": 1, "random_jitter_range": 1}
_BLOB_BOUNDS: dict[str, Any] = _QUEUE_BOUNDS | {
    # Larger bodies in one piece hold up the event loop while they are sent.
    "max_single_put_size": 1024 * 1024,
    "max_block_size": 1024 * 1024,
}


def transport_options() -> dict[str, Any]:
    """Options for the SDK's transport: whether each request looks for a proxy, if this process has one at all.

    The look costs two changes of threads per request: a fifth of the CPU of a turn, and more of its time.
    """
    from urllib.request import getproxies

    return {"use_env_settings": bool(getproxies())}


class StorageAccount:
    """Tables, blob containers and queues of the account that the settings name; they are created on demand.

    Args:
        settings: With a connection string, or an account name and an identity.
        credential: The app's identity; used when there is no connection string.
    """

    def __init__(self, settings: Settings, credential: AsyncTokenCredential | None = None) -> None:
        self._settings = settings
        self._credential = credential
        self._tables: TableServiceClient | None = None
        self._blobs: BlobServiceClient | None = None
        self._queues: QueueServiceClient | None = None
        self._ready_tables: dict[str, TableClient] = {}
        self._ready_containers: dict[str, ContainerClient] = {}
        self._ready_queues: dict[str, QueueClient] = {}
        self._lock = asyncio.Lock()

    async def table(self, name: str) -> TableClient:
        """A table, created if it does not exist."""
        if (ready := self._ready_tables.get(name)) is not None:
            return ready
        async with self._lock:
            if name not in self._ready_tables:
                with storage_errors(f"table {name}"):
                    client = self._table_service().get_table_client(name)
                    await self._table_service().create_table_if_not_exists(name)
                self._ready_tables[name] = client
        return self._ready_tables[name]

    async def rows(self, name: str) -> RowTable:
        """A table as plain rows, created if it does not exist."""
        from aos.storage.rowtable import RowTable

        return RowTable(await self.table(name))

    async def container(self, name: str, *, create: bool = True) -> ContainerClient:
        """A blob container; created if it does not exist unless `create` is false."""
        from azure.core.exceptions import ResourceExistsError

        if (ready := self._ready_containers.get(name)) is not None:
            return ready
        if not create:
            return self._blob_service().get_container_client(name)
        async with self._lock:
            if name not in self._ready_containers:
                client = self._blob_service().get_container_client(name)
                with storage_errors(f"container {name}"), suppress(ResourceExistsError):
                    await client.create_container()
                self._ready_containers[name] = client
        return self._ready_containers[name]

    async def queue(self, name: str, *, again: bool = False) -> QueueClient:
        """A storage queue, created if it does not exist.

        Args:
            again: It turned out to be missing: somebody deleted it since this process made it.
        """
        from azure.core.exceptions import ResourceExistsError

        if again:
            self._ready_queues.pop(name, None)
        if (ready := self._ready_queues.get(name)) is not None:
            return ready
        async with self._lock:
            if name not in self._ready_queues:
                client = self._queue_service().get_queue_client(name)
                with storage_errors(f"queue {name}"), suppress(ResourceExistsError):
                    await client.create_queue()
                self._ready_queues[name] = client
        return self._ready_queues[name]

    def queue_uri(self, name: str) -> str:
        """The address of a storage queue, without a signature."""
        return str(self._queue_service().get_queue_client(name).url).partition("?")[0]

    async def check(self) -> dict[str, str]:
        """Asks each of the three services for a page of names, all at once: one that is away is tried for seconds.

        Returns:
            What is wrong, by service: `tables`, `blobs`, `queues`. Empty when all answer.
        """

        async def problem(service: str, ask: Callable[[], Awaitable[None]]) -> str | None:
            try:
                with storage_errors(f"the list of {service}"):
                    await ask()
            except TransientError as error:
                return error.detail
            return None

        services = {"tables": self._list_tables, "blobs": self._list_blobs, "queues": self._list_queues}
        found = await asyncio.gather(*(problem(service, ask) for service, ask in services.items()))
        return {service: said for service, said in zip(services, found, strict=True) if said is not None}

    async def _list_tables(self) -> None:
        async for _ in self._table_service().list_tables(results_per_page=1):
            return

    async def _list_blobs(self) -> None:
        async for _ in self._blob_service().list_containers(results_per_page=1):
            return

    async def _list_queues(self) -> None:
        async for _ in self._queue_service().list_queues(results_per_page=1):
            return

    async def close(self) -> None:
        for client in (self._tables, self._blobs, self._queues):
            if client is not None:
                await client.close()
        self._ready_tables.clear()
        self._ready_containers.clear()
        self._ready_queues.clear()
        self._tables = self._blobs = self._queues = None

    def _table_service(self) -> TableServiceClient:
        if self._tables is None:
            from azure.data.tables.aio import TableServiceClient

            s = self._settings
            if s.storage:
                with _connection_string(s.storage) as connection:
                    self._tables = TableServiceClient.from_connection_string(
                        connection, **_BOUNDS, **transport_options()
                    )
            else:
                uri = s.storage_table_uri or f"https://{s.storage_account}.table.core.windows.net"
                self._tables = TableServiceClient(uri, credential=self._identity(), **_BOUNDS, **transport_options())
        return self._tables

    def _blob_service(self) -> BlobServiceClient:
        if self._blobs is None:
            from azure.storage.blob.aio import BlobServiceClient

            s = self._settings
            if s.storage:
                with _connection_string(s.storage) as connection:
                    self._blobs = BlobServiceClient.from_connection_string(
                        connection, **_BLOB_BOUNDS, **transport_options()
                    )
            else:
                uri = s.storage_blob_uri or f"https://{s.storage_account}.blob.core.windows.net"
                self._blobs = BlobServiceClient(uri, credential=self._identity(), **_BLOB_BOUNDS, **transport_options())
        return self._blobs

    def _queue_service(self) -> QueueServiceClient:
        if self._queues is None:
            from azure.storage.queue.aio import QueueServiceClient

            s = self._settings
            if s.storage:
                with _connection_string(s.storage) as connection:
                    self._queues = QueueServiceClient.from_connection_string(
                        connection, **_QUEUE_BOUNDS, **transport_options()
                    )
            else:
                credential = self._identity()
                if not (s.storage_queue_uri or s.storage_account):
                    raise SettingError(f"{STORAGE}__queueServiceUri is not set: it names the account's queue service.")
                uri = s.storage_queue_uri or f"https://{s.storage_account}.queue.core.windows.net"
                self._queues = QueueServiceClient(uri, credential=credential, **_QUEUE_BOUNDS, **transport_options())
        return self._queues

    def _identity(self) -> AsyncTokenCredential:
        if not self._settings.storage_configured:
            raise SettingError(
                f"{STORAGE} is not set: it holds a connection string, or {STORAGE}__accountName names the account. "
                "Conversations are kept there; without it no message is accepted."
            )
        if self._credential is None:
            raise SettingError(f"{STORAGE}__accountName needs an identity to sign in with; none is available.")
        return self._credential


@contextmanager
def _connection_string(value: str) -> Iterator[str]:
    try:
        # Without one of them the blob SDK would go on, unauthorized.
        if not any(name in value.lower() for name in ("accountkey=", "sharedaccesssignature=")):
            raise ValueError
        yield value
    except ValueError:
        # The SDK's message may quote the key.
        expected = "expected `AccountName=...;AccountKey=...`"
        raise SettingError(f"{STORAGE} is not a connection string of a storage account: {expected}.") from None


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns the SDK's network, overload and authorization errors into `StorageUnavailable`; others pass through.

    Being refused counts as unavailable because it is a matter of the account, not of the request: once the key or role
    is there, the same request succeeds, and nothing was lost meanwhile.
    """
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    try:
        yield
    except (ServiceRequestError, ServiceResponseError) as error:
        raise StorageUnavailable(f"The storage account did not answer ({what}): {_short(error)}") from error
    except HttpResponseError as error:
        if error.status_code in TRANSIENT_STATUS:
            raise StorageUnavailable(f"The storage account refused {what} with HTTP {error.status_code}.") from error
        if error.status_code in DENIED_STATUS:
            raise StorageUnavailable(
                f"The storage account does not let this app use {what} (HTTP {error.status_code}): check the key in "
                f"{STORAGE}, or give the app's identity the roles Storage Table, Blob and Queue Data Contributor.",
                code="storage_denied",
            ) from error
        raise


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
