"""The storage account whose queues functions are called over."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aos.config import STORAGE, Settings, is_loopback
from aos.errors import SettingError
from aos.storage.account import StorageAccount

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

_ANY = "aos-any"


def function_account(
    settings: Settings, own: StorageAccount, credential: AsyncTokenCredential | None
) -> StorageAccount:
    """The app's own account, unless `STORAGE_SERVICE_ENDPOINT` names another one, which the identity signs in to.

    Raises:
        SettingError: It names a local account that is not the app's own: those are known by connection string alone.
    """
    endpoint = settings.function_endpoint
    if endpoint is None:
        return own
    if settings.storage_configured and own.queue_uri(_ANY) == f"{endpoint}/{_ANY}":
        return own
    host = urlsplit(endpoint).hostname or ""
    if is_loopback(host):
        raise SettingError(
            f"STORAGE_SERVICE_ENDPOINT names a local account that is not the one of {STORAGE}: use that one's."
        )
    only_queues = {"storage": None, "storage_account": host.partition(".")[0], "storage_queue_uri": endpoint}
    return StorageAccount(settings.model_copy(update=only_queues), credential)
