"""Where agents run: the Foundry Agent Service or the custom runtime. `USE_FOUNDRY_RUNTIME` decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aos.config import Settings
from aos.kernel.clock import Clock
from aos.kernel.ports import FoundryPort
from aos.storage.account import StorageAccount

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential


class ModelNames(Protocol):
    """What agents may think with."""

    async def names(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime of agents.

    Attributes:
        deployments: Lists what it serves; None: its list is not to be relied on.
    """

    port: FoundryPort
    deployments: ModelNames | None


def open_runtime(
    settings: Settings, account: StorageAccount | None, credential: AsyncTokenCredential | None, clock: Clock
) -> Runtime:
    """The runtime that the settings choose; building it does no I/O.

    Args:
        account: Where it keeps what all processes share; without it this process remembers for itself.
        credential: The app's identity; used where there is no key.

    Raises:
        SettingError: The chosen generation of the Foundry API has retired.
    """
    base = settings.model_deployment if settings.deployment_fallback else None
    if settings.use_foundry:
        from aos.foundry.clients import FoundryClients
        from aos.foundry.connect import connect_foundry
        from aos.foundry.deployments import Deployments

        clients = FoundryClients(settings, credential)
        deployments = Deployments(clients, base)
        return Runtime(connect_foundry(settings, clients, deployments, account, clock), deployments)
    from aos.custom.adapter import AgentFrameworkAdapter
    from aos.custom.definitions import Definitions
    from aos.custom.history import BlobHistories, MemoryHistories

    histories = MemoryHistories() if account is None else BlobHistories(account)
    adapter = AgentFrameworkAdapter(settings, histories, Definitions(account))
    # Some endpoints list what could be deployed, not what is: they are asked only if falling back depends on it.
    return Runtime(adapter, adapter if settings.deployment_fallback else None)
