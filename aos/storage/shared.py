"""The blob containers that other applications read and write through AOS: those that the settings name, no other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from pydantic_core import from_json

from aos.errors import AosError
from aos.storage.account import StorageAccount, storage_errors
from aos.storage.payloads import NAME

LARGEST = 8 * 1024 * 1024
"""Bytes of a value."""
PAGE = 200
"""Keys listed at once."""
JSON, TEXT = "application/json", "text/plain; charset=utf-8"


class SharedRefused(AosError):
    """A container that is not shared, a key that is none, or a value that is too large or not text."""

    code = "storage_refused"
    title = "The shared storage does not take the request."


@dataclass(frozen=True, slots=True)
class Shared:
    """A stored value."""

    value: JsonValue
    size: int
    etag: str


class SharedContainers:
    """Values by container and key; a container is made when it is first used.

    Args:
        names: The containers that are shared; the first is the default one.
    """

    def __init__(self, account: StorageAccount, names: Sequence[str]) -> None:
        self._account = account
        self._names = tuple(names)

    def container(self, name: str | None) -> str:
        """The container of this name, or the default one.

        Raises:
            SharedRefused: It is not shared.
        """
        if name is None:
            return self._names[0]
        if name not in self._names:
            raise SharedRefused(
                f"Container {name!r} is not shared. Shared: {', '.join(self._names)} (AOS_SHARED_CONTAINERS).",
                code="container_not_shared",
            )
        return name

    async def get(self, container: str, key: str) -> Shared | None:
        """The value of a key; None if there is none.

        Raises:
            SharedRefused: It is larger than `LARGEST`, or neither text nor JSON.
        """
        from azure.core.exceptions import ResourceNotFoundError

        client = await self._account.container(self.container(container))
        with storage_errors(f"blob {container}/{_checked(key)}"):
            try:
                stream = await client.download_blob(key)
                if stream.size > LARGEST:
                    raise SharedRefused(_too_large(stream.size), code="too_large")
                data = await stream.readall()
            except ResourceNotFoundError:
                return None
        properties = stream.properties
        return Shared(_value(key, data, properties.content_settings.content_type), len(data), str(properties.etag))

    async def set(self, container: str, key: str, value: JsonValue) -> Shared:
        """Keeps a value in place of what the key held.

        Raises:
            SharedRefused: It is too large, or the key is none.
        """
        from azure.storage.blob import ContentSettings

        data = value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode()
        if len(data) > LARGEST:
            raise SharedRefused(_too_large(len(data)), code="too_large")
        client = await self._account.container(self.container(container))
        settings = ContentSettings(content_type=TEXT if isinstance(value, str) else JSON)
        with storage_errors(f"blob {container}/{_checked(key)}"):
            blob = await client.upload_blob(key, data, overwrite=True, content_settings=settings)
        return Shared(value, len(data), str((await blob.get_blob_properties()).etag))

    async def delete(self, container: str, key: str) -> bool:
        """Removes a key. False: there was none."""
        from azure.core.exceptions import ResourceNotFoundError

        client = await self._account.container(self.container(container))
        with storage_errors(f"blob {container}/{_checked(key)}"):
            try:
                await client.delete_blob(key)
            except ResourceNotFoundError:
                return False
        return True

    async def list(self, container: str, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        """A page of keys.

        Args:
            after: Where the page before ended.

        Returns:
            The keys in order, and where the page ended if there are more.

        Raises:
            SharedRefused: `after` is none of what this returned.
        """
        from azure.core.exceptions import HttpResponseError

        client = await self._account.container(self.container(container))
        pages = client.list_blob_names(name_starts_with=prefix or None, results_per_page=PAGE)
        paged = pages.by_page(continuation_token=after)
        with storage_errors(f"container {container}"):
            try:
                keys = [str(name) async for name in await anext(paged)]
            except StopAsyncIteration:
                return [], None
            except HttpResponseError as error:
                if error.status_code != 400:
                    raise
                raise SharedRefused("`after` must be `next` of the page before.", code="invalid_page") from None
        return keys, getattr(paged, "continuation_token", None) or None


def _checked(key: str) -> str:
    if NAME.fullmatch(key) is None:
        raise SharedRefused(
            f"{key[:200]!r} is no key: letters, digits, and ._- between slashes, no part beginning with a dot.",
            code="invalid_key",
        )
    return key


def _value(key: str, data: bytes, content_type: str | None) -> JsonValue:
    try:
        text = data.decode()
        if (content_type or "").startswith(JSON):
            # Stricter than Python's own: what it reads can also be written into an answer.
            value: JsonValue = from_json(text)
            return value
    except ValueError:
        raise SharedRefused(
            f"What {key!r} holds is neither text nor JSON; read it from the storage account.", code="not_text"
        ) from None
    return text


def _too_large(size: int) -> str:
    return f"The value has {size} bytes; at most {LARGEST} are taken and given."
