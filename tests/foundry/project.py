"""An emulated Foundry project, seen through the adapter and from behind."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from aos.config import Settings, load_settings
from aos.foundry.clients import FoundryClients
from aos.foundry.provisioning import Provisioner
from aos.foundry.responses import ResponsesAdapter
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


class Project:
    """The project behind an emulator, and an adapter that this test process uses."""

    def __init__(self, emulator: FoundryEmulator) -> None:
        self.emulator = emulator
        self.clients = FoundryClients(settings(emulator.endpoint))
        self.adapter = self.new_adapter(Provisioner(None))
        self.http = httpx2.AsyncClient(base_url=emulator.url, headers={"api-key": "local"})

    def new_adapter(self, provisioner: Provisioner, app_name: str = "aos") -> ResponsesAdapter:
        return ResponsesAdapter(self.clients, provisioner, app_name)

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
        page = (await self.http.get(self._path(f"agents/{agent}/versions"), params={"api-version": "v1"})).json()
        return [version["version"] for version in page.get("data", [])]

    async def delete_agent(self, agent: str) -> None:
        deleted = await self.http.delete(self._path(f"agents/{agent}"), params={"api-version": "v1"})
        deleted.raise_for_status()

    async def delete_conversation(self, remote_id: str) -> None:
        (await self.http.delete(self._path(f"openai/v1/conversations/{remote_id}"))).raise_for_status()

    def _path(self, rest: str) -> str:
        return f"/api/projects/local/{rest}"

    async def close(self) -> None:
        await self.adapter.close()
        await self.http.aclose()


@asynccontextmanager
async def running(emulator: FoundryEmulator) -> AsyncIterator[Project]:
    async with emulator:
        project = Project(emulator)
        try:
            yield project
        finally:
            await project.close()
