"""The examples of the documentation, run as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys

import httpx2
import pytest

from aos.messaging.envelopes import ServerCommand
from runtime import AsgiRuntime, Keys, RouteRegistry, RuntimeConfig
from tests.e2e.harness import REPLIES, ROOT, World


def examples(file: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(), flags=re.MULTILINE | re.DOTALL)


async def test_the_readme_sends_an_event_and_prints_the_answer(aos: World) -> None:
    (code,) = examples("README.md", "python")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        env={**os.environ, **aos.stack.environment},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert b"revenue" in output


async def test_the_readme_asks_what_make_run_prints(aos: World) -> None:
    command = next(block for block in examples("README.md", "sh") if block.startswith("curl"))
    body = json.loads(re.search(r"-d '(.*)'", command)[1])  # type: ignore[index]  # a failing test if there is none
    answer = await aos.app.ask("ceo", body["message"])
    shown = json.loads(examples("README.md", "json")[0])
    assert answer.keys() == shown.keys()
    assert answer["tool_calls"][0].keys() == shown["tool_calls"][0].keys()
    assert answer["usage"] == shown["usage"]
    assert answer["reply"].startswith(shown["reply"].removesuffix("..."))


async def test_the_readme_listens_to_an_answer_with_curl(aos: World) -> None:
    command = next(block for block in examples("README.md", "sh") if block.startswith("curl -N"))
    arguments = shlex.split(command.replace("127.0.0.1:7071", f"127.0.0.1:{aos.app.port}").replace("\\\n", " "))
    process = await asyncio.create_subprocess_exec(*arguments, "-sS", stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    told = re.findall(rb"^event: (.*)$", output, flags=re.MULTILINE)
    assert (told[0], told[-1]) == (b"operation", b"completed")
    assert {b"tool_call", b"tool_result", b"delta"} <= set(told)
    assert b"revenue" in output


async def test_the_readme_shows_a_registry_that_works(aos: World) -> None:
    from aos.registry.agents import parse_agents

    registry = parse_agents(examples("README.md", "json")[1].encode())
    assert (registry.problems, registry.warnings) == ((), ())
    assert list(registry.entries) == ["ceo"]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_contributing_adds_a_route() -> None:
    (code,) = examples("CONTRIBUTING.md", "python")
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)  # noqa: S102 - the point of the test
    registry = names["registry"]
    assert isinstance(registry, RouteRegistry)
    runtime = AsgiRuntime(RuntimeConfig(app_name="docs"), registry, keys=Keys(function="k"), settings={})
    transport = httpx2.ASGITransport(runtime.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get("/api/hello/Ada", headers={"x-functions-key": "k"})
    assert answer.json() == {"message": "Hello, Ada!"}


async def test_the_status_of_an_agent_is_as_documented(aos: World) -> None:
    shown = json.loads(examples("docs/runtimes.md", "json")[2])
    told = (await aos.app.http.get("agents/ceo/status")).json()
    assert {key: told[key] for key in shown} == shown


async def test_the_registries_of_the_mcp_page_fit_together() -> None:
    from aos.registry.agents import parse_agents
    from aos.registry.mcp_servers import parse_servers
    from aos.registry.tools import check_tools

    servers, agents, *_ = examples("docs/mcp.md", "json")
    registry = parse_servers(servers.encode())
    assert (registry.problems, registry.warnings) == ((), ())
    checked = check_tools(parse_agents(agents.encode()), registry)
    assert (checked.problems, checked.warnings) == ((), ())
    assert list(checked.entries) == ["sales"]


async def test_the_mcp_page_shows_the_status_of_a_server(aos: World) -> None:
    shown = json.loads(examples("docs/mcp.md", "json")[2])
    told = await aos.app.until("mcp/servers/company-ledger/status", lambda body: body["status"] == "running")
    assert {key: told[key] for key in shown} == shown
    assert {"since", "heartbeat_at", "owner", "restarts", "tools"} <= told.keys()


async def test_the_mcp_page_shows_bodies_that_are_understood(aos: World) -> None:
    _, _, _, command, request = examples("docs/mcp.md", "json")
    await aos.client.send("mcp-requests", json.loads(request), message_id="documented", reply_to=REPLIES)
    answer = await aos.client.receive()
    assert answer.correlation_id == "documented"
    body = json.loads(str(answer))
    assert (body["request_id"], body["server_id"]) == ("booking-2025-0117", "company-ledger")
    assert body["response"]["result"]["isError"] is False
    assert ServerCommand.model_validate_json(command).command == "restart"


async def test_the_mcp_page_calls_a_tool_without_aos_and_lists_definitions(aos: World) -> None:
    commands, call = examples("docs/mcp.md", "sh")
    assert [shlex.split(line)[1:4] for line in commands.splitlines()] == [["-m", "aos", "tools"]] * 3
    # The listing in the status of the test before: the tools are known by now.
    for command in (call, commands.splitlines()[0]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *shlex.split(command)[1:]),
            env={**os.environ, **aos.stack.environment, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert b"revenue" in output or b"record_transaction" in output
