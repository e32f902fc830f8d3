"""One trace over processes: from the message that comes in over the model, the bus and the tool to the reply."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.harness import PATIENCE, App, World, world

TRACE_ID, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER}-01"
CHAT = "chat llama-3.3-70b-ceo"
SECRET = "the merger closes on Friday"

Spans = list[dict[str, Any]]


@pytest_asyncio.fixture(scope="module")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, App]]:
    """A process for the agents and one for the MCP servers; both print their spans."""
    state: Path = tmp_path_factory.mktemp("telemetry")
    more = {
        "AOS_TELEMETRY": "console",
        "AOS_LOG_FORMAT": "json",
        "AOS_LEASE_SECONDS": "2",
        "AOS_SWEEP_SECONDS": "1",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }
    async with world(state, {**more, "AOS_ROLES": "agents"}, ready=False, bus_locks="PT5S") as running:
        servers = App({**running.stack.environment, **more, "AOS_ROLES": "mcp"}, running.app.folder, "servers")
        try:
            await servers.start()
            await running.app.ready()
            yield running, servers
        finally:
            await servers.stop()
            await servers.http.aclose()


def printed(*apps: App) -> list[dict[str, Any]]:
    """All JSON objects that the processes have printed; a line that is not all there yet is left out."""
    lines = [line for app in apps for line in log_of(app).rpartition(b"\n")[0].decode().splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def log_of(app: App) -> bytes:
    """What an app has printed: the log that grew too long, and the one after it."""
    log = app.folder / f"{app.name}.log"
    return b"".join(part.read_bytes() for part in (log.with_name(f"{log.name}.1"), log) if part.exists())


def spans_of(trace_id: str, *apps: App) -> Spans:
    """The spans of a trace, with plain ids."""
    spans = [line for line in printed(*apps) if line.get("context", {}).get("trace_id") == f"0x{trace_id}"]
    for span in spans:
        span["id"] = span["context"]["span_id"].removeprefix("0x")
        span["parent"] = (span["parent_id"] or "").removeprefix("0x")
    return spans


async def written(trace_id: str, names: Sequence[str], *apps: App) -> Spans:
    """The spans of a trace once those of these names are there: some end after the answer is out."""
    spans: Spans = []
    missing = Counter(names)
    try:
        async with asyncio.timeout(PATIENCE):
            while missing:
                await asyncio.sleep(0.02)
                spans = spans_of(trace_id, *apps)
                missing = Counter(names) - Counter(span["name"] for span in spans)
    except TimeoutError:
        raise AssertionError(f"not written: {missing}; there are {[span['name'] for span in spans]}") from None
    return spans


def one(spans: Spans, name: str, **attributes: object) -> dict[str, Any]:
    found = [
        span
        for span in spans
        if span["name"] == name and all(span["attributes"].get(key) == value for key, value in attributes.items())
    ]
    assert len(found) == 1, (name, attributes, [span["name"] for span in spans])
    return found[0]


async def question(aos: World) -> str:
    """A message that has the model call a tool once, and then say something that is nobody's business."""
    tools = (await aos.app.http.get("agents/ceo/status")).json()["tools"]
    name = next(name for name in tools if name.endswith("get_kpis"))
    return f'@tool {name} {{"year": 2025}}\n@say {SECRET}'


async def test_one_trace_from_a_request_over_both_roles_to_its_answer(hosts: tuple[World, App]) -> None:
    aos, servers = hosts
    response = await aos.app.http.post(
        "agents/ceo", json={"message": await question(aos)}, headers={"traceparent": TRACEPARENT}
    )
    body = response.json()
    assert body["status"] == "completed", body
    names = [
        *("POST agents/{agent_id}", "invoke_agent ceo", CHAT, CHAT),
        *("send mcp-requests", "process mcp-requests/mcp-servers", "execute_tool get_kpis"),
        *("send mcp-responses", "process mcp-responses/realm-agents"),
    ]
    spans = await written(TRACE_ID, names, aos.app, servers)

    request = one(spans, "POST agents/{agent_id}")
    assert (request["parent"], request["kind"]) == (CALLER, "SpanKind.SERVER")
    assert response.headers["traceresponse"].split("-")[1:3] == [TRACE_ID, request["id"]]
    turn = one(spans, "invoke_agent ceo")
    assert turn["parent"] == request["id"]
    assert turn["attributes"]["gen_ai.conversation.id"] == body["conversation_id"]
    assert turn["attributes"]["gen_ai.usage.output_tokens"] == body["usage"]["output_tokens"]
    steps = sorted((s for s in spans if s["name"].startswith("chat ")), key=lambda s: s["attributes"]["aos.step"])
    assert [step["parent"] for step in steps] == [turn["id"]] * 2
    assert [step["attributes"]["gen_ai.response.finish_reasons"] for step in steps] == [["tool_calls"], ["stop"]]
    assert {step["attributes"]["gen_ai.request.model"] for step in steps} == {"llama-3.3-70b-ceo"}
    assert sum(step["attributes"]["gen_ai.usage.input_tokens"] for step in steps) == body["usage"]["input_tokens"]

    asked = one(spans, "send mcp-requests")
    received = one(spans, "process mcp-requests/mcp-servers")
    executed = one(spans, "execute_tool get_kpis")
    answered = one(spans, "send mcp-responses")
    returned = one(spans, "process mcp-responses/realm-agents")
    chain = [turn, asked, received, executed]
    assert [span["parent"] for span in chain[1:]] == [span["id"] for span in chain[:-1]]
    assert (answered["parent"], returned["parent"]) == (received["id"], answered["id"])
    assert executed["attributes"]["gen_ai.tool.call.id"] == body["tool_calls"][0]["id"]
    assert executed["attributes"]["aos.outcome"] == "succeeded"
    # The tool ran in the other process.
    assert executed["id"] in {span["id"] for span in spans_of(TRACE_ID, servers)}
    assert turn["id"] in {span["id"] for span in spans_of(TRACE_ID, aos.app)}


async def test_one_trace_from_an_event_to_the_reply(hosts: tuple[World, App]) -> None:
    aos, servers = hosts
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    event = {"agent_id": "coo", "event_type": "ask", "payload": {"message": "@say done"}, "conversation_id": "traced"}
    await aos.client.send(
        "agent-events",
        event,
        message_id="traced-1",
        reply_to="businessinfinity-responses",
        application_properties={"traceparent": f"00-{trace_id}-{CALLER}-01"},
    )
    reply = await aos.client.receive()
    names = ["process agent-events/realm-agents", "invoke_agent coo", "send businessinfinity-responses"]
    spans = await written(trace_id, names, aos.app, servers)
    came = one(spans, "process agent-events/realm-agents")
    turn = one(spans, "invoke_agent coo")
    left = one(spans, "send businessinfinity-responses")
    assert [came["parent"], turn["parent"], left["parent"]] == [CALLER, came["id"], turn["id"]]
    properties = reply.application_properties or {}
    assert properties[b"traceparent"] == f"00-{trace_id}-{left['id']}-01".encode()


async def test_a_turn_that_another_process_ends_stays_in_its_trace(hosts: tuple[World, App]) -> None:
    aos, servers = hosts
    trace_id = "6e0c63257de34c92bf9efcd03927272e"
    message = await question(aos)
    # Delivered again, the event of the test before would be answered once more.
    await aos.client.handled("agent-events", "realm-agents")
    await aos.app.kill()
    await aos.app.restart({"AOS_FAULT_POINT": "result-stored"})
    await aos.app.ready()
    event = {"agent_id": "ceo", "event_type": "ask", "payload": {"message": message}, "conversation_id": "killed"}
    await aos.client.send(
        "agent-events",
        event,
        message_id="traced-2",
        reply_to="businessinfinity-responses",
        application_properties={"traceparent": f"00-{trace_id}-{CALLER}-01"},
    )
    await aos.app.child.wait()
    before = {span["id"] for span in spans_of(trace_id, aos.app)}
    await aos.app.restart()
    await aos.client.receive()
    spans = await written(trace_id, ["invoke_agent ceo", CHAT, CHAT], aos.app, servers)
    turn = one(spans, "invoke_agent ceo")
    assert turn["id"] not in before
    first, last = (one(spans, CHAT, **{"aos.step": step}) for step in (1, 2))
    assert first["id"] in before
    assert last["id"] not in before
    assert first["parent"] == last["parent"] == turn["id"]


async def test_content_is_nowhere_and_logs_know_their_operation(hosts: tuple[World, App]) -> None:
    aos, servers = hosts
    for app in (aos.app, servers):
        assert SECRET.encode() not in log_of(app)
    refused = {"agent_id": "nobody", "event_type": "ask", "payload": {"message": "hello"}}
    await aos.client.send(
        "agent-events",
        refused,
        message_id="lost",
        application_properties={"traceparent": "00-7bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"},
    )
    # First it may be put off: an agent that is not known may stand in a registry that has not been read again yet.
    await aos.client.receive("aos-poison")
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE):
        while not lines:
            await asyncio.sleep(0.02)
            lines = [
                line for line in printed(aos.app) if "message lost of agent-events refused" in line.get("message", "")
            ]
    assert lines[0]["trace_id"] == "7bf92f3577b34da6a3ce929d0e0e4736"
    assert lines[0]["level"] == "WARNING"


async def test_metrics_are_written_also_when_the_process_ends(hosts: tuple[World, App]) -> None:
    aos, servers = hosts
    await aos.app.ask("cfo", "@say yes")
    await aos.app.stop()
    await servers.stop()
    points: dict[tuple[str, ...], float] = {}
    for line in printed(aos.app, servers):
        for resource in line.get("resource_metrics", ()):
            for metric in (metric for scope in resource["scope_metrics"] for metric in scope["metrics"]):
                for point in metric["data"]["data_points"]:
                    # They count from the start of the process: the last line of each tells it all.
                    key = (metric["name"], json.dumps(point["attributes"]), str(point["start_time_unix_nano"]))
                    points[key] = point.get("count", point.get("value"))
    values = {name: sum(value for key, value in points.items() if key[0] == name) for name, _, _ in points}
    names = {
        *("aos.turns", "aos.turn.duration", "aos.turn.queue_delay", "aos.bus.delivery_delay", "aos.circuit.state"),
        *("gen_ai.client.operation.duration", "gen_ai.client.token.usage", "aos.tool.calls", "aos.tool.duration"),
        *("aos.backlog", "aos.messages.parked"),
    }
    assert names <= set(values)
    assert values["aos.tool.calls"] == 2
    assert values["aos.messages.parked"] == 1
