from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import openai
import pytest
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import SubmitToolOutputsAction, ToolOutput
from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import PromptAgentDefinition
from azure.core.exceptions import HttpResponseError
from openai import AsyncOpenAI

from emulators.azurite import Azurite
from emulators.foundry import FoundryEmulator
from emulators.foundry.__main__ import main
from emulators.foundry.database import StateUnavailable
from tests.emulators.foundry.test_azure_functions import Function

Connect = Callable[[str], AbstractAsyncContextManager[tuple[AIProjectClient, AsyncOpenAI]]]
MODEL = "llama-3.3-70b"
Child = tuple[asyncio.subprocess.Process, str]


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[Child]:
    """The emulator as a process of its own, and the endpoint it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "emulators.foundry", "--port", "0", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        endpoint = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        yield process, endpoint
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path, connect: Connect) -> None:
    db = str(tmp_path / "state.db")
    definition = PromptAgentDefinition(model=MODEL, instructions="You persist.")
    async with child("--db", db, "--latency-ms", "20") as (process, endpoint), connect(endpoint) as (project, runtime):
        await project.agents.create_version("keeper", definition=definition, metadata={"hash": "1"})
        conversation = await runtime.conversations.create(metadata={"who": "me"})
        reference = {"agent_reference": {"type": "agent_reference", "name": "keeper"}}
        acknowledged: list[str] = []
        enough = asyncio.Event()

        async def talk() -> None:
            for number in range(1000):
                made = await runtime.responses.create(
                    conversation=conversation.id, input=f"@say {number}", extra_body=reference
                )
                acknowledged.append(made.id)
                if len(acknowledged) == 5:
                    enough.set()

        talking = asyncio.create_task(talk())
        await asyncio.wait_for(enough.wait(), 60)
        process.kill()
        with pytest.raises(openai.APIConnectionError):
            await talking
    async with child("--db", db) as (_, endpoint), connect(endpoint) as (project, runtime):
        agent = await project.agents.get("keeper")
        assert (agent.versions.latest.version, agent.versions.latest.metadata) == ("1", {"hash": "1"})
        assert (await runtime.conversations.retrieve(conversation.id)).metadata == {"who": "me"}
        for response_id in acknowledged:
            assert (await runtime.responses.retrieve(response_id)).status == "completed"
        items = [item.to_dict() async for item in runtime.conversations.items.list(conversation.id, order="asc")]
        texts = [item["content"][0]["text"] for item in items]  # type: ignore[index]
        told = [text for number in range(len(acknowledged)) for text in (f"@say {number}", str(number))]
        assert texts[: len(told)] == told
        assert len(texts) - len(told) <= 2  # the turn that was running: its input, and perhaps its output
        again = await runtime.responses.create(conversation=conversation.id, input="@say on", extra_body=reference)
        assert again.output_text == "on"
        assert (await project.agents.create_version("keeper", definition=definition)).version == "2"


async def test_a_response_cut_off_by_a_crash_is_failed_and_its_conversation_free(
    tmp_path: Path, connect: Connect
) -> None:
    db = str(tmp_path / "state.db")
    async with child("--db", db, "--latency-ms", "60000") as (process, endpoint), connect(endpoint) as (_, runtime):
        conversation = await runtime.conversations.create()
        running = await runtime.responses.create(
            model=MODEL, conversation=conversation.id, input="@say never", background=True
        )
        process.kill()
        await process.wait()
    async with child("--db", db) as (_, endpoint), connect(endpoint) as (_, runtime):
        interrupted = await runtime.responses.retrieve(running.id)
        assert (interrupted.status, interrupted.output) == ("failed", [])
        assert interrupted.error is not None
        assert interrupted.error.code == "server_error"
        items = [item async for item in runtime.conversations.items.list(conversation.id)]
        assert len(items) == 1
        made = await runtime.responses.create(model=MODEL, conversation=conversation.id, input=[])
        assert made.output_text == "never"


async def test_after_kill_9_a_run_at_work_has_failed_and_one_that_waits_still_waits(
    tmp_path: Path, connect_agents: Callable[[str], AgentsClient], azurite: Azurite
) -> None:
    db, function = str(tmp_path / "state.db"), Function(azurite)
    async with (
        child("--db", db) as (process, endpoint),
        connect_agents(endpoint) as client,
        function.input,
        function.output,
    ):
        agent = await client.create_agent(model=MODEL, name="keeper")
        clerk = await client.create_agent(model=MODEL, name="clerk", tools=function.tool())
        waiting, working = await client.threads.create(), await client.threads.create()
        await client.messages.create(waiting.id, role="user", content="@tool f {}")
        await client.messages.create(working.id, role="user", content='@tool double {"n": 1}')
        run = await client.runs.create(waiting.id, agent_id=agent.id)
        async with asyncio.timeout(30):
            while run.status != "requires_action":
                await asyncio.sleep(0.02)
                run = await client.runs.get(waiting.id, run.id)
        cut = await client.runs.create(working.id, agent_id=clerk.id)
        await function.calls(1)  # it is at work until there is a reply
        process.kill()
        await process.wait()
    async with child("--db", db) as (_, endpoint), connect_agents(endpoint) as client:
        failed = await client.runs.get(working.id, cut.id)
        assert (failed.status, failed.last_error.code) == ("failed", "server_error")
        await client.messages.create(working.id, role="user", content="@say on")
        again = await client.runs.create_and_process(working.id, agent_id=agent.id, polling_interval=0)
        assert again.status == "completed"
        kept = await client.runs.get(waiting.id, run.id)
        assert kept.as_dict() == run.as_dict()
        assert isinstance(kept.required_action, SubmitToolOutputsAction)
        (call,) = kept.required_action.submit_tool_outputs.tool_calls
        outputs = [ToolOutput(tool_call_id=call.id, output="done")]
        submitted = await client.runs.submit_tool_outputs(waiting.id, run.id, tool_outputs=outputs)
        while submitted.status in ("queued", "in_progress"):
            submitted = await client.runs.get(waiting.id, run.id)
        assert submitted.status == "completed"


async def test_the_threads_protocol_can_be_switched_off_and_its_runs_cut_short(
    connect_agents: Callable[[str], AgentsClient],
) -> None:
    async with child("--no-threads") as (_, endpoint), connect_agents(endpoint) as client:
        with pytest.raises(HttpResponseError, match="Disabled"):
            await client.create_agent(model=MODEL)
    async with child("--run-expiry-seconds", "60") as (_, endpoint), connect_agents(endpoint) as client:
        agent = await client.create_agent(model=MODEL)
        run = await client.create_thread_and_run(agent_id=agent.id)
        assert (run.expires_at - run.created_at).total_seconds() in (60, 61)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_life_of_no_time_is_one_clear_line(capsys: pytest.CaptureFixture[str], seconds: str) -> None:
    assert main(["--port", "0", f"--run-expiry-seconds={seconds}"]) == 2
    assert "run expiry" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_ends_it_cleanly(number: signal.Signals) -> None:
    async with child("--latency-ms", "1") as (process, endpoint):
        assert endpoint.startswith("http://127.0.0.1:")
        assert endpoint.endswith("/api/projects/local")
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 60) == 0


def test_a_port_in_use_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert str(port) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [('["a", "a"]', "twice"), ('{"a": 1}', "valid array"), ('[{"name": ""}]', "[0]"), ('["a b"]', "a b")],
)
def test_a_bad_deployments_file_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, problem: str
) -> None:
    file = tmp_path / "deployments.json"
    file.write_text(content)
    assert main(["--port", "0", "--deployments", str(file)]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["no/such/folder/state.db", "garbage.db"])
def test_a_file_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    assert main(["--port", "0", "--db", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert name in error
    assert error.count("\n") == 1


def test_an_unknown_model_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", "--model", "gpt"]) == 2
    assert "offline" in capsys.readouterr().err


async def test_a_file_serves_one_emulator_at_a_time_and_keeps_its_deployments(tmp_path: Path, connect: Connect) -> None:
    db = str(tmp_path / "state.db")
    async with FoundryEmulator(db=db, deployments=["mine"]):
        with pytest.raises(StateUnavailable, match=r"state\.db"):
            await FoundryEmulator(db=db).__aenter__()
    async with FoundryEmulator(db=db) as emulator, connect(emulator.endpoint) as (project, _):
        assert [deployment.name async for deployment in project.deployments.list()] == ["mine"]
