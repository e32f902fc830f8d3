"""Where training data lies: a file of this machine, or a blob of the app's storage account."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aos.config import Settings
from aos.identity import identity
from aos.lora.registry import AdapterRegistry
from aos.storage.account import StorageAccount

_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")


@asynccontextmanager
async def open_registry(settings: Settings) -> AsyncIterator[AdapterRegistry]:
    """The adapters of the settings' account, for as long as it takes."""
    async with open_account(settings) as account:
        yield AdapterRegistry(account)


@asynccontextmanager
async def open_account(settings: Settings) -> AsyncIterator[StorageAccount]:
    """The settings' storage account, for as long as it takes."""
    credential = None if settings.storage else identity(settings)
    account = StorageAccount(settings, credential)
    try:
        yield account
    finally:
        await account.close()
        if credential is not None:
            await credential.close()


async def local_data(path: str, settings: Settings, scratch: Path) -> Path:
    """Training data as a file: the file itself, or a copy in `scratch` of the blob `container/name`.

    What is neither stays as it is: reading it says what is wrong.

    Raises:
        TrainingDataInvalid: There is no such file, and no such blob.
        StorageUnavailable: The account cannot be asked.
    """
    file = Path(path)
    container, _, name = path.partition("/")
    if not settings.storage_configured or not name or _CONTAINER.fullmatch(container) is None:
        return file
    if await asyncio.to_thread(file.exists):
        return file
    async with open_registry(settings) as registry:
        return await registry.fetch_data(path, scratch / file.name)
