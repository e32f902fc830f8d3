"""An emulated Foundry project, seen through the adapter and from behind."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import httpx2

from aos.config import Settings, load_settings
from aos.foundry.clients import FoundryClients
from aos.foundry.deployments import Deployments
from aos.foundry.provisioning import Provisioner
from aos.foundry.responses import ResponsesAdapter
from aos.foundry.threads import ThreadsAdapter
from aos.kernel.clock import Clock
from aos.kernel.ports import AgentSpec, FunctionDefinition
from emulators.foundry import FoundryEmulator

DEPLOYMENT = "llama-3.3-70b-ceo"
LOOKUP = FunctionDefinition(
    "ledger_lookup",
    "Looks a figure up.",
    {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]},
)
_numbers = itertools.count(1)


def settings(endpoint: str) -> Settings:
    return load_settings({"AZURE_AI_PROJECT_ENDPOINT": endpoint, "AZURE_AI_API_KEY": "local"})


def spec(agent_id: str | None = None, instructions: str = "Be brief.", deployment: str = DEPLOYMENT) -> AgentSpec:
    """An agent with one tool; its id is new unless it is given."""
    return AgentSpec(agent_id or f"agent{next(_numbers)}", deployment, instructions, (LOOKUP,))


Api = Literal["responses", "threads"]
Adapter = ResponsesAdapter | ThreadsAdapter


class Project:
    """The project behind an emulator, and an adapter that this test process uses.

    Args:
        api: The generation whose adapters `new_adapter` makes.
    """

    def __init__(self, emulator: FoundryEmulator, api: Api = "responses") -> None:
        self.emulator = emulator
        self.api = api
        self.clients = FoundryClients(settings(emulator.endpoint))
        self.adapter: Adapter = ResponsesAdapter(self.clients, Provisioner(None), "aos")
        self.http = httpx2.AsyncClient(base_url=emulator.url, headers={"api-key": "local"})

    def new_adapter(self, provisioner: Provisioner, app_name: str = "aos") -> ResponsesAdapter:
        return ResponsesAdapter(self.clients, provisioner, app_name)

    def any_adapter(
        self,
        provisioner: Provisioner | None = None,
        app_name: str = "aos",
        fallback: str | None = None,
        clock: Clock | None = None,
    ) -> Adapter:
        """An adapter of this project's generation."""
        provisioner = provisioner or Provisioner(None)
        deployments = Deployments(self.clients, fallback, clock)
        if self.api == "threads":
            return ThreadsAdapter(self.clients, provisioner, app_name, deployments, clock)
        return ResponsesAdapter(self.clients, provisioner, app_name, deployments)

    async def fail(self, status: int, path: str, *, times: int = 1, **more: object) -> None:
        """Has the next requests whose path contains `path` refused."""
        fault = {"status": status, "path_contains": path, "times": times, **more}
        (await self.http.post("/_emulator/faults", json=fault)).raise_for_status()

    async def heal(self) -> None:
        await self.http.delete("/_emulator/faults")

    async def calls(self, route: str) -> int:
        """How often a route was asked for, such as `POST /openai/v1/responses`."""
        counts: dict[str, int] = (await self.http.get("/_emulator/calls")).json()["counts"]
        return counts.get(route, 0)

    async def versions(self, agent: str) -> list[str]:
        """Newest first; of the older generation: ids of assistants."""
        if self.api == "threads":
            listed = self.clients.agents.list_agents(limit=100, order="desc")
            return [assistant.id async for assistant in listed if assistant.name == agent]
        page = (await self.http.get(self._path(f"agents/{agent}/versions"), params={"api-version": "v1"})).json()
        return [version["version"] for version in page.get("data", [])]

    async def delete_agent(self, agent: str) -> None:
        if self.api == "threads":
            for assistant in await self.versions(agent):
                await self.clients.agents.delete_agent(assistant)
            return
        deleted = await self.http.delete(self._path(f"agents/{agent}"), params={"api-version": "v1"})
        deleted.raise_for_status()

    async def delete_conversation(self, remote_id: str) -> None:
        if self.api == "threads":
            await self.clients.agents.threads.delete(remote_id)
            return
        (await self.http.delete(self._path(f"openai/v1/conversations/{remote_id}"))).raise_for_status()

    def _path(self, rest: str) -> str:
        return f"/api/projects/local/{rest}"

    async def close(self) -> None:
        await self.adapter.close()
        await self.http.aclose()


@asynccontextmanager
async def running(emulator: FoundryEmulator, api: Api = "responses") -> AsyncIterator[Project]:
    async with emulator:
        project = Project(emulator, api)
        try:
            yield project
        finally:
            await project.close()
