"""Where agents run: the Foundry Agent Service or the custom runtime. `USE_FOUNDRY_RUNTIME` decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.config import Settings
from aos.kernel.ports import FoundryPort
from aos.storage.account import StorageAccount

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential


def open_runtime(
    settings: Settings, account: StorageAccount | None, credential: AsyncTokenCredential | None
) -> FoundryPort:
    """The port to the runtime that the settings choose; building it does no I/O.

    Args:
        account: Where it keeps what all processes share; without it this process remembers for itself.
        credential: The app's identity; used where there is no key.
    """
    if settings.use_foundry:
        from aos.foundry.clients import FoundryClients
        from aos.foundry.provisioning import Provisioner
        from aos.foundry.responses import ResponsesAdapter

        return ResponsesAdapter(FoundryClients(settings, credential), Provisioner(account), settings.app_name)
    from aos.custom.adapter import AgentFrameworkAdapter
    from aos.custom.definitions import Definitions
    from aos.custom.history import BlobHistories, MemoryHistories

    histories = MemoryHistories() if account is None else BlobHistories(account)
    return AgentFrameworkAdapter(settings, histories, Definitions(account))


def open_identity(settings: Settings) -> AsyncTokenCredential:
    """The app's identity; `AZURE_CLIENT_ID` picks a user-assigned one."""
    from azure.identity.aio import DefaultAzureCredential

    if settings.client_id:
        return DefaultAzureCredential(managed_identity_client_id=settings.client_id)
    return DefaultAzureCredential()
