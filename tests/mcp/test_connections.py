from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from aos.mcp import connections
from aos.mcp.connections import McpConnection
from aos.mcp.errors import (
    ServerDied,
    ServerNotConfigured,
    ServerRefused,
    ServerReplyInvalid,
    ServerReplyTooLarge,
    ServerUnavailable,
    ToolTimeout,
)
from aos.mcp.transport import LONGEST_LINE
from tests.mcp.conftest import SERVERS, Connect, let_end, server_entry, written

ROOT = Path(connections.__file__).resolve().parents[2]
LEAN_SERVER = ROOT / "benchmarks" / "lean_server.py"
SECRET = "s3cr3t-value"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


async def gone(pid: int, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def pid_of(connection: McpConnection) -> int:
    result = await connection.call_tool("pid", {}, 10)
    return int(result["structuredContent"]["result"])


async def test_tools_have_the_schemas_and_annotations_of_the_server(workshop: McpConnection) -> None:
    tools = {tool.name: tool for tool in (await workshop.tools()).tools}
    assert tools["add"].input_schema["properties"]["a"] == {"minimum": 0, "title": "A", "type": "integer"}
    assert tools["add"].input_schema["required"] == ["a", "b"]
    assert tools["add"].description == "Adds two numbers."
    assert tools["add"].read_only
    assert not tools["append"].repeatable


async def test_all_pages_are_listed(connect: Connect) -> None:
    tools = await connect(server_entry("paged", "paged.py")).tools()
    assert [tool.name for tool in tools.tools] == [
        "first",
        "broken_schema",
        "second",
        "liar",
        "reading_liar",
        "remote_schema",
    ]
    assert tools.tools[0].repeatable


async def test_a_result_is_in_wire_form(workshop: McpConnection) -> None:
    result = await workshop.call_tool("add", {"a": 2, "b": 3}, 10)
    assert result["structuredContent"] == {"result": 5}
    assert result["content"] == [{"type": "text", "text": "5"}]
    assert result["isError"] is False


async def test_a_tool_that_fails_is_a_result(workshop: McpConnection) -> None:
    result = await workshop.call_tool("fail", {"reason": "no such customer"}, 10)
    assert result["isError"] is True
    assert "no such customer" in result["content"][0]["text"]


async def test_a_protocol_error_is_an_error(connect: Connect) -> None:
    paged = connect(server_entry("paged", "paged.py"))
    with pytest.raises(ServerRefused) as caught:
        await paged.call_tool("second", {}, 10)
    assert caught.value.rpc_code < 0
    assert (await paged.call_tool("first", {}, 10))["content"][0]["text"] == "first"


async def test_an_answer_against_the_tools_own_schema(connect: Connect) -> None:
    paged = connect(server_entry("paged", "paged.py"))
    await paged.tools()
    with pytest.raises(ServerReplyInvalid, match="total"):
        await paged.call_tool("liar", {}, 10)
    assert (await paged.call_tool("first", {}, 10))["isError"] is False


@pytest.mark.parametrize(
    ("listing", "error"),
    [
        ("refuses", ServerRefused),
        ("dies", ServerUnavailable),
        ("hangs", ServerUnavailable),
        ("raves", ServerUnavailable),
    ],
)
async def test_a_call_that_fails_because_tools_cannot_be_listed_was_not_made(
    connect: Connect, tmp_path: Path, listing: str, error: type[Exception]
) -> None:
    made = tmp_path / "made"
    connection = connect(server_entry("unlistable", "unlistable.py", str(made), listing))
    await connection.ready()
    with pytest.raises(error):
        await connection.call_tool("write", {}, 0.3 if listing == "hangs" else 10)
    assert not made.exists()


async def test_long_lines_of_standard_error_are_cut_up(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    code = "import sys; sys.stderr.write('x' * 10_000 + '\\nlast words')"
    with caplog.at_level(logging.INFO, "aos.mcp"), pytest.raises(ServerUnavailable):
        await connect(server_entry("chatty", args=("-c", code))).ready()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("chatty: ")]
    assert sum(line.count("x") for line in lines) == 10_000
    assert max(map(len, lines)) <= LONGEST_LINE + len("chatty: ")
    assert lines[-1] == "chatty: last words"


async def test_a_secret_is_masked_wherever_a_long_line_is_cut(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    secret, short = "hush-é-hush", "hush-é"
    # Every few bytes one, so that some lie across each of the cuts.
    code = "import os, sys; sys.stderr.write(('.' * 7 + os.environ['KEY']) * 1500 + '\\nlast words')"
    entry = server_entry("chatty", args=("-c", code), env={"KEY": "${KEY}", "PART": "${PART}"})
    with caplog.at_level(logging.INFO, "aos.mcp"), pytest.raises(ServerUnavailable):
        await connect(entry, {"KEY": secret, "PART": short}).ready()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("chatty: ")]
    assert "".join(line.removeprefix("chatty: ") for line in lines[:-1]) == (7 * "." + "***") * 1500
    assert len(lines) > 3
    assert lines[-1] == "chatty: last words"


async def test_resources(workshop: McpConnection, connect: Connect) -> None:
    (resource,) = await workshop.resources()
    assert (resource["uri"], resource["mimeType"]) == ("workshop://motto", "text/plain")
    (content,) = await workshop.read_resource("workshop://motto")
    assert content["text"] == "measure twice"
    with pytest.raises(ServerRefused):
        await workshop.read_resource("workshop://nothing")
    assert await connect(server_entry("paged", "paged.py")).resources() == []


async def test_after_a_timeout_the_session_is_usable(workshop: McpConnection) -> None:
    await workshop.tools()
    session = workshop.session
    with pytest.raises(ToolTimeout, match=r"0\.2 s"):
        await workshop.call_tool("slow", {"seconds": 30}, 0.2)
    result = await workshop.call_tool("add", {"a": 1, "b": 1}, 10)
    assert result["structuredContent"] == {"result": 2}
    assert workshop.session == session


async def test_a_cancelled_call_leaves_the_session_usable(workshop: McpConnection, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    call = asyncio.create_task(workshop.call_tool("append_until", {"file": str(file), "line": "x"}, 60))
    await written(file)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await workshop.call_tool("add", {"a": 1, "b": 1}, 10))["structuredContent"] == {"result": 2}


async def test_twenty_concurrent_calls(workshop: McpConnection) -> None:
    results = await asyncio.gather(*(workshop.call_tool("add", {"a": n, "b": n}, 10) for n in range(20)))
    assert [result["structuredContent"]["result"] for result in results] == [2 * n for n in range(20)]


async def test_no_more_calls_at_a_time_than_allowed(connect: Connect, tmp_path: Path) -> None:
    connection = connect(server_entry(metadata={"limits": {"concurrent_calls": 1, "waiting_calls": 1}}))
    file = tmp_path / "notes"
    first = asyncio.create_task(connection.call_tool("append_until", {"file": str(file), "line": "x"}, 60))
    await written(file)
    second = asyncio.create_task(connection.call_tool("add", {"a": 1, "b": 1}, 0.2))
    await asyncio.sleep(0)
    with pytest.raises(ServerUnavailable, match="1 calls wait"):
        await connection.call_tool("add", {"a": 1, "b": 1}, 10)
    with pytest.raises(ServerUnavailable, match="no turn"):
        await second
    let_end(file)
    assert (await first)["isError"] is False


async def test_a_large_result_arrives_whole(workshop: McpConnection) -> None:
    result = await workshop.call_tool("huge", {"size": 1_000_000}, 10)
    assert result["content"][0]["text"] == "x" * 1_000_000


async def test_death_during_a_call_and_restart(connect: Connect, tmp_path: Path) -> None:
    connection, file = connect(), tmp_path / "notes"
    slow = asyncio.create_task(connection.call_tool("append_until", {"file": str(file), "line": "x"}, 60))
    await written(file)
    first = await pid_of(connection)
    with pytest.raises(ServerDied):
        await connection.call_tool("crash", {}, 10)
    with pytest.raises(ServerDied):
        await slow
    second = await pid_of(connection)
    assert second != first
    assert (connection.state, connection.restarts, connection.last_error) == ("running", 1, None)


async def test_an_idle_server_that_dies_is_restarted(connect: Connect) -> None:
    connection = connect()
    os.kill(await pid_of(connection), signal.SIGKILL)
    await restarted(connection, 1)
    assert connection.state == "running"


async def restarted(connection: McpConnection, times: int) -> None:
    async with asyncio.timeout(60):
        while connection.restarts < times:  # noqa: ASYNC110 - the connection tells nobody
            await asyncio.sleep(0.02)


async def test_a_server_that_dies_again_and_again_is_given_pauses(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "FIRST_PAUSE", 0.2)
    told: list[tuple[str, float]] = []

    def tell() -> None:
        told.append((connection.state, time.monotonic()))

    lean = server_entry("lean", command=sys.executable, args=("-I", "-S", str(LEAN_SERVER)))
    connection = connect(lean, on_change=tell)
    for times in range(3):
        result = await connection.call_tool("pid", {}, 60)
        os.kill(int(result["content"][0]["text"]), signal.SIGKILL)
        await restarted(connection, times + 1)
    failed = [at for state, at in told if state == "failed"]
    tried = [at for state, at in told if state == "starting"][1:]
    _, second, third = (later - before for before, later in zip(failed, tried, strict=True))
    assert second >= 2 * 0.2 * 0.8
    assert third >= 4 * 0.2 * 0.8
    assert connection.restarts == 3


async def test_a_server_that_exits_at_once(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    connection = connect(server_entry("broken", "broken.py"))
    with caplog.at_level(logging.INFO, "aos.mcp"), pytest.raises(ServerUnavailable, match="broken"):
        await connection.call_tool("add", {}, 10)
    assert connection.state in ("failed", "starting")
    assert connection.last_error
    await connection.close()
    assert "broken: the database is locked" in caplog.text


async def test_a_server_that_never_answers(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "START_SECONDS", 0.5)
    connection = connect(server_entry("mute", "mute.py"))
    with pytest.raises(ServerUnavailable, match=r"did not start within 0\.5 s"):
        await connection.ready(60)


async def test_a_far_away_attempt_is_not_waited_for(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FIRST_PAUSE", 40.0)
    connection = connect(server_entry("broken", "broken.py"))
    for _ in range(2):
        with pytest.raises(ServerUnavailable) as caught:
            await connection.ready()
    assert caught.value.retry_after is not None
    assert 10 < caught.value.retry_after <= 48


async def test_a_missing_program(connect: Connect) -> None:
    connection = connect(server_entry("crm", command="no-such-program"))
    with pytest.raises(ServerNotConfigured, match="'no-such-program' is not on this host"):
        await connection.ready()
    assert connection.state == "not_configured"


async def test_a_transport_that_is_not_offered(connect: Connect) -> None:
    connection = connect(server_entry("crm", server_type="websocket", url="ws://127.0.0.1:9/mcp"))
    with pytest.raises(ServerNotConfigured, match="use streamable_http"):
        await connection.ready()


async def test_garbage_on_standard_output_does_no_harm(connect: Connect) -> None:
    connection = connect(server_entry("noisy", "workshop.py", "--garbage"))
    assert (await connection.call_tool("add", {"a": 1, "b": 1}, 10))["structuredContent"] == {"result": 2}


async def test_an_answer_of_no_use_is_not_waited_for(connect: Connect) -> None:
    connection = connect(server_entry(script="half.py", metadata={"limits": {"message_bytes": 65536}}))
    with pytest.raises(ServerReplyInvalid, match="something that is not MCP"):
        await connection.call_tool("half", {}, 20)
    with pytest.raises(ServerReplyTooLarge):
        await connection.call_tool("much", {}, 20)
    assert (await connection.call_tool("whole", {}, 20))["content"] == [{"type": "text", "text": "cut"}]
    assert connection.session == 1


async def test_a_child_sees_its_entry_and_little_else(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOS_ADMIN_KEY", "x")
    monkeypatch.setenv("SOMETHING", "x")
    connection = connect(server_entry(env={"REGION": "north"}))
    result = await connection.call_tool("environment", {}, 10)
    names = set(result["structuredContent"]["result"])
    assert names <= {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "PYTHONPATH", "REGION", "LC_CTYPE"}
    assert {"PATH", "PYTHONPATH", "REGION"} <= names


async def test_a_python_server_finds_our_modules(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect(server_entry(env={"PYTHONPATH": "/somewhere"}))
    result = await connection.call_tool("variable", {"name": "PYTHONPATH"}, 10)
    first, *rest = result["structuredContent"]["result"].split(os.pathsep)
    assert first == "/somewhere"
    assert str(ROOT) in rest


async def test_secrets_reach_the_server_and_nobody_else(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    connection = connect(server_entry(env={"TOKEN": "Bearer ${CRM_KEY}"}), {"CRM_KEY": SECRET})
    with caplog.at_level(logging.DEBUG):
        result = await connection.call_tool("variable", {"name": "TOKEN"}, 10)
        await connection.close()
    assert result["structuredContent"]["result"] == f"Bearer {SECRET}"
    assert "workshop: the value is Bearer ***" in caplog.text
    assert SECRET not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("aos"))


async def test_a_missing_secret_is_named(connect: Connect) -> None:
    connection = connect(server_entry(env={"TOKEN": "${CRM_KEY}", "OTHER": "${SET}"}), {"SET": SECRET})
    with pytest.raises(ServerNotConfigured, match=r"env of MCP server workshop.*\$\{CRM_KEY\}") as caught:
        await connection.call_tool("add", {"a": 1, "b": 1}, 10)
    assert SECRET not in caught.value.detail
    assert connection.state == "not_configured"


async def test_close_leaves_no_child(connect: Connect) -> None:
    connection = connect()
    pid = await pid_of(connection)
    assert alive(pid)
    await connection.close()
    assert not alive(pid)
    assert connection.state == "stopped"
    with pytest.raises(ServerUnavailable, match="being stopped"):
        await connection.ready()


async def test_close_ends_calls_in_flight(connect: Connect, tmp_path: Path) -> None:
    connection, file = connect(), tmp_path / "notes"
    call = asyncio.create_task(connection.call_tool("append_until", {"file": str(file), "line": "x"}, 60))
    await written(file)
    await connection.close()
    with pytest.raises(ServerDied):
        await call


async def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SERVERS / "parent.py"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 60))
    assert alive(pid)
    parent.kill()
    await parent.wait()
    assert await gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel kills the children of a dead process on Linux only")
async def test_a_killed_parent_leaves_no_child_that_hangs(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SERVERS / "parent.py")), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 60))
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    await parent.wait()
    assert await gone(pid)


async def test_what_a_server_started_ends_with_it(connect: Connect) -> None:
    connection = connect()
    result = await connection.call_tool("start_child", {}, 10)
    child = int(result["structuredContent"]["result"])
    assert alive(child)
    await connection.close()
    assert await gone(child)


async def test_a_server_of_somebody_else(connect: Connect) -> None:
    """`mcp-server-time`, a package of the protocol's own project."""
    connection = connect(server_entry("time", args=("-m", "mcp_server_time", "--local-timezone", "UTC")))
    tools = {tool.name: tool for tool in (await connection.tools()).tools}
    assert {"get_current_time", "convert_time"} <= tools.keys()
    arguments = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "UTC"}
    result = await connection.call_tool("convert_time", arguments, 10)
    assert result["isError"] is False
    assert "12:00:00+0" in result["content"][0]["text"]
    wrong = await connection.call_tool("get_current_time", {"timezone": "Nowhere/At_All"}, 10)
    assert wrong["isError"] is True
