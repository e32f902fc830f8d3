"""Where registry documents come from: a blob, or a file beside the app."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

from aos.errors import StorageUnavailable
from aos.registry.document import MAX_DOCUMENT, too_large
from aos.registry.errors import RegistryMissing, RegistryUnreadable
from aos.storage.account import StorageAccount, storage_errors

if TYPE_CHECKING:
    from azure.core import MatchConditions
    from azure.core.exceptions import HttpResponseError

CONNECT_SECONDS = 5
READ_SECONDS = 10
"""For the whole request. The next check is never far, so there is no point in waiting long for this one."""


@dataclass(frozen=True, slots=True)
class Document:
    """A registry document as read.

    Attributes:
        etag: Changes whenever the document does.
        origin: Where it was read, for people.
    """

    data: bytes
    etag: str
    origin: str


class RegistrySource(Protocol):
    async def read(self, etag: str | None) -> Document | None:
        """Reads the document unless it is still the one with this ETag.

        Returns:
            The document; None: it did not change.

        Raises:
            RegistryMissing: There is none.
            RegistryUnreadable: Reading is refused.
            RegistryInvalid: It is too large to be read.
            StorageUnavailable: Trying again later may help.
        """
        ...


class _Condition(TypedDict, total=False):
    etag: str
    match_condition: MatchConditions


class BlobSource:
    """A registry in a blob. One conditional request per read (`If-None-Match`), without retries of its own."""

    def __init__(self, account: StorageAccount, container: str, name: str) -> None:
        self._account = account
        self._container = container
        self._name = name

    @property
    def origin(self) -> str:
        return f"blob {self._container}/{self._name}"

    async def read(self, etag: str | None) -> Document | None:
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError

        container = await self._account.container(self._container, create=False)
        # The SDK passes an ETag of None on to the transport, which does not know it: so no ETag at all.
        condition: _Condition = {}
        if etag is not None:
            condition = {"etag": etag, "match_condition": MatchConditions.IfModified}
        try:
            async with asyncio.timeout(READ_SECONDS):
                with storage_errors(self.origin):
                    stream = await container.get_blob_client(self._name).download_blob(
                        retry_total=0,
                        connection_timeout=CONNECT_SECONDS,
                        read_timeout=READ_SECONDS,
                        **condition,
                    )
                    if stream.size > MAX_DOCUMENT:
                        raise too_large(stream.size)
                    data = await stream.readall()
        except TimeoutError:
            raise StorageUnavailable(f"The storage account sent no {self.origin} within {READ_SECONDS} s.") from None
        except HttpResponseError as error:
            if error.status_code == 304:
                return None
            raise self._refusal(error) from error
        return Document(data, stream.properties.etag, self.origin)

    def _refusal(self, error: HttpResponseError) -> Exception:
        if error.status_code == 404:
            return RegistryMissing(
                f"There is no {self.origin}. Upload it: az storage blob upload --account-name <account> "
                f"--auth-mode login --container-name {self._container} --name {self._name} --file {self._name}"
            )
        if error.status_code is None:
            return StorageUnavailable(f"The answer with {self.origin} was cut off.")
        return RegistryUnreadable(f"The storage account refused {self.origin} with HTTP {error.status_code}.")


class FileSource:
    """A registry in a file. The ETag is a hash of the content, so that touching the file changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def origin(self) -> str:
        return f"file {self._path}"

    async def read(self, etag: str | None) -> Document | None:
        data = await asyncio.to_thread(self._load)
        current = hashlib.sha256(data).hexdigest()
        return None if current == etag else Document(data, current, self.origin)

    def _load(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_DOCUMENT + 1)
        except FileNotFoundError:
            raise RegistryMissing(
                f"There is no {self.origin}. Create it, or name a storage account that holds the registry."
            ) from None
        except OSError as error:
            raise RegistryUnreadable(f"The {self.origin} cannot be read: {error.strerror or error}.") from error
        if len(data) > MAX_DOCUMENT:
            raise too_large(len(data))
        return data
