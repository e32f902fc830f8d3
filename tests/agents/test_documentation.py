"""The samples of `docs/runtimes.md`, run as they stand there against the Foundry emulator."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from aos.agents import LeadershipAgent, PurposeDrivenAgent, PurposeDrivenAgentFoundry
from aos.config import load_settings
from aos.registry.agents import parse_agents
from tests.foundry.project import Project

DOCUMENT = (Path(__file__).parents[2] / "docs/runtimes.md").read_text()


def samples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)


async def run(code: str) -> dict[str, Any]:
    """Runs a sample that awaits at its top level; returns its names."""
    names: dict[str, Any] = {"__name__": "sample"}
    compiled = compile(code, "docs/runtimes.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)  # noqa: S307 - the point of the test
    if inspect.isawaitable(result):
        await result
    return names


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    monkeypatch.setenv("AZURE_AI_PROJECT_ENDPOINT", project.emulator.endpoint)
    monkeypatch.setenv("AZURE_AI_API_KEY", "local")


@pytest.mark.usefixtures("environment")
async def test_an_agent_is_made_initialized_and_started() -> None:
    leader, _ = samples("python")
    agent = (await run(leader))["agent"]
    try:
        assert isinstance(agent, LeadershipAgent)
        assert isinstance(agent, PurposeDrivenAgent)
        assert agent.is_running
        assert agent.runtime == "Foundry Agent Service (Llama 3.3 70B + LoRA)"
        assert agent.ref is not None
        assert agent.ref.deployment == "llama-3.3-70b-ceo"
        assert await agent.ask("@say here") == "here"
    finally:
        await agent.stop()


@pytest.mark.usefixtures("environment")
async def test_an_agent_on_foundry_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_FOUNDRY_RUNTIME", "false")
    _, foundry = samples("python")
    names = await run(foundry)
    assert names["answer"]
    assert isinstance(names["agent"], PurposeDrivenAgentFoundry)
    assert not names["agent"].is_running


def test_the_settings_are_settings() -> None:
    values = json.loads(samples("json")[0])["Values"]
    settings = load_settings(values)
    assert settings.use_foundry
    assert settings.model_deployment == "llama-3.3-70b"
    assert settings.agent_container == "agent-configs"
    assert settings.project_endpoint == values["AZURE_AI_PROJECT_ENDPOINT"]


def test_the_entry_is_an_entry() -> None:
    registry = parse_agents(f'{{"version": "1.0", "agents": [{samples("json")[1]}]}}'.encode())
    assert (registry.problems, registry.warnings) == ((), ())
    agent = PurposeDrivenAgentFoundry.from_entry(registry.entries["ceo"])
    assert agent.deployment("llama-3.3-70b") == "llama-3.3-70b-ceo"
