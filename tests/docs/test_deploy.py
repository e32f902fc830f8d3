"""`docs/deploy.md` quotes what AOS prints: each message is made here, and looked for there."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from aos.config import Settings
from aos.errors import AgentGone, FoundryRefused, FoundryUnavailable, SettingError
from aos.foundry.clients import FoundryClients
from aos.foundry.deployments import Deployments
from aos.functions.sources import function_source
from aos.messaging.bus import Bus, Outbound
from aos.ml.foundry_agent_service import FoundryAgentServiceClient, FoundryAgentServiceConfig
from aos.registry.azure_functions import AzureFunction
from aos.registry.errors import RegistryMissing
from aos.registry.source import BlobSource
from aos.storage.account import StorageAccount
from emulators.foundry import FoundryEmulator
from tests.foundry.project import running, settings
from tests.foundry.talk import talk
from tests.publish.staging import ROOT

TEXT = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
QUOTES = re.findall(r"^> (.+)$", TEXT, re.M)


def quoted(message: str) -> None:
    """The document holds this message, word for word."""
    assert message in QUOTES


@pytest.fixture
async def emulator() -> AsyncIterator[FoundryEmulator]:
    async with FoundryEmulator(deployments=["llama-3.3-70b", "gpt-4o"], latency_ms=3000) as running:
        yield running


async def test_no_project_endpoint() -> None:
    with pytest.raises(SettingError) as raised:
        _ = FoundryClients(Settings.model_construct()).project
    quoted(raised.value.detail)


def test_an_agent_that_is_gone() -> None:
    quoted(AgentGone.title)


async def test_no_registry(storage_settings: Settings) -> None:
    account = StorageAccount(storage_settings)
    try:
        with pytest.raises(RegistryMissing) as raised:
            await BlobSource(account, "agent-configs", "agent_registry.json").read(None)
    finally:
        await account.close()
    quoted(raised.value.detail)


async def test_no_storage() -> None:
    with pytest.raises(SettingError) as raised:
        await StorageAccount(Settings.model_construct()).table("aosdue")
    quoted(raised.value.detail)


async def test_no_bus() -> None:
    with pytest.raises(SettingError) as raised:
        await Bus(Settings.model_construct()).send([Outbound("agent-events", b"{}", "m")])
    quoted(raised.value.detail)


async def test_no_deployment(emulator: FoundryEmulator) -> None:
    clients = FoundryClients(settings(emulator.endpoint))
    try:
        with pytest.raises(FoundryRefused) as raised:
            await Deployments(clients).require("llama-3.3-70b-ceo")
    finally:
        await clients.close()
    quoted(raised.value.detail)


async def test_no_right_to_sign_in(emulator: FoundryEmulator) -> None:
    async with httpx2.AsyncClient(base_url=emulator.url) as http:
        await http.post("/_emulator/faults", json={"status": 403, "path_contains": "deployments"})
    clients = FoundryClients(settings(emulator.endpoint))
    try:
        with pytest.raises(FoundryUnavailable) as raised:
            await Deployments(clients).check()
    finally:
        await clients.close()
    quoted(raised.value.detail.replace("Injected by /_emulator/faults.", "<what Foundry says>."))


async def test_no_endpoint_of_the_client() -> None:
    with pytest.raises(SettingError) as raised:
        await FoundryAgentServiceClient(FoundryAgentServiceConfig()).initialize()
    quoted(raised.value.detail)


async def test_no_key_of_the_client() -> None:
    endpoint = "https://example.services.ai.azure.com/api/projects/p"
    with pytest.raises(SettingError) as raised:
        await FoundryAgentServiceClient(FoundryAgentServiceConfig(endpoint_url=endpoint)).initialize()
    quoted(raised.value.detail)


async def test_a_slow_answer(emulator: FoundryEmulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    config = FoundryAgentServiceConfig(endpoint_url=emulator.endpoint, api_key="local", timeout=0.5)
    client = FoundryAgentServiceClient(config)
    await client.initialize()
    try:
        with pytest.raises(FoundryUnavailable) as raised:
            await client.ask("hello")
    finally:
        await client.close()
    assert "within 0.5 s" in raised.value.detail
    quoted(raised.value.detail.replace("0.5 s", f"{FoundryAgentServiceConfig().timeout:g} s"))
    # Making the client warned that it names no agent.
    quoted(next(record.getMessage() for record in caplog.records if record.getMessage().startswith("Agent ID")))


async def test_a_slow_model_step() -> None:
    async with running(FoundryEmulator(latency_ms=3000)) as project:
        there = await talk(project)
        with pytest.raises(FoundryUnavailable) as raised:
            await there.say("hello", timeout=0.3)
    quoted(raised.value.detail.replace(there.ref.name, "ceo"))


async def test_a_run_that_failed() -> None:
    async with running(FoundryEmulator(), "threads") as project:
        there = await talk(project)
        fault = {"code": "invalid_prompt", "message": "The model is overloaded."}
        (await project.http.post("/_emulator/model_faults", json=fault)).raise_for_status()
        with pytest.raises(FoundryRefused) as raised:
            await there.say("hello")
    quoted(raised.value.detail)


def test_functions_without_a_queue_service() -> None:
    function = AzureFunction(name="foo", parameters={"type": "object"})
    with pytest.raises(SettingError) as raised:
        function_source(function, None)
    quoted(raised.value.detail)


def test_every_quote_is_made_above() -> None:
    made = [node for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8"))) if _quotes(node)]
    assert len(QUOTES) == len(set(QUOTES)) == len(made)


def _quotes(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "quoted"


def test_host_json_is_explained_as_it_is() -> None:
    (part,) = re.findall(r"^## host.json\n(.*?)^## ", TEXT, re.M | re.S)
    table = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", part, re.M))
    host = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))
    assert host["version"] == "2.0"
    assert host["extensionBundle"]["id"] == "Microsoft.Azure.Functions.ExtensionBundle"
    values = dict(_leaves({key: host[key] for key in ("functionTimeout", "extensions")}))
    values["extensionBundle.version"] = host["extensionBundle"]["version"]
    assert table == values
    # A message whose lock ends while its function runs is delivered twice.
    assert values["extensions.serviceBus.maxAutoLockRenewalDuration"] >= values["functionTimeout"]


def _leaves(tree: dict[str, object], path: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{path}{key}.")
        else:
            found.append((path + key, value if isinstance(value, str) else json.dumps(value)))
    return found


def test_the_sample_is_what_is_verified() -> None:
    blocks = [
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", TEXT, re.M | re.S) if '"status"' in block
    ]
    health, status = blocks
    sample = json.loads((ROOT / "agent_registry.json").read_text(encoding="utf-8"))["agents"]
    assert health["agent_ids"] == sorted(agent["agent_id"] for agent in sample if agent.get("enabled", True))
    assert health["active_agents"] == len(health["agent_ids"])
    assert status["agent_id"] in health["agent_ids"]


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / "docs" / link).is_file(), link
