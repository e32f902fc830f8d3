"""The main job on the older generation of the Foundry API, and the way from it to the current one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.harness import ROOT, App, World, world
from tests.e2e.test_faults import accepted, completed
from tests.e2e.test_main_job import QUESTION, revenue


@pytest_asyncio.fixture(scope="module")
async def older(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    state: Path = tmp_path_factory.mktemp("threads")
    async with world(state, {"FOUNDRY_API": "threads", "AOS_DEPLOYMENT_FALLBACK": "true"}) as running:
        yield running


async def migrate(aos: World, *arguments: str) -> tuple[int | None, str]:
    """Exit status and output of `python -m aos foundry migrate`."""
    command = [sys.executable, "-m", "aos", "foundry", "migrate", *arguments]
    environment = {**os.environ, **aos.stack.environment, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_an_answer_rests_on_a_real_tool(older: World) -> None:
    body = await older.app.ask("ceo", QUESTION)
    assert body["status"] == "completed", body
    assert body["model"] == "llama-3.3-70b-ceo"
    assert body["usage"]["total_tokens"] > 0
    (call, *_) = body["tool_calls"]
    assert (call["server"], call["status"]) == ("company-ledger", "succeeded")
    assert f"{revenue(2025, 3):,.2f}" in body["reply"]
    status = (await older.app.http.get("agents/ceo/status")).json()
    assert status["foundry_agent_id"].startswith("ceo:asst_")
    assert "retires on 2027-03-31" in (older.app.folder / "aos.log").read_text()


async def test_an_agent_without_its_deployment_says_what_it_thinks_with(older: World) -> None:
    registry = json.loads((ROOT / "agent_registry.json").read_text())
    entry = json.loads(json.dumps(registry["agents"][0]))
    entry["agent_id"] = "counsel"
    entry["domain_knowledge"]["domain"] = "legal"
    registry["agents"].append(entry)
    await older.put_registry("agent_registry.json", json.dumps(registry).encode())
    await older.app.ready("counsel")
    status = (await older.app.http.get("agents/counsel/status")).json()
    assert (status["deployment"], status["fallback"]) == ("llama-3.3-70b", True)
    health = await older.app.until("health", lambda body: body["checks"]["deployments"]["status"] == "degraded")
    note = "counsel thinks with llama-3.3-70b: there is no deployment llama-3.3-70b-legal"
    assert note in health["checks"]["deployments"]["detail"]
    assert (await older.app.ask("counsel", "@say yes"))["model"] == "llama-3.3-70b"
    other = (await older.app.http.get("agents/ceo/status")).json()
    assert "fallback" not in other


@pytest.mark.slow
async def test_turns_survive_a_kill(older: World) -> None:
    operations = [await accepted(older, QUESTION) for _ in range(5)]
    await older.app.kill()
    await older.app.restart()
    for operation_id in operations:
        body = await completed(older, operation_id, 150)
        assert {call["status"] for call in body["tool_calls"]} == {"succeeded"}


async def test_conversations_go_along_to_the_current_generation(older: World) -> None:
    moved, met = [(await older.app.ask("ceo", "Our code word is marigold."))["conversation_id"] for _ in range(2)]
    assert await older.app.stop() == 0
    status, said = await migrate(older, "ceo", moved)
    assert status == 0, said
    assert f"ceo {moved}: now conv_" in said
    assert await migrate(older, "ceo", moved) == (0, f"ceo {moved}: no thread\n")
    status, said = await migrate(older, "ceo", "nowhere")
    assert status == 2
    assert "no conversation 'nowhere'" in said
    newer = App(older.stack.environment, older.app.folder)
    await newer.start()
    try:
        await newer.ready()
        for conversation in (moved, met):
            body = await newer.ask("ceo", "What is our code word?", conversation_id=conversation)
            assert "marigold" in body["reply"], body
    finally:
        await newer.stop()
        await newer.http.aclose()
    status, said = await migrate(older, "--all")
    assert status == 0, said
    assert "counsel" in said
    assert moved not in said
    assert met not in said
    assert await migrate(older, "--all") == (0, "No conversation is a thread; there is nothing to move.\n")
