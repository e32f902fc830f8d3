"""Agents inside a running system: with the tools of the registry, or beside it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos.agents import LeadershipAgent, PurposeDrivenAgent
from aos.agents.purpose_driven import TurnFailed
from aos.config import Settings
from aos.kernel.kernel import KernelOptions
from aos.storage.account import StorageAccount
from aos.system import AgentOperatingSystem
from tests.agents.office import agent_entry
from tests.model_server import Answer, ModelServer, model_server


@pytest.fixture(scope="session")
async def served() -> AsyncIterator[ModelServer]:
    async with model_server() as model:
        yield model


@pytest.fixture
def model(served: ModelServer) -> ModelServer:
    served.reset()
    return served


@pytest.fixture
async def system(storage_settings: Settings, model: ModelServer, tmp_path: Path) -> AsyncIterator[AgentOperatingSystem]:
    """On the custom runtime, with a registry of one agent; no bus."""
    document = {"version": "1.0", "agents": [agent_entry("ceo", purpose="As the registry says.")]}
    (tmp_path / "agent_registry.json").write_text(json.dumps(document))
    (tmp_path / "mcp_server_registry.json").write_text('{"version": "1.0", "servers": []}')
    settings = storage_settings.model_copy(
        update={
            "use_foundry": False,
            "model_endpoint": model.url,
            "roles": frozenset({"agents"}),
            "agent_container": f"agents-{tmp_path.name.replace('_', '-')}"[:60].rstrip("-"),
        }
    )
    system = AgentOperatingSystem(settings, folder=tmp_path, options=KernelOptions(patience=0.2))
    account = StorageAccount(settings)
    try:
        for name, container in (
            ("agent_registry.json", settings.agent_container),
            ("mcp_server_registry.json", settings.mcp_container),
        ):
            client = await account.container(container)
            await client.upload_blob(name, (tmp_path / name).read_bytes(), overwrite=True)
        yield system
    finally:
        await system.close()
        await account.close()


async def test_an_agent_of_the_registry_is_what_the_registry_says(
    system: AgentOperatingSystem, model: ModelServer
) -> None:
    async with PurposeDrivenAgent("ceo", "Something else.", system=system) as agent:
        operation = await agent.turn("Hi?")
        assert operation.reply == "Done."
        assert agent.runtime == "Custom Runtime"
    assert "Purpose: As the registry says." in model.asked[0]["messages"][0]["content"]
    assert await system.kernel.operation(operation.operation_id) == operation


async def test_an_agent_beside_the_registry_shares_stores_and_runtime(
    system: AgentOperatingSystem, model: ModelServer
) -> None:
    agent = LeadershipAgent("advisor", "To advise.", adapter_name="cfo", system=system)
    async with agent:
        operation = await agent.turn("Hi?")
        assert (operation.reply, operation.model) == ("Done.", "llama-3.3-70b-cfo")
    assert await system.kernel.operation(operation.operation_id) == operation
    async with PurposeDrivenAgent("ceo", "The system goes on.", system=system) as other:
        assert await other.ask("Hi?") == "Done."


async def test_a_put_off_turn_goes_on_by_itself(system: AgentOperatingSystem, model: ModelServer) -> None:
    busy = Answer(status=503, error={"message": "busy"}, headers={"retry-after": "1"})
    model.answers(busy, Answer("Back."))
    async with PurposeDrivenAgent("advisor", "To advise.", adapter_name="cfo", system=system) as agent:
        assert await agent.ask("Hi?", timeout=60) == "Back."
    assert len(model.asked) == 2


async def test_status_and_lists_name_the_runtime(system: AgentOperatingSystem, model: ModelServer) -> None:
    status = await system.agents.status("ceo")
    assert (status["type"], status["runtime"], status["status"]) == ("PurposeDrivenAgent", "Custom Runtime", "running")
    (listed,) = (await system.agents.list())["agents"]
    assert (listed["type"], listed["runtime"]) == ("PurposeDrivenAgent", "Custom Runtime")
    health = await system.checks.report()
    assert health["runtime"] == "Custom Runtime"
    assert health["checks"]["model"]["status"] == "healthy"
    model.models = []
    with pytest.raises(TurnFailed):
        async with PurposeDrivenAgent("ceo", "Lead.", system=system) as agent:
            await agent.ask("Hi?")
