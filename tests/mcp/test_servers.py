from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aos.errors import StorageUnavailable, TransientError, UnknownEntity
from aos.mcp import calls, servers
from aos.mcp.catalogue import ToolCatalogue
from aos.mcp.ledger import LEASE, CallKey, Claimed, Expired, Ledger, MemoryLedger, Running, Standing, TableLedger
from aos.mcp.secrets import EnvironmentSecrets
from aos.mcp.servers import McpServers
from aos.mcp.status import ServerStatus, ServerStatusBoard
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import (
    MCP_COMMANDS,
    MCP_REQUESTS,
    MCP_RESPONSES,
    POISON,
    ServerCommand,
    ToolRequest,
    ToolResponseBody,
)
from aos.messaging.incoming import Incoming
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import ServerRegistry, parse_servers
from aos.registry.source import FileSource
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads
from tests.mcp.conftest import SERVERS, ShiftedClock, let_end, written


@dataclass
class Side:
    """An MCP side, its registry, and what it sent."""

    servers: McpServers
    clock: ShiftedClock
    registry: Path
    board: ServerStatusBoard
    ledger: Ledger
    claim_check: ClaimCheck
    server_id: str
    sent: list[Outbound] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)

    async def send(self, messages: Sequence[Outbound]) -> None:
        for message in messages:
            if message.entity in self.missing:
                raise UnknownEntity(f"no {message.entity}")
        self.sent += messages

    def register(self, **entries: dict[str, Any]) -> None:
        """Writes the registry; an entry by the name of its server, with what differs from the workshop."""
        documents = [entry(f"{self.server_id}-{name}" if name else self.server_id, **e) for name, e in entries.items()]
        self.registry.write_text(json.dumps({"version": "1.0", "servers": documents}))
        self.clock.shift += 20

    def request(self, tool: str, params: dict[str, Any] | None = None, server: str | None = None) -> ToolRequest:
        return ToolRequest(
            request_id=f"op_{uuid.uuid4().hex}.0.0",
            server_id=server or self.server_id,
            method="call_tool",
            params={"tool_name": tool, "tool_params": params or {}},
        )

    async def ask(self, request: ToolRequest, **fields: Any) -> ToolResponseBody:
        """Handles a request; the answer must be the only message."""
        await self.servers.handle(request, **fields)
        (message,) = self.sent
        self.sent.clear()
        return await self.read(message)

    async def read(self, message: Outbound) -> ToolResponseBody:
        response = json.loads(await self.claim_check.unpack(message.body))
        return ToolResponseBody.model_validate(response["response"])

    async def call(self, tool: str, params: dict[str, Any] | None = None, **fields: Any) -> ToolResponseBody:
        return await self.ask(self.request(tool, params), **fields)

    async def status(self, condition: Callable[[ServerStatus], bool], server_id: str | None = None) -> ServerStatus:
        """The server's row, once it is as wished."""
        async with asyncio.timeout(60):
            while True:
                for found in await self.board.all():
                    if found.server_id == (server_id or self.server_id) and condition(found):
                        return found
                await asyncio.sleep(0.05)


def entry(server_id: str, script: str = "workshop.py", **changes: Any) -> dict[str, Any]:
    return {
        "server_id": server_id,
        "server_name": f"The {server_id}",
        "server_type": "stdio",
        "command": "python",
        "args": [str(SERVERS / script)],
        "auto_start": False,
        **changes,
    }


MakeSide = Callable[..., Side]


@pytest.fixture
async def make_side(account: StorageAccount, payloads: Payloads, tmp_path: Path) -> AsyncIterator[MakeSide]:
    made: list[Side] = []

    def make(like: Side | None = None, ledger: Ledger | None = None, packs: bool = True, **changes: Any) -> Side:
        clock = like.clock if like else ShiftedClock()
        path = like.registry if like else tmp_path / f"{uuid.uuid4().hex}.json"
        board = ServerStatusBoard(account, clock)
        ledger = ledger or (like.ledger if like else MemoryLedger(clock))
        claim_check = ClaimCheck(payloads if packs else None)

        async def send(messages: Sequence[Outbound]) -> None:
            await new.send(messages)

        mcp = McpServers(
            registry=LiveRegistry[ServerRegistry](FileSource(path), parse_servers, clock),
            ledger=ledger,
            catalogue=ToolCatalogue(account, payloads, clock),
            board=board,
            send=send,
            claim_check=claim_check,
            secrets=EnvironmentSecrets({}),
            clock=clock,
            private_networks=True,
        )
        server_id = like.server_id if like else f"w{uuid.uuid4().hex[:8]}"
        new = Side(mcp, clock, path, board, ledger, claim_check, server_id)
        if like is None:
            new.register(**{"": changes})
        made.append(new)
        return new

    yield make
    for each in made:
        await each.servers.close(0)


@pytest.fixture
async def side(make_side: MakeSide) -> Side:
    return make_side()


def text(body: ToolResponseBody) -> str:
    assert body.result is not None, body.error
    return str(body.result["content"][0]["text"])


def code(body: ToolResponseBody) -> str:
    assert body.error is not None, body.result
    return body.error.code


# --- methods


async def test_a_call_is_answered_on_mcp_responses(side: Side) -> None:
    request = side.request("add", {"a": 2, "b": 3})
    await side.servers.handle(request, message_id="m1", correlation_id="c1")
    (message,) = side.sent
    assert message.entity == MCP_RESPONSES
    assert message.message_id == f"{request.request_id}.response"
    assert message.correlation_id == request.request_id
    body = json.loads(message.body)
    assert (body["request_id"], body["server_id"]) == (request.request_id, side.server_id)
    assert set(body["response"]) == {"result"}
    assert body["response"]["result"]["structuredContent"] == {"result": 5}


@pytest.mark.parametrize(
    ("fields", "correlation"),
    [
        ({"message_id": "m1", "correlation_id": "c1"}, "c1"),
        ({"message_id": "m1"}, "m1"),
        ({}, None),
    ],
)
async def test_with_a_reply_address_the_answer_goes_only_there(
    side: Side, fields: dict[str, str], correlation: str | None
) -> None:
    request = side.request("add", {"a": 2, "b": 3})
    await side.servers.handle(request, reply_to="my-answers", reply_to_session_id="s1", **fields)
    (message,) = side.sent
    assert (message.entity, message.session_id) == ("my-answers", "s1")
    assert message.correlation_id == (correlation or request.request_id)


async def test_a_reply_address_of_our_own_is_refused(side: Side, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    await side.servers.handle(side.request("append", {"file": str(file), "line": "x"}), reply_to="MCP-Requests")
    (message,) = side.sent
    assert message.entity == MCP_RESPONSES
    assert code(await side.read(message)) == "invalid_params"
    assert not file.exists()


async def test_an_answer_without_a_place_is_parked(side: Side) -> None:
    side.missing.add("gone")
    await side.servers.handle(side.request("add", {"a": 2, "b": 3}), reply_to="gone")
    (message,) = side.sent
    assert message.entity == POISON
    assert message.properties["DeadLetterReason"] == "ReplyUndeliverable"
    assert (await side.read(message)).result is not None


async def test_listing_tools_fills_the_catalogue(side: Side, account: StorageAccount, payloads: Payloads) -> None:
    request = ToolRequest(request_id="r1", server_id=f"The {side.server_id}", method="list_tools")
    body = await side.ask(request)
    assert body.tools is not None
    tools = {tool["name"]: tool for tool in body.tools}
    assert tools["add"]["inputSchema"]["required"] == ["a", "b"]
    assert tools["add"]["annotations"] == {"readOnlyHint": True, "idempotentHint": False}
    listed = await ToolCatalogue(account, payloads).get(side.server_id)
    assert listed is not None
    assert {tool.name for tool in listed.tools} == set(tools)


async def test_resources(side: Side) -> None:
    body = await side.ask(ToolRequest(request_id="r1", server_id=side.server_id, method="list_resources"))
    assert [resource["uri"] for resource in body.resources or ()] == ["workshop://motto"]
    read = ToolRequest(
        request_id="r2", server_id=side.server_id, method="read_resource", params={"uri": "workshop://motto"}
    )
    body = await side.ask(read)
    assert [content["text"] for content in body.content or ()] == ["measure twice"]
    assert code(await side.ask(read.model_copy(update={"params": {}}))) == "invalid_params"
    missing = read.model_copy(update={"params": {"uri": "workshop://nothing"}})
    assert (await side.ask(missing)).error is not None


async def test_a_tool_that_fails_is_a_result(side: Side) -> None:
    body = await side.call("fail", {"reason": "no such customer"})
    assert "no such customer" in text(body)
    assert body.result is not None
    assert body.result["isError"] is True


async def test_a_large_result_goes_by_reference(side: Side) -> None:
    request = side.request("huge", {"size": 1_000_000})
    await side.servers.handle(request)
    (message,) = side.sent
    assert len(message.body) < 4096
    assert text(await side.read(message)) == "x" * 1_000_000


# --- what is refused


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"tool_name": "add", "tool_params": {"a": -1, "b": 2}}, "/tool_params/a"),
        ({"tool_name": "add", "tool_params": {"a": 1}}, "/tool_params: "),
        ({"tool_params": {}}, "/tool_name"),
    ],
)
async def test_arguments_are_compared_with_the_real_schema(side: Side, params: dict[str, Any], pointer: str) -> None:
    body = await side.ask(side.request("add").model_copy(update={"params": params}))
    assert code(body) == "invalid_params"
    assert body.error is not None
    assert pointer in body.error.message
    assert not body.error.retryable


async def test_unknown_names(side: Side) -> None:
    body = await side.call("subtract")
    assert code(body) == "unknown_tool"
    assert body.error is not None
    assert "append" in body.error.message
    body = await side.ask(side.request("add", server="nobody"))
    assert code(body) == "unknown_server"
    assert body.error is not None
    assert side.server_id in body.error.message


@pytest.mark.parametrize("tool", ["broken_schema", "remote_schema"])
async def test_a_schema_that_cannot_be_used(make_side: MakeSide, tool: str) -> None:
    side = make_side(script="paged.py")
    assert code(await side.call(tool, {"n": 1})) == "not_configured"
    assert text(await side.call("first")) == "first"


async def test_an_exception_in_a_tool_is_told_to_the_model(make_side: MakeSide) -> None:
    body = await make_side(script="paged.py").call("second")
    assert body.result is not None
    assert body.result["isError"] is True


async def test_an_invalid_answer_of_a_write_is_an_unknown_outcome(make_side: MakeSide) -> None:
    side = make_side(script="paged.py")
    request = side.request("liar")
    body = await side.ask(request)
    assert code(body) == "outcome_unknown"
    assert await side.ask(request) == body
    assert code(await side.call("reading_liar")) == "unavailable"


async def test_without_storage_a_large_answer_is_refused(make_side: MakeSide) -> None:
    side = make_side(packs=False)
    assert code(await side.call("huge", {"size": 300_000})) == "too_large"


async def test_a_missing_secret_is_named(make_side: MakeSide) -> None:
    body = await make_side(env={"KEY": "${CRM_KEY}"}).call("add", {"a": 1, "b": 1})
    assert code(body) == "not_configured"
    assert body.error is not None
    assert "${CRM_KEY}" in body.error.message


async def test_a_server_that_cannot_start(make_side: MakeSide) -> None:
    side = make_side(script="broken.py", max_retries=1)
    body = await side.call("add", {"a": 1, "b": 1})
    assert code(body) == "unavailable"
    assert body.error is not None
    assert body.error.retryable


async def test_a_disabled_server(make_side: MakeSide) -> None:
    body = await make_side(enabled=False).call("add", {"a": 1, "b": 1})
    assert code(body) == "unavailable"
    assert body.error is not None
    assert "disabled" in body.error.message


# --- time-outs and deaths


async def test_a_read_that_takes_too_long_is_tried_again_and_given_up(make_side: MakeSide) -> None:
    side = make_side(timeout_seconds=0.3, max_retries=1)
    request = side.request("slow", {"seconds": 30})
    body = await side.ask(request)
    assert code(body) == "timeout"
    assert body.error is not None
    assert body.error.retryable
    # Nothing was recorded: the same request may come again.
    assert code(await side.ask(request)) == "timeout"
    async with asyncio.timeout(60):
        # The limit is of all its tools, and short for a machine that has much to do.
        while (body := await side.call("add", {"a": 1, "b": 1})).error is not None:
            assert body.error.retryable
            await asyncio.sleep(0.1)
    assert text(body) == "2"


async def test_a_write_that_takes_too_long_is_not_tried_again(make_side: MakeSide, tmp_path: Path) -> None:
    side = make_side(timeout_seconds=0.5)
    for number in range(4):
        file = tmp_path / f"notes {number}"
        request = side.request("append_slowly", {"file": str(file), "line": "x", "seconds": 30})
        body = await side.ask(request)
        assert code(body) == "timeout"
        assert body.error is not None
        assert not body.error.retryable
        assert await side.ask(request) == body
        if file.exists():  # else the tool had not begun in that time
            break
    assert file.read_text() == "x\n"


async def test_death_during_a_write_is_an_unknown_outcome(side: Side) -> None:
    request = side.request("crash")
    body = await side.ask(request)
    assert code(body) == "outcome_unknown"
    assert await side.ask(request) == body
    assert text(await side.call("add", {"a": 1, "b": 1})) == "2"


async def test_death_during_a_read_is_tried_again(side: Side, tmp_path: Path) -> None:
    body = await side.call("crash_once", {"file": str(tmp_path / "crashed")})
    assert text(body) == "survived"


# --- the ledger


@pytest.fixture(params=["memory", "table"])
def ledger(request: pytest.FixtureRequest, account: StorageAccount, payloads: Payloads) -> Callable[[Side], Ledger]:
    if request.param == "memory":
        return lambda side: side.ledger
    return lambda side: TableLedger(account, payloads, side.clock)


async def redelivered(side: Side) -> list[Outbound]:
    """Plays the bus: hands back what was put off, as if its time had come, until only answers are left."""
    while put_off := [message for message in side.sent if message.entity == MCP_COMMANDS]:
        side.sent = [message for message in side.sent if message.entity != MCP_COMMANDS]
        for message in put_off:
            assert 0 < message.delay <= LEASE
            await asyncio.sleep(0.1)
            await side.servers.receive(Incoming(MCP_COMMANDS, message.body, message.message_id))
    return side.sent


async def test_a_write_that_is_delivered_often_happens_once(
    make_side: MakeSide, ledger: Callable[[Side], Ledger], tmp_path: Path
) -> None:
    first = make_side()
    first = make_side(first, ledger(first))
    second = make_side(first)
    file = tmp_path / "notes"
    request = first.request("append_slowly", {"file": str(file), "line": "x", "seconds": 0.5})
    deliveries = [first, second, first]
    await asyncio.gather(*(one.servers.handle(request) for one in deliveries))
    answers = [*await redelivered(first), *await redelivered(second)]
    await first.servers.handle(request)
    assert len(first.sent) + len(second.sent) == 4
    assert {message.body for message in answers} == {first.sent[-1].body}
    assert {message.message_id for message in answers} == {f"{request.request_id}.response"}
    assert file.read_text() == "x\n"


async def test_a_finished_call_is_answered_while_the_server_is_down(make_side: MakeSide, tmp_path: Path) -> None:
    side = make_side()
    file = tmp_path / "notes"
    request = side.request("append", {"file": str(file), "line": "x"})
    body = await side.ask(request)
    side.register(**{"": {"script": "broken.py", "max_retries": 0}})
    assert await side.ask(request) == body
    assert code(await side.call("add", {"a": 1, "b": 1})) == "unavailable"
    assert file.read_text() == "x\n"


async def test_the_same_id_with_other_params(side: Side, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    request = side.request("append", {"file": str(file), "line": "x"})
    await side.ask(request)
    tool_params = {"file": str(file), "line": "y"}
    other = request.model_copy(update={"params": {"tool_name": "append", "tool_params": tool_params}})
    assert code(await side.ask(other)) == "request_id_reused"
    assert file.read_text() == "x\n"
    await side.ask(other, reply_to="elsewhere")
    assert file.read_text() == "x\ny\n"


class UnusedLedger(MemoryLedger):
    """Fails when it is asked."""

    async def claim(self, key: CallKey, params_hash: str) -> Claimed | Standing:
        raise StorageUnavailable(f"call {key.request_id} was claimed")


async def test_a_tool_that_only_reads_needs_no_ledger(make_side: MakeSide, tmp_path: Path) -> None:
    side = make_side(ledger=UnusedLedger())
    request = side.request("add", {"a": 1, "b": 1})
    assert text(await side.ask(request)) == "2"
    assert text(await side.ask(request)) == "2"
    with pytest.raises(StorageUnavailable, match="was claimed"):
        await side.servers.handle(side.request("append", {"file": str(tmp_path / "notes"), "line": "x"}))


async def test_a_tool_that_is_idempotent_is_not_repeated_late(make_side: MakeSide) -> None:
    side = make_side(script="paged.py", ledger=UnusedLedger())
    with pytest.raises(StorageUnavailable, match="was claimed"):
        await side.servers.handle(side.request("first"))


async def test_a_call_whose_process_died(side: Side, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    write = side.request("append", {"file": str(file), "line": "x"})
    read = side.request("add", {"a": 1, "b": 1})
    for request in (write, read):
        claim = await side.ledger.claim(CallKey(side.server_id, request.request_id), calls.hash_of(request.params))
        assert isinstance(claim, Claimed)
    side.clock.shift += LEASE + 1
    body = await side.ask(write)
    assert code(body) == "outcome_unknown"
    assert await side.ask(write) == body
    assert not file.exists()
    assert text(await side.ask(read)) == "2"


async def renewed(side: Side, request: ToolRequest) -> None:
    """Waits until the lease of a call begins now."""
    key, called, now = CallKey(side.server_id, request.request_id), calls.hash_of(request.params), side.clock.now()
    async with asyncio.timeout(20):
        while True:
            standing = await side.ledger.look(key, called)
            assert isinstance(standing, Running)
            if standing.until >= now + LEASE:
                return
            await asyncio.sleep(0.02)


async def test_a_claim_is_renewed_while_the_tool_works(
    make_side: MakeSide, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calls, "RENEW_EVERY", 0.1)
    side = make_side()
    file = tmp_path / "notes"
    request = side.request("append_until", {"file": str(file), "line": "x"})
    call = asyncio.create_task(side.servers.handle(request))
    await written(file)
    for _ in range(4):
        side.clock.shift += LEASE / 2
        await renewed(side, request)
        await side.servers.handle(request)
    let_end(file)
    await call
    assert [message.entity for message in side.sent] == [MCP_COMMANDS] * 4 + [MCP_RESPONSES]
    assert file.read_text() == "x\n"


async def test_a_late_result_is_never_sent(side: Side, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "notes"
    request = side.request("append_until", {"file": str(file), "line": "x"})
    call = asyncio.create_task(side.servers.handle(request))
    await written(file)
    side.clock.shift += LEASE + 1
    assert code(await side.ask(request)) == "outcome_unknown"
    let_end(file)
    await call
    assert side.sent == []
    assert "late result" in caplog.text


class Stalling(MemoryLedger):
    """A ledger whose next claim is told so late that its lease has run out."""

    def __init__(self, clock: ShiftedClock) -> None:
        super().__init__(clock)
        self.clock = clock
        self.stalls = True

    async def claim(self, key: CallKey, params_hash: str) -> Claimed | Standing:
        claim = await super().claim(key, params_hash)
        if self.stalls:
            self.stalls = False
            self.clock.shift += LEASE + 1
            await self.meanwhile(key, params_hash)
        return claim

    async def meanwhile(self, key: CallKey, params_hash: str) -> None:
        """What others do in this time."""


class TakenOver(Stalling):
    async def meanwhile(self, key: CallKey, params_hash: str) -> None:
        standing = await self.claim(key, params_hash)
        assert isinstance(standing, Expired)
        claim = await self.take_over(standing)
        assert claim is not None
        await self.finish(claim, b"outcome unknown")


async def test_a_call_that_others_took_over_is_not_made(make_side: MakeSide, tmp_path: Path) -> None:
    first, file = make_side(), tmp_path / "notes"
    side = make_side(first, TakenOver(first.clock))
    request = side.request("append", {"file": str(file), "line": "x"})
    await side.servers.handle(request)
    assert side.sent == [], "whoever took it over has answered"
    assert not file.exists()
    await side.servers.handle(request)
    assert [message.body for message in side.sent] == [b"outcome unknown"]


async def test_a_call_whose_lease_ran_out_is_made_if_nobody_took_it_over(make_side: MakeSide, tmp_path: Path) -> None:
    first, file = make_side(), tmp_path / "notes"
    side = make_side(first, Stalling(first.clock))
    request = side.request("append", {"file": str(file), "line": "x"})
    body = await side.ask(request)
    assert file.read_text() == "x\n"
    assert await side.ask(request) == body
    assert file.read_text() == "x\n"


class Unrecording(MemoryLedger):
    """A ledger whose storage fails when answers are recorded."""

    failures = 0

    async def finish(self, claim: Claimed, response: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable("not now")
        await super().finish(claim, response)


async def test_an_answer_is_recorded_when_the_storage_is_back(make_side: MakeSide, tmp_path: Path) -> None:
    first = make_side()
    ledger = Unrecording(first.clock)
    ledger.failures = 2
    side = make_side(first, ledger)
    request = side.request("append", {"file": str(tmp_path / "notes"), "line": "x"})
    body = await side.ask(request)
    assert ledger.failures == 0
    assert await side.ask(request) == body


# --- the bus


async def test_messages_of_the_bus(side: Side) -> None:
    request = side.request("add", {"a": 1, "b": 1})
    packed = await ClaimCheck(None).pack(request.model_dump_json().encode(), "x")
    await side.servers.receive(Incoming(MCP_REQUESTS, packed, "m1", "c1", "answers", "s1"))
    (message,) = side.sent
    assert (message.entity, message.correlation_id, message.session_id) == ("answers", "c1", "s1")


async def test_a_body_that_is_no_request_is_answered_and_parked(side: Side) -> None:
    body = json.dumps({"request_id": "r1", "server_id": side.server_id, "method": "explode"}).encode()
    await side.servers.receive(Incoming(MCP_REQUESTS, body, "m1", reply_to="answers"))
    answer, parked = side.sent
    assert (answer.entity, answer.correlation_id) == ("answers", "m1")
    assert code(await side.read(answer)) == "invalid_params"
    assert (parked.entity, parked.body) == (POISON, body)
    assert "/method" in str(parked.properties["DeadLetterErrorDescription"])
    side.sent.clear()
    await side.servers.receive(Incoming(MCP_REQUESTS, b"nonsense", "m2", reply_to="answers"))
    assert [message.entity for message in side.sent] == [POISON]


async def test_without_a_registry_a_request_is_put_off(side: Side) -> None:
    side.registry.unlink()
    request = side.request("add", {"a": 1, "b": 1})
    await side.servers.receive(Incoming(MCP_REQUESTS, request.model_dump_json().encode(), "m1", reply_to="answers"))
    (message,) = side.sent
    assert (message.entity, message.delay) == (MCP_COMMANDS, 5)
    side.register(**{"": {}})
    side.sent.clear()
    await side.servers.receive(Incoming(MCP_COMMANDS, message.body, message.message_id))
    (answer,) = side.sent
    assert (answer.entity, answer.correlation_id) == ("answers", "m1")


async def test_a_request_that_comes_too_late_is_put_off(side: Side) -> None:
    await side.servers.close(0)
    with pytest.raises(TransientError):
        await side.servers.handle(side.request("add", {"a": 1, "b": 1}))


# --- the life of servers


async def test_servers_start_by_themselves_and_say_so(
    make_side: MakeSide, account: StorageAccount, payloads: Payloads
) -> None:
    side = make_side(auto_start=True)
    await side.servers.start()
    status = await side.status(lambda status: status.tools is not None)
    assert status.running
    assert status.server_name == f"The {side.server_id}"
    listed = await ToolCatalogue(account, payloads).get(side.server_id)
    assert listed is not None
    assert status.tools == len(listed.tools)
    (own,) = side.servers.statuses()
    assert own.running
    await side.servers.close(0)
    assert (await side.status(lambda status: not status.running)).state == "stopped"


async def test_a_restart_is_told(make_side: MakeSide) -> None:
    side = make_side(auto_start=True)
    await side.servers.start()
    pid = int(text(await side.call("pid")))
    os.kill(pid, signal.SIGKILL)
    status = await side.status(lambda status: status.restarts == 1 and status.running)
    assert status.last_error is None


async def test_a_broken_server_leaves_the_others_working(make_side: MakeSide) -> None:
    side = make_side()
    broken: dict[str, Any] = {"script": "broken.py", "auto_start": True}
    side.register(**{"": {"auto_start": True}, "broken": broken})
    await side.servers.start()
    status = await side.status(lambda status: status.state == "failed", f"{side.server_id}-broken")
    assert status.last_error
    assert text(await side.call("add", {"a": 1, "b": 1})) == "2"


async def test_the_registry_is_followed(make_side: MakeSide) -> None:
    side = make_side()
    before = text(await side.call("pid"))
    side.register(**{"": {"metadata": {"owner": "finance"}}, "new": {}})
    assert text(await side.call("pid")) != before
    new = text(await side.ask(side.request("pid", server=f"{side.server_id}-new")))
    side.register(**{"": {"metadata": {"owner": "sales"}}, "new": {}})
    assert text(await side.ask(side.request("pid", server=f"{side.server_id}-new"))) == new
    side.register(**{"": {}})
    assert code(await side.ask(side.request("pid", server=f"{side.server_id}-new"))) == "unknown_server"


async def test_a_new_server_is_found_at_once(make_side: MakeSide) -> None:
    side = make_side()
    await side.call("add", {"a": 1, "b": 1})
    side.register(**{"": {}, "new": {}})
    side.clock.shift -= 18  # the copy of the registry is still young
    assert text(await side.ask(side.request("add", {"a": 1, "b": 1}, server=f"{side.server_id}-new"))) == "2"


async def test_calls_on_a_replaced_server_end_in_their_own_time(make_side: MakeSide, tmp_path: Path) -> None:
    side = make_side()
    file = tmp_path / "notes"
    slow = side.request("append_until", {"file": str(file), "line": "x"})
    call = asyncio.create_task(side.servers.handle(slow))
    await written(file)
    side.register(**{"": {"metadata": {"owner": "finance"}}})
    await side.servers.handle(side.request("add", {"a": 1, "b": 1}))
    let_end(file)
    await call
    assert [text(await side.read(message)) for message in side.sent] == ["2", "written"]


async def test_commands(make_side: MakeSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOOK_EVERY", 0.2)
    side = make_side()
    other = make_side(side)

    async def command(name: str) -> None:
        body = json.dumps({"command": name, "server_id": f"The {side.server_id}"}).encode()
        await side.servers.receive(Incoming(MCP_COMMANDS, body, "m1"))

    await other.servers.start()
    before = text(await side.call("pid"))
    assert text(await other.call("add", {"a": 1, "b": 1})) == "2"
    await command("restart")
    assert text(await side.call("pid")) != before
    await command("stop")
    body = await side.call("add", {"a": 1, "b": 1})
    assert code(body) == "unavailable"
    assert body.error is not None
    assert "stopped by a command" in body.error.message
    # Another process follows with its next look.
    async with asyncio.timeout(60):
        while (await other.call("add", {"a": 1, "b": 1})).error is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    await command("start")
    assert text(await side.call("add", {"a": 1, "b": 1})) == "2"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"command": "stop"}, "InvalidMessage"),
        ({"command": "stop", "server_id": "nobody"}, "UnknownServer"),
        ({"command": "dance"}, "InvalidMessage"),
        ({"command": "redeliver", "params": {"entity": "agent-events", "body": ""}}, "InvalidMessage"),
    ],
)
async def test_commands_that_cannot_be_carried_out(side: Side, body: dict[str, Any], reason: str) -> None:
    await side.servers.receive(Incoming(MCP_COMMANDS, json.dumps(body).encode(), "m1"))
    (message,) = side.sent
    assert (message.entity, message.properties["DeadLetterReason"]) == (POISON, reason)


async def test_the_registry_is_read_on_command(make_side: MakeSide) -> None:
    side = make_side(auto_start=True)
    await side.servers.sync()
    side.register(**{"": {}, "new": {}})
    side.clock.shift -= 18
    await side.servers.handle_command(ServerCommand(command="reload_registry"))
    assert [status.server_id for status in side.servers.statuses()] == [side.server_id, f"{side.server_id}-new"]


async def test_a_change_just_after_a_look_is_read_on_command(make_side: MakeSide) -> None:
    side = make_side()
    await side.servers.sync()
    side.register(**{"": {}, "new": {}})
    side.clock.shift -= 20  # the last look was a moment ago
    await side.servers.handle_command(ServerCommand(command="reload_registry"))
    assert len(side.servers.statuses()) == 2


async def test_close_lets_calls_end(side: Side, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    slow = side.request("append_until", {"file": str(file), "line": "x"})
    call = asyncio.create_task(side.servers.handle(slow))
    await written(file)
    closing = asyncio.create_task(side.servers.close(60))
    await asyncio.sleep(0.1)
    let_end(file)
    await closing
    await call
    (message,) = side.sent
    assert text(await side.read(message)) == "written"


async def test_close_does_not_wait_for_ever(side: Side, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    slow = side.request("append_slowly", {"file": str(file), "line": "x", "seconds": 60})
    call = asyncio.create_task(side.servers.handle(slow))
    await written(file)
    pid = int(text(await side.call("pid")))
    await side.servers.close(0.1)
    await call
    (message,) = side.sent
    assert code(await side.read(message)) == "outcome_unknown"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_twenty_calls_at_a_time(side: Side) -> None:
    requests = [side.request("add", {"a": n, "b": n}) for n in range(20)]
    await asyncio.gather(*map(side.servers.handle, requests))
    answers = {message.correlation_id: text(await side.read(message)) for message in side.sent}
    assert answers == {request.request_id: str(2 * n) for n, request in enumerate(requests)}


async def test_the_sample_registry_works(make_side: MakeSide, tmp_path: Path) -> None:
    side = make_side()
    document = json.loads((Path(servers.__file__).parents[2] / "mcp_server_registry.json").read_text())
    document["servers"][0]["env"] = {"COMPANY_LEDGER_DB": str(tmp_path / "ledger.db")}
    side.registry.write_text(json.dumps(document))
    side.clock.shift += 20
    kpis = await side.ask(side.request("get_kpis", {"year": 2025}, server="company-ledger"))
    assert kpis.result is not None
    assert kpis.result["structuredContent"]
    wrong = await side.ask(side.request("get_kpis", {"year": "last"}, server="company-ledger"))
    assert code(wrong) == "invalid_params"
