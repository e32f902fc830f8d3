"""Where agents run: the Foundry Agent Service or the custom runtime. `USE_FOUNDRY_RUNTIME` decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aos.config import Settings
from aos.kernel.clock import Clock
from aos.kernel.ports import FoundryPort
from aos.storage.account import StorageAccount

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

    from aos.foundry.deployments import Deployments


@dataclass(frozen=True, slots=True)
class OpenRuntime:
    """The port to a runtime; `deployments` are the project's, where the runtime knows which there are."""

    port: FoundryPort
    deployments: Deployments | None = None


def open_runtime(
    settings: Settings, account: StorageAccount | None, credential: AsyncTokenCredential | None, clock: Clock
) -> OpenRuntime:
    """The runtime that the settings choose; building it does no I/O.

    Args:
        account: Where it keeps what all processes share; without it this process remembers for itself.
        credential: The app's identity; used where there is no key.

    Raises:
        SettingError: The chosen generation of Foundry has retired.
    """
    if settings.use_foundry:
        from aos.foundry.clients import FoundryClients
        from aos.foundry.connect import connect_foundry
        from aos.foundry.deployments import Deployments

        clients = FoundryClients(settings, credential)
        deployments = Deployments(clients, settings.model_deployment if settings.deployment_fallback else None)
        return OpenRuntime(connect_foundry(settings, clients, deployments, account, clock), deployments)
    from aos.custom.adapter import AgentFrameworkAdapter
    from aos.custom.definitions import Definitions
    from aos.custom.history import BlobHistories, MemoryHistories

    histories = MemoryHistories() if account is None else BlobHistories(account)
    return OpenRuntime(AgentFrameworkAdapter(settings, histories, Definitions(account)))
