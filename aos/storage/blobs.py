"""Blobs of applications: whole values under names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContentSettings

from aos.errors import AosError, Conflict
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.names import checked
from aos.storage.paging import Page, pack, page_size, unpack

LARGEST_BLOB = 256 * 1024 * 1024
"""Bytes read or written in one call: values lie in memory whole."""


_UNCHANGED = MatchConditions.IfNotModified


class BlobNotFound(AosError):
    code = "blob_not_found"
    title = "There is no such blob."


class BlobTooLarge(AosError):
    code = "too_large"
    title = "The blob is too large for this call."


class BlobNotJson(AosError):
    code = "not_json"
    title = "The blob is not a JSON document."


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob in a listing; `size` in bytes."""

    name: str
    size: int
    etag: str
    modified_at: datetime | None = None
    content_type: str | None = None


class Blobs:
    """The blobs of an account, of any container."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def upload(
        self,
        container: str,
        name: str,
        data: bytes | str,
        *,
        content_type: str | None = None,
        etag: str | None = None,
        overwrite: bool = True,
    ) -> BlobInfo:
        """Writes a whole blob; text as UTF-8.

        Args:
            etag: Write only over this state of the blob.
            overwrite: Whether a blob of that name may be there already.

        Raises:
            Conflict: The blob has another state than `etag`, or is there although `overwrite` is false.
            BlobTooLarge: Over `LARGEST_BLOB`.
        """
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > LARGEST_BLOB:
            raise BlobTooLarge(f"{container}/{name}: {len(raw)} bytes; at most {LARGEST_BLOB} are written in one call.")
        kind = content_type or ("text/plain; charset=utf-8" if isinstance(data, str) else "application/octet-stream")
        client = await self._account.container(checked("container", container))
        condition: dict[str, Any] = {} if etag is None else {"etag": etag, "match_condition": _UNCHANGED}
        with _errors(container, name):
            blob = await client.upload_blob(
                checked("blob", name),
                raw,
                overwrite=overwrite or etag is not None,
                content_settings=ContentSettings(content_type=kind),
                **condition,
            )
            properties = await blob.get_blob_properties()
        return BlobInfo(name, len(raw), properties.etag, properties.last_modified, kind)

    async def download(self, container: str, name: str, *, limit: int = LARGEST_BLOB) -> bytes:
        """Reads a whole blob.

        Args:
            limit: Largest size to read, in bytes.

        Raises:
            BlobNotFound: The blob, or its container, is not there.
            BlobTooLarge: It has more bytes than `limit`.
        """
        client = await self._account.container(checked("container", container), create=False)
        with _errors(container, name):
            try:
                stream = await client.download_blob(checked("blob", name), offset=0, length=limit + 1)
                data = await stream.readall()
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                return b""  # an empty blob has no range
        if len(data) > limit:
            raise BlobTooLarge(f"{container}/{name} has more than {limit} bytes; read it with a higher `limit`.")
        return data

    async def load_json(self, container: str, name: str) -> Any:
        """The JSON document in a blob.

        Raises:
            BlobNotFound, BlobTooLarge: As `download`.
            BlobNotJson: Says the line and column.
        """
        data = await self.download(container, name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise BlobNotJson(f"{container}/{name}: {error}.") from None
        except RecursionError:
            raise BlobNotJson(f"{container}/{name}: it is nested too deeply.") from None

    async def list(
        self, container: str, *, prefix: str = "", limit: int = 1000, next: str | None = None
    ) -> Page[BlobInfo]:
        """Blobs in the order of their names; none if the container is not there."""
        client = await self._account.container(checked("container", container), create=False)
        pages = client.list_blobs(name_starts_with=prefix or None, results_per_page=page_size(limit)).by_page(
            unpack(next)
        )
        found: list[BlobInfo] = []
        with storage_errors(f"container {container}"):
            try:
                async for page in pages:
                    async for blob in page:
                        kind = blob.content_settings.content_type
                        found.append(BlobInfo(blob.name, blob.size, blob.etag, blob.last_modified, kind))
                    break
            except ResourceNotFoundError:
                return Page([])
        return Page(found, pack(getattr(pages, "continuation_token", None)))

    async def delete(self, container: str, name: str, *, etag: str | None = None) -> bool:
        """Deletes a blob. False: it was not there.

        Raises:
            Conflict: It has another state than `etag`.
        """
        client = await self._account.container(checked("container", container), create=False)
        condition: dict[str, Any] = {} if etag is None else {"etag": etag, "match_condition": _UNCHANGED}
        try:
            with _errors(container, name):
                await client.delete_blob(checked("blob", name), **condition)
        except BlobNotFound:
            return False
        return True


@contextmanager
def _errors(container: str, name: str) -> Iterator[None]:
    with storage_errors(f"blob {container}/{name}"):
        try:
            yield
        except ResourceNotFoundError:
            raise BlobNotFound(f"{container}/{name} does not exist.") from None
        except (ResourceExistsError, ResourceModifiedError):
            raise Conflict(f"{container}/{name} was written by somebody else; read it and try again.") from None
