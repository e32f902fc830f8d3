"""Which generation of the Foundry Agent Service answers: setting `FOUNDRY_API`."""

from __future__ import annotations

from aos.config import Settings
from aos.foundry.clients import FoundryClients
from aos.foundry.deployments import Deployments
from aos.foundry.provisioning import Provisioner, scope_of
from aos.foundry.responses import ResponsesAdapter
from aos.foundry.retirement import check_retirement
from aos.foundry.threads import ThreadsAdapter
from aos.kernel.clock import Clock
from aos.kernel.ports import FoundryPort
from aos.storage.account import StorageAccount


def connect_foundry(
    settings: Settings, clients: FoundryClients, deployments: Deployments, account: StorageAccount | None, clock: Clock
) -> FoundryPort:
    """The adapter that the settings choose.

    Args:
        account: Where it is remembered which agents were made.

    Raises:
        SettingError: The generation has retired.
    """
    provisioner = Provisioner(account, clock, scope_of(settings))
    if settings.foundry_api == "threads":
        check_retirement(clock, forced=settings.threads_after_retirement)
        return ThreadsAdapter(clients, provisioner, settings.app_name, deployments, clock)
    return ResponsesAdapter(clients, provisioner, settings.app_name, deployments)
