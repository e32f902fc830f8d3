"""Large values by reference (claim check): the value goes to a blob, a small reference travels in its place."""

from __future__ import annotations

import hashlib
import re
import uuid
from contextlib import suppress

from pydantic import BaseModel

from aos.errors import AosError
from aos.storage.account import StorageAccount, storage_errors

CONTAINER = "aos-payloads"
"""Values on their way; a lifecycle rule of the account removes them after 7 days."""
STATE_CONTAINER = "aos-state"
"""Values of table rows; they stay, however long a conversation rests."""


NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""Of a blob that is read. No part begins with a dot: the HTTP client would resolve `..` and leave the container."""


class PayloadGone(AosError):
    code = "payload_gone"
    title = "A stored value no longer exists."


class BlobRef(BaseModel):
    """Where a value lies; travels as `{"$blob": {...}}`."""

    container: str
    name: str
    sha256: str
    size: int


class Payloads:
    """Values in one container."""

    def __init__(self, account: StorageAccount, container: str = CONTAINER) -> None:
        self._account = account
        self._container = container

    async def put(self, data: bytes, prefix: str) -> BlobRef:
        """Stores a value under a new name that begins with `prefix`."""
        ref = BlobRef(
            container=self._container,
            name=f"{prefix}/{uuid.uuid4().hex}",
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
        )
        container = await self._account.container(self._container)
        with storage_errors(f"blob {ref.name}"):
            await container.upload_blob(ref.name, data)
        return ref

    async def get(self, ref: BlobRef, *, limit: int) -> bytes:
        """Reads a value and checks that it is the one that was stored.

        Args:
            limit: Largest size to read, in bytes.

        Raises:
            PayloadGone: It is not there, is larger than `limit`, is not what the reference says, or its name could
                lead out of the container.
        """
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        if ref.container != self._container:
            raise PayloadGone(f"References may only point into container {self._container}, not {ref.container!r}.")
        if NAME.fullmatch(ref.name) is None:
            raise PayloadGone(f"{ref.name[:200]!r} is no name of a value: letters, digits, and ._- between slashes.")
        if ref.size > limit:
            raise PayloadGone(f"The value has {ref.size} bytes; at most {limit} are read.", code="too_large")
        container = await self._account.container(self._container)
        with storage_errors(f"blob {ref.name}"):
            try:
                stream = await container.download_blob(ref.name, offset=0, length=ref.size + 1)
                data = await stream.readall()
            except ResourceNotFoundError:
                raise PayloadGone(
                    f"The value {ref.name} was removed (values on their way are kept for 7 days)."
                ) from None
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                data = b""  # the range begins behind the end
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise PayloadGone(f"The value {ref.name} is not the one that was sent: its hash differs.")
        return data

    async def remove(self, ref: BlobRef) -> None:
        """Removes a value that nothing refers to any more; one that is gone already is fine."""
        from azure.core.exceptions import ResourceNotFoundError

        if ref.container != self._container:
            raise PayloadGone(f"References may only point into container {self._container}, not {ref.container!r}.")
        container = await self._account.container(self._container)
        with storage_errors(f"blob {ref.name}"), suppress(ResourceNotFoundError):
            await container.delete_blob(ref.name)
