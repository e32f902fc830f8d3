"""The model deployments of the project: what an agent may think with.

An agent names the deployment of its own adapter, `{AZURE_AI_MODEL_DEPLOYMENT}-{domain}`. One that does not exist is
refused with the names of those that do; with `AOS_DEPLOYMENT_FALLBACK=true` the agent thinks with the base deployment
instead, which its reference and its status show.
"""

from __future__ import annotations

import logging

from aos.errors import FoundryRefused
from aos.foundry.clients import FoundryClients
from aos.foundry.faults import foundry_errors
from aos.kernel.clock import Clock, SystemClock

log = logging.getLogger("aos.foundry")

REMEMBERED = 30.0
"""Seconds for which a listing answers `choose`."""


class Deployments:
    """Looks deployments up.

    Args:
        fallback: The deployment that takes the place of a missing one; None: a missing one is refused.
    """

    def __init__(self, clients: FoundryClients, fallback: str | None = None, clock: Clock | None = None) -> None:
        self._clients = clients
        self._fallback = fallback
        self._clock = clock or SystemClock()
        self._listed: tuple[float, frozenset[str]] = (0.0, frozenset())

    async def choose(self, wanted: str) -> str:
        """The deployment to think with: the wanted one, or the base deployment where falling back is allowed."""
        if self._fallback is None or self._fallback == wanted:
            return wanted
        listed_at, names = self._listed
        if self._clock.now() - listed_at > REMEMBERED:
            names = await self.names()
        if wanted in names or self._fallback not in names:
            return wanted
        log.warning("the project has no deployment %s: its agent falls back to %s", wanted, self._fallback)
        return self._fallback

    async def require(self, deployment: str) -> None:
        """Returns when the deployment exists.

        Raises:
            FoundryRefused: It does not; names those that do.
        """
        from azure.core.exceptions import ResourceNotFoundError

        with foundry_errors(f"finding deployment {deployment}"):
            try:
                await self._clients.project.deployments.get(deployment)
                return
            except ResourceNotFoundError:
                pass
        names = await self.names()
        raise FoundryRefused(
            f"Failed to create agent: Model not found: the project has no deployment {deployment!r}. "
            f"Deployments: {', '.join(sorted(names)[:50]) or 'none'}. Deploy it, or correct "
            "AZURE_AI_MODEL_DEPLOYMENT or the agent's domain.",
            code="deployment_not_found",
        )

    async def names(self) -> frozenset[str]:
        """The deployments that exist now."""
        with foundry_errors("listing deployments"):
            names = frozenset([found.name async for found in self._clients.project.deployments.list()])
        self._listed = (self._clock.now(), names)
        return names

    async def check(self) -> None:
        """Returns when the service lists them to us."""
        with foundry_errors("listing deployments"):
            async for _ in self._clients.project.deployments.list():
                return
