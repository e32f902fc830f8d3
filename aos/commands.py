"""Commands of operators: start, stop and restart an agent, read the registries again."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import BaseModel, ConfigDict

from aos.agents.departures import Departures
from aos.agents.desired import DesiredStates, Order
from aos.agents.directory import AgentDirectory
from aos.kernel.kernel import Kernel

log = logging.getLogger("aos.commands")


class AgentOrder(BaseModel):
    """Body of `POST agents/{agent_id}/commands`."""

    model_config = ConfigDict(extra="forbid")

    command: Order
    params: dict[str, Any] = {}


class Commands:
    """Carries out what operators ask for, over HTTP and queue `agent-commands`."""

    def __init__(
        self,
        kernel: Kernel,
        directory: AgentDirectory,
        desired: DesiredStates,
        departures: Departures | None = None,
    ) -> None:
        self._departures = departures
        self._kernel = kernel
        self._directory = directory
        self._desired = desired

    async def order(self, agent_id: str, order: Order) -> None:
        """Starts, stops or restarts an agent, in every process and across restarts of them.

        A stopped agent ends the turns that it is in and takes up no other; what is sent to it over the bus waits. A
        restart makes it ready anew: its tools and its version in Foundry are looked up again.

        Raises:
            UnknownAgent: The registry has none of this id.
            TransientError: Nothing, or not all of it, was done; asking again is harmless.
        """
        await self._directory.entry(agent_id)
        wanted = await self._desired.order(agent_id, order)
        log.info("agent %s: %s", agent_id, order)
        if order == "restart":
            await self._directory.forget(agent_id)
        if not wanted.stopped:
            await self._kernel.wake_agent(agent_id)

    async def reload(self) -> dict[str, Any]:
        """Reads both registries now and says what changed: ids by `added`, `changed`, `removed`, `disabled`.

        `leaving` are the agents that are still in Foundry though an earlier reconcile found them gone from here,
        `problems` what is wrong with the documents: with pointer `""` a whole one, so that nothing of it is in force.
        """
        before = self._directory.seen()
        await self._directory.reload()
        registry = await self._directory.registry()
        problems: list[dict[str, str | None]] = [
            {"pointer": "", "detail": why, "agent_id": None} for why in self._directory.unread
        ]
        problems += [
            {"pointer": problem.pointer, "detail": problem.detail, "agent_id": problem.agent_id}
            for problem in registry.problems
        ]
        leaving = [] if self._departures is None else await self._departures.waiting()
        return self._directory.seen().since(before) | {"leaving": leaving, "problems": problems}
