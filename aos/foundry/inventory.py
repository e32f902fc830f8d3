"""What an app has in its Foundry project, as far as the service can list it: agent versions and threads.

Conversations of the current generation cannot be listed: the service has no such request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from aos.foundry.clients import FoundryClients
from aos.foundry.deletion import delete_conversation
from aos.foundry.faults import foundry_errors
from aos.foundry.provisioning import foundry_name
from aos.foundry.values import present

PAGE = 100


@dataclass(frozen=True, slots=True)
class Made:
    """Something of the project that this app made.

    Attributes:
        identity: The id of a thread or assistant, or `name:version`.
        name, version: Of an agent's version.
        agent_id: Whose it is.
        created_at: Seconds since the epoch.
    """

    identity: str
    agent_id: str
    created_at: float
    name: str = ""
    version: str = ""


class Inventory:
    """Lists what carries the app's name in its metadata, and deletes pieces of it.

    Args:
        app_name: Setting `AOS_APP_NAME`, which everything that is made carries.
        generation: Of the API, as in setting `FOUNDRY_API`.
    """

    def __init__(self, clients: FoundryClients, app_name: str, generation: str) -> None:
        self._clients = clients
        self._app_name = app_name
        self._generation = generation

    async def versions(self, agent_id: str) -> list[Made]:
        """The versions of an agent that this app made, newest first.

        Raises:
            FoundryUnavailable, FoundryRefused: From Foundry.
        """
        from azure.core.exceptions import ResourceNotFoundError

        name = foundry_name(agent_id)
        found: list[Made] = []
        with foundry_errors(f"listing versions of agent {name}"), suppress(ResourceNotFoundError):
            if self._generation == "threads":
                async for assistant in self._clients.agents.list_agents(limit=PAGE, order="desc"):
                    if assistant.name == name and self._ours(assistant.metadata):
                        made_at = _seconds(assistant.created_at)
                        found.append(Made(present(assistant.id), agent_id, made_at, name, assistant.id))
            else:
                async for version in self._clients.project.agents.list_versions(name, limit=PAGE, order="desc"):
                    if self._ours(version.metadata):
                        number, made_at = present(version.version), _seconds(version.created_at)
                        found.append(Made(f"{name}:{number}", agent_id, made_at, name, number))
        return sorted(found, key=lambda made: made.created_at, reverse=True)

    async def threads(self) -> AsyncIterator[Made]:
        """All threads that this app made.

        Raises:
            FoundryUnavailable, FoundryRefused: From Foundry, which may not have threads any more.
        """
        with foundry_errors("listing threads"):
            async for thread in self._clients.agents.threads.list(limit=PAGE):
                metadata = thread.metadata
                if self._ours(metadata):
                    yield Made(present(thread.id), (metadata or {}).get("aos_agent", ""), _seconds(thread.created_at))

    async def delete_version(self, made: Made) -> None:
        """Deletes one version; one that is not there is no error."""
        from azure.core.exceptions import ResourceNotFoundError

        with foundry_errors(f"deleting {made.identity}"), suppress(ResourceNotFoundError):
            if self._generation == "threads":
                await self._clients.agents.delete_agent(made.version)
            else:
                await self._clients.project.agents.delete_version(made.name, made.version)

    async def delete_conversation(self, remote_id: str) -> None:
        """Deletes a conversation or thread; one that is not there is no error."""
        await delete_conversation(self._clients, remote_id)

    def _ours(self, metadata: dict[str, str] | None) -> bool:
        return (metadata or {}).get("aos_app") == self._app_name


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
