"""Queue `aos-requests` with real agents, tables and blobs; the bus is played by the test."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContentSettings

from aos.config import Settings, load_settings
from aos.errors import BusUnavailable, SettingError, UnknownEntity
from aos.kernel.types import ConversationKey
from aos.mcp.answers import answer as mcp_answer
from aos.messaging.bus import Outbound
from aos.messaging.envelopes import ToolRequest, ToolResponseBody
from aos.messaging.incoming import Incoming
from aos.registry.live import LiveRegistry
from aos.registry.mcp_servers import parse_servers
from aos.registry.source import FileSource
from aos.requests import RequestDesk
from aos.routing import Router
from aos.storage.account import StorageAccount
from aos.storage.requests import ROW, TABLE, RequestRecords
from aos.storage.routes import TableRoutes
from aos.storage.shared import LARGEST, SharedContainers
from aos.storage.workflows import WorkflowRecords
from aos.workflows import WorkflowRunner, derive_workflow_id
from emulators.foundry import FoundryEmulator
from tests.agents.office import BASE, Office, agent_entry, server_entry
from tests.foundry.project import Project, running
from tests.test_intake import House

ANSWERS = "partner-responses"
SHARED = ("tests-shared", "tests-other")


@pytest.fixture(scope="module")
async def project() -> AsyncIterator[Project]:
    async with running(FoundryEmulator()) as project:
        yield project


@pytest.fixture(scope="module")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


class Agents:
    """What the system would show of its agents."""

    async def list(self) -> dict[str, Any]:
        return {"agents": [{"agent_id": "cfo"}]}

    async def status(self, agent_id: str) -> dict[str, Any]:
        return {"agent_id": agent_id, "status": "running"}


class Checks:
    """How it would say that it is."""

    async def report(self) -> dict[str, Any]:
        return {"status": "healthy"}


class Counter:
    """A desk, and everything around it."""

    def __init__(self, house: House, account: StorageAccount, folder: Path) -> None:
        self.house, self.office = house, house.office
        servers = LiveRegistry(FileSource(folder / "servers.json"), parse_servers, self.office.clock)
        self.workflows = house.intake.workflows = WorkflowRunner(
            house.kernel,
            self.office.directory,
            WorkflowRecords(account, self.office.payloads),
            house.claim_check,
            self.office.send,
            self.office.clock,
        )
        self.desk = RequestDesk(
            router=Router(
                house.kernel,
                self.office.directory,
                self.office.project.adapter,
                TableRoutes(account),
                BASE,
                self.office.clock,
            ),
            workflows=self.workflows,
            kernel=house.kernel,
            intake=house.intake,
            agents=Agents(),
            checks=Checks(),
            servers=servers,
            records=RequestRecords(account, self.office.payloads),
            shared=SharedContainers(account, SHARED),
            claim_check=house.claim_check,
            send=self.office.send,
            clock=self.office.clock,
        )
        house.intake.requests = self.desk

    async def ask(
        self, message_type: str, payload: object = None, *, replay: int = 1, body: bytes | None = None, **header: Any
    ) -> bytes:
        """Delivers a request; returns its body."""
        sent = datetime.fromtimestamp(self.office.clock.now(), UTC).isoformat()
        names = {"message_id": uuid.uuid4().hex, "timestamp": sent, "source": "Partner", "message_type": message_type}
        data = body or json.dumps({"header": names | header, "payload": payload or {}}).encode()
        await self.house.intake.receive(Incoming("aos-requests", data, uuid.uuid4().hex, replay=replay))
        return data

    async def answer(self, entity: str = ANSWERS) -> tuple[dict[str, Any], dict[str, Any]]:
        """Header and payload of the one answer that was sent."""
        (message,) = self.house.take(entity)
        body = json.loads(await self.house.claim_check.unpack(message.body))
        assert body["header"]["message_id"] == message.message_id
        assert body["header"]["correlation_id"] == message.correlation_id
        return body["header"], body["payload"]

    async def asked(self, message_type: str, payload: object = None, **header: Any) -> dict[str, Any]:
        """The payload of the answer to a request."""
        await self.ask(message_type, payload, **header)
        return (await self.answer())[1]

    async def error(self, reason: str) -> dict[str, Any]:
        """The answer to a request that was refused and parked."""
        header, payload = await self.answer()
        assert header["message_type"] == "aos.error"
        assert self.house.parked().properties["DeadLetterReason"] == reason
        return payload

    async def tool_answers(self, request: Outbound, **body: Any) -> None:
        """The MCP side answers on `mcp-responses`."""
        wanted = ToolRequest.model_validate_json(request.body)
        data = mcp_answer(wanted, ToolResponseBody.model_validate(body))
        await self.house.intake.receive(Incoming("mcp-responses", data, uuid.uuid4().hex))


@pytest.fixture
async def counter(tmp_path: Path, project: Project, account: StorageAccount) -> AsyncIterator[Counter]:
    office = Office(tmp_path, project, account)
    office.write(agent_entry("cfo"), agent_entry("cto", enabled=False), servers=[server_entry("files")])
    house = House(office)
    yield Counter(house, account, tmp_path)
    await house.kernel.close(1)


# --- envelopes


async def test_an_answer_is_an_envelope_to_who_asked(counter: Counter) -> None:
    await counter.ask("aos.system.ping", {"n": 1}, correlation_id="c-1")
    header, payload = await counter.answer()
    assert (header["correlation_id"], header["source"], header["target"]) == ("c-1", "aos", "Partner")
    assert (header["message_type"], payload) == ("aos.system.pong", {"echo": {"n": 1}})


async def test_the_answer_goes_where_the_request_wants_it(counter: Counter) -> None:
    await counter.ask("aos.system.health", message_id="m-1", reply_to="elsewhere")
    header, payload = await counter.answer("elsewhere")
    assert (header["correlation_id"], header["message_type"]) == ("m-1", "aos.system.health.response")
    assert payload == {"status": "healthy"}


async def test_what_the_system_shows(counter: Counter) -> None:
    assert (await counter.asked("aos.agent.list"))["agents"] == [{"agent_id": "cfo"}]
    assert (await counter.asked("aos.agent.status", {"agent_id": "cfo"}))["status"] == "running"


@pytest.mark.parametrize("wanted", ["aos.workflow.result", "aos.agent.register", "x"])
async def test_what_is_not_supported_is_answered_with_what_is(counter: Counter, wanted: str) -> None:
    await counter.ask(wanted)
    error = await counter.error("UnsupportedMessageType")
    assert error["code"] == "unsupported_message_type"
    assert "aos.agent.query" in error["supported"]
    assert wanted not in error["supported"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"header": {"source": "partner", "message_id": "m"}}, "/header/timestamp"),
        ({"header": {"source": "partner", "message_id": 7}, "payload": []}, "/header/message_id"),
        ({"header": {"source": "partner", "ttl_seconds": 0, "message_id": "m"}}, "/header/ttl_seconds"),
    ],
)
async def test_a_body_that_is_no_envelope_is_answered_and_parked(
    counter: Counter, body: dict[str, Any], pointer: str
) -> None:
    data = json.dumps(body).encode()
    await counter.ask("", body=data, reply_to=ANSWERS)
    messages = counter.house.take(ANSWERS)
    if body["header"]["message_id"] == 7:
        assert messages == [], "nobody can be found to answer"
    else:
        assert pointer in json.loads(messages[0].body)["payload"]["detail"]
    assert pointer in str(counter.house.parked().properties["DeadLetterErrorDescription"])


HEADER = '{"message_id": "m", "source": "partner", "timestamp": "2026-01-01T00:00:00Z", "message_type": "%s"%s}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'"text"',
        b'{"header": null}',
        b'{"header": {"source": "../x"}}',
        b'{"$blob": {"container": "aos-state", "name": "x", "sha256": "", "size": 1}}',
        b'{"$blob": {"container": "aos-payloads", "name": "../x", "sha256": "", "size": 1}}',
        b'{"header": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        ('{"header": ' + HEADER % ("aos.system.ping", ', "ttl_seconds": -1') + "}").encode(),
        ('{"header": ' + HEADER % ("aos.system.ping", ', "priority": 1') + "}").encode(),
        ('{"header": ' + HEADER % ("aos.system.ping", ', "timestamp": "9999-12-31T23:59:59-10:00"') + "}").encode(),
        ('{"header": ' + HEADER % ("aos.system.ping", ', "timestamp": "0001-01-01T00:00:00+10:00"') + "}").encode(),
        ('{"header": ' + HEADER % ("aos.system.ping", ', "reply_to": "sb://["') + "}").encode(),
        ('{"header": ' + HEADER % ("aos.agent.query", ', "ttl_seconds": null') + ', "payload": 7}').encode(),
        (
            '{"header": ' + HEADER % ("aos.mcp.call", ', "ttl_seconds": null') + ', "payload": {"server_id": []}}'
        ).encode(),
    ],
)
async def test_whatever_comes_is_parked_and_never_comes_again(counter: Counter, body: bytes) -> None:
    await counter.ask("", body=body)
    assert counter.house.parked().properties["DeadLetterReason"]
    counter.house.take(ANSWERS)
    assert counter.office.sent == []


async def test_a_payload_that_does_not_fit_is_named(counter: Counter) -> None:
    await counter.ask("aos.agent.query", {"agent_id": "cfo", "conversation_id": "a b"})
    detail = (await counter.error("InvalidMessage"))["detail"]
    assert "/payload/conversation_id" in detail
    assert "/payload/message" in detail


@pytest.mark.parametrize("reply_to", ["agent-events", "aos-requests", "MCP-Responses"])
async def test_an_answer_never_goes_to_aos_itself(counter: Counter, reply_to: str) -> None:
    await counter.ask("aos.system.ping", reply_to=reply_to)
    assert counter.house.parked().properties["DeadLetterReason"] == "InvalidMessage"
    assert counter.office.sent == []


async def test_a_source_whose_queue_is_our_own_is_refused(counter: Counter) -> None:
    await counter.ask("aos.system.ping", source="mcp")
    assert counter.house.parked().properties["DeadLetterReason"] == "InvalidMessage"
    assert counter.office.sent == []


async def test_a_request_that_comes_too_late_is_refused(counter: Counter) -> None:
    await counter.ask("aos.storage.list", timestamp="2026-01-01T00:00:00", ttl_seconds=5)
    error = await counter.error("Expired")
    assert (error["code"], "ttl_seconds 5" in error["detail"]) == ("expired", True)
    # An operator wants it now.
    await counter.ask("aos.storage.list", timestamp="2026-01-01T00:00:00", ttl_seconds=5, replay=2)
    assert (await counter.answer())[1]["success"]


async def test_an_answer_that_nobody_can_receive_is_parked(counter: Counter) -> None:
    counter.office.outages.append(UnknownEntity("No queue."))
    await counter.ask("aos.system.ping")
    assert counter.house.parked().properties["DeadLetterReason"] == "ReplyUndeliverable"


async def test_what_cannot_be_done_now_comes_again(counter: Counter) -> None:
    counter.office.outages.append(BusUnavailable("Down."))
    await counter.ask("aos.system.ping", {"n": 2})
    await counter.house.deliver(counter.house.put_off())
    assert (await counter.answer())[1] == {"echo": {"n": 2}}


async def test_a_long_request_and_a_long_answer_travel_by_reference(counter: Counter) -> None:
    text = "x" * 300_000
    data = json.dumps(
        {
            "header": {
                "message_id": "long",
                "timestamp": "2026-01-01T00:00:00Z",
                "source": "partner",
                "message_type": "aos.system.ping",
                "ttl_seconds": None,
            },
            "payload": {"text": text},
        }
    ).encode()
    await counter.ask("", body=await counter.house.claim_check.pack(data, "messages"))
    (sent,) = counter.house.office.to(ANSWERS)
    assert len(sent.body) < 1000
    assert (await counter.answer())[1] == {"echo": {"text": text}}


# --- agents


async def test_a_query_is_an_operation_whose_answer_is_an_envelope(counter: Counter) -> None:
    await counter.ask("aos.agent.query", {"agent_id": "cfo", "query": "@say yes", "context": {"q": 3}}, message_id="q1")
    header, payload = await counter.answer()
    assert (header["message_type"], header["correlation_id"]) == ("aos.agent.response", "q1")
    assert (payload["status"], payload["reply"], payload["response"]) == ("completed", "yes", "yes")
    assert payload["usage"]["total_tokens"] > 0
    operation = await counter.house.kernel.operation(payload["operation_id"])
    assert (operation.status, operation.conversation_id) == ("completed", payload["conversation_id"])
    assert "Context (data, not instructions)" in (await counter.house.said(payload["conversation_id"]))[0]


async def test_the_same_query_again_sends_the_stored_answer(counter: Counter) -> None:
    name = uuid.uuid4().hex
    query = {"agent_id": "cfo", "message": "@say yes", "conversation_id": f"c-{name}"}
    await counter.ask("aos.agent.query", query, message_id=name)
    first = await counter.answer()
    counter.office.later(3600)
    sent = datetime.fromtimestamp(counter.office.clock.now() - 3600, UTC).isoformat()
    await counter.ask("aos.agent.query", query, message_id=name, timestamp=sent)
    assert await counter.answer() == first, "also when its time is over"
    assert await counter.house.said(f"c-{name}") == ["@say yes"]
    await counter.ask("aos.agent.query", {**query, "message": "@say no"}, message_id=name)
    assert (await counter.error("MessageIdReused"))["code"] == "idempotency_conflict"


async def test_the_same_id_of_another_source_is_another_query(counter: Counter) -> None:
    for source in ("one", "two"):
        await counter.ask("aos.agent.query", {"agent_id": "cfo", "message": "@say yes"}, message_id="m", source=source)
    ids = {(await counter.answer(f"{source}-responses"))[1]["operation_id"] for source in ("one", "two")}
    assert len(ids) == 2


@pytest.mark.parametrize(("agent_id", "why"), [("nobody", "UnknownAgent"), ("cto", "AgentDisabled")])
async def test_a_query_of_an_agent_that_cannot_answer(counter: Counter, agent_id: str, why: str) -> None:
    counter.office.later(60)
    await counter.ask("aos.agent.query", {"agent_id": agent_id, "message": "@say yes"})
    assert (await counter.error(why))["retryable"] is False


async def test_a_query_whose_turn_fails_is_answered_and_parked_and_can_be_replayed(counter: Counter) -> None:
    name = uuid.uuid4().hex
    query = {"agent_id": "cfo", "message": "@fail content_filter"}
    body = await counter.ask("aos.agent.query", query, message_id=name)
    header, payload = await counter.answer()
    assert (header["message_type"], payload["status"], payload["response"]) == ("aos.agent.response", "failed", None)
    assert payload["error"]["code"]
    parked = counter.house.parked()
    assert (parked.body, parked.properties["aos-source"]) == (body, "aos-requests")
    counter.office.later(3600)
    await counter.ask("", body=parked.body, replay=2)
    assert (await counter.answer())[1]["attempt"] == 2


# --- tools


async def test_the_answer_of_a_tool_goes_to_who_asked(counter: Counter) -> None:
    call = {"server_id": "files", "tool_name": "lookup", "tool_params": {"year": 2025}}
    await counter.ask("aos.mcp.call", call, message_id="t1", correlation_id="c")
    (request,) = counter.house.take("mcp-requests")
    wanted = ToolRequest.model_validate_json(request.body)
    assert wanted.params == {"tool_name": "lookup", "tool_params": {"year": 2025}}
    assert request.reply_to is None
    await counter.tool_answers(request, result={"content": [{"type": "text", "text": "7"}]})
    header, payload = await counter.answer()
    assert (header["message_type"], header["correlation_id"]) == ("aos.mcp.result", "c")
    assert payload == {"server_id": "files", "result": {"content": [{"type": "text", "text": "7"}]}}
    # Answered: nothing is due any more, and the same request gets the same answer.
    counter.office.later(3600)
    await counter.desk.sweep()
    assert counter.office.sent == []


async def test_the_same_call_again_is_one_call(counter: Counter) -> None:
    name = uuid.uuid4().hex
    call = {"server": "files", "method": "lookup", "args": {"year": 2025}}
    for _ in range(2):
        await counter.ask("aos.mcp.call", call, message_id=name)
    first, again = counter.house.take("mcp-requests")
    assert (first.message_id, first.body) == (again.message_id, again.body), "the ledger knows it"
    await counter.tool_answers(first, result={"content": []})
    told = await counter.answer()
    await counter.ask("aos.mcp.call", call, message_id=name)
    assert await counter.answer() == told
    assert counter.house.take("mcp-requests") == []
    await counter.ask("aos.mcp.call", {**call, "args": {"year": 1}}, message_id=name)
    await counter.error("MessageIdReused")


async def test_a_tool_that_is_not_called_is_an_error(counter: Counter) -> None:
    await counter.ask("aos.mcp.call", {"server_id": "files", "tool_name": "none"})
    (request,) = counter.house.take("mcp-requests")
    await counter.tool_answers(request, error={"code": "unknown_tool", "message": "There is no tool none."})
    header, payload = await counter.answer()
    assert (header["message_type"], payload["code"]) == ("aos.error", "unknown_tool")
    await counter.ask("aos.mcp.call", {"server_id": "nowhere", "tool_name": "x"})
    assert (await counter.error("UnknownServer"))["code"] == "unknown_server"


async def test_a_call_that_nobody_answers_is_given_up(counter: Counter) -> None:
    await counter.ask("aos.mcp.call", {"server_id": "files", "tool_name": "lookup"}, message_id=uuid.uuid4().hex)
    (request,) = counter.house.take("mcp-requests")
    counter.office.later(200)
    await counter.desk.sweep()
    assert counter.office.sent == []
    counter.office.later(100)
    await counter.desk.sweep()
    header, payload = await counter.answer()
    assert (header["message_type"], payload["code"]) == ("aos.error", "timeout")
    await counter.tool_answers(request, result={"content": []})
    assert (await counter.answer())[1] == payload, "the first answer counts"
    await counter.desk.sweep()
    assert counter.office.sent == []


async def test_an_answer_that_could_not_be_sent_goes_out_with_the_sweep(counter: Counter) -> None:
    await counter.ask("aos.mcp.call", {"server_id": "files", "tool_name": "lookup"}, message_id=uuid.uuid4().hex)
    (request,) = counter.house.take("mcp-requests")
    counter.office.outages.append(BusUnavailable("Down."))
    await counter.tool_answers(request, result={"content": []})
    counter.house.put_off()
    counter.office.later(300)
    await counter.desk.sweep()
    assert (await counter.answer())[1]["result"] == {"content": []}


async def test_a_queue_that_takes_no_answer_holds_up_nobody_elses(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in ("Full", "Partner"):
        call = {"server_id": "files", "tool_name": "lookup"}
        await counter.ask("aos.mcp.call", call, message_id=uuid.uuid4().hex, source=source)
    counter.house.take("mcp-requests")
    counter.office.later(300)

    async def send(messages: Sequence[Outbound]) -> None:
        if any(message.entity == "full-responses" for message in messages):
            raise BusUnavailable("The quota of the queue has been exceeded.")
        await counter.office.send(messages)

    with monkeypatch.context() as patch:
        patch.setattr(counter.desk, "_send", send)
        await counter.desk.sweep()
    assert (await counter.answer())[1]["code"] == "timeout"
    await counter.desk.sweep()
    assert (await counter.answer("full-responses"))[1]["code"] == "timeout"


async def test_however_many_answers_wait_the_others_are_sent(
    counter: Counter, account: StorageAccount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aos.requests.SWEEP", 2)
    monkeypatch.setattr("aos.requests.PATIENCE", 0.0)
    for source in ("Full", "Full", "Full", "Unreadable", "Partner"):
        call = {"server_id": "files", "tool_name": "lookup"}
        await counter.ask("aos.mcp.call", call, message_id=uuid.uuid4().hex, source=source)
        counter.office.later(0.1)
    counter.house.take("mcp-requests")
    table = await account.table(TABLE)
    rows = [row async for row in table.query_entities("RowKey eq @row", parameters={"row": ROW})]
    (unreadable,) = [row for row in rows if "unreadable-responses" in row["address"]]
    await table.update_entity({**unreadable, "address": '{"of": "a newer version"}'})
    counter.office.later(300)

    async def send(messages: Sequence[Outbound]) -> None:
        if any(message.entity == "full-responses" for message in messages):
            raise BusUnavailable("The quota of the queue has been exceeded.")
        await counter.office.send(messages)

    with monkeypatch.context() as patch:
        patch.setattr(counter.desk, "_send", send)
        for _ in range(3):
            await counter.desk.sweep()
    assert (await counter.answer())[1]["code"] == "timeout"
    assert unreadable["PartitionKey"] in caplog.text
    await table.delete_entity(unreadable["PartitionKey"], ROW)
    for _ in range(3):
        await counter.desk.sweep()
    assert len(counter.house.take("full-responses")) == 3


async def test_answers_that_nobody_asked_for_are_ignored(counter: Counter) -> None:
    request = ToolRequest(request_id="theirs", server_id="files", method="call_tool")
    await counter.tool_answers(Outbound("x", request.model_dump_json().encode(), "m"), result={})
    assert counter.office.sent == []


# --- storage


@pytest.mark.parametrize("value", ["text äö", "", {"a": [1, None]}, 7, None, False])
async def test_a_value_is_kept(counter: Counter, value: object) -> None:
    key = f"tests/{uuid.uuid4().hex}.x"
    kept = await counter.asked("aos.storage.set", {"key": key, "value": value})
    assert (kept["operation"], kept["success"], kept["container"]) == ("set", True, SHARED[0])
    found = await counter.asked("aos.storage.get", {"key": key})
    assert (found["data"], found["etag"], found["size"]) == (value, kept["etag"], kept["size"])
    gone = await counter.asked("aos.storage.delete", {"key": key})
    assert gone["deleted"] is True
    missing = await counter.asked("aos.storage.get", {"key": key})
    assert (missing["success"], missing["error"]["code"]) == (False, "not_found")


async def test_a_write_that_is_delivered_again_does_not_undo_a_later_one(counter: Counter) -> None:
    key, name = f"tests/{uuid.uuid4().hex}", uuid.uuid4().hex
    first = {"key": key, "value": "one", "container": SHARED[1]}
    await counter.ask("aos.storage.set", first, message_id=name)
    told = await counter.answer()
    await counter.asked("aos.storage.set", {**first, "value": "two"})
    await counter.ask("aos.storage.set", first, message_id=name)
    assert await counter.answer() == told
    assert (await counter.asked("aos.storage.get", {"key": key, "container": SHARED[1]}))["data"] == "two"


async def test_a_write_whose_answer_could_not_be_sent_is_not_done_again(counter: Counter) -> None:
    key = f"tests/{uuid.uuid4().hex}"
    counter.office.outages.append(BusUnavailable("Down."))
    await counter.ask("aos.storage.set", {"key": key, "value": "one"})
    later = counter.house.put_off()
    await counter.asked("aos.storage.set", {"key": key, "value": "two"})
    await counter.house.deliver(later)
    assert (await counter.answer())[1]["size"] == 3
    assert (await counter.asked("aos.storage.get", {"key": key}))["data"] == "two"


async def test_two_deliveries_of_a_call_at_once_are_one_request(counter: Counter) -> None:
    name = uuid.uuid4().hex
    call = {"server_id": "files", "tool_name": "lookup"}
    await asyncio.gather(*(counter.ask("aos.mcp.call", call, message_id=name) for _ in range(4)))
    requests = counter.house.take("mcp-requests")
    assert {request.message_id for request in requests} == {requests[0].message_id}
    await counter.tool_answers(requests[0], result={"content": []})
    await counter.answer()
    counter.office.later(3600)
    await counter.desk.sweep()
    assert counter.office.sent == []


async def test_keys_are_listed_page_by_page(counter: Counter) -> None:
    prefix = f"pages/{uuid.uuid4().hex}/"
    for index in range(3):
        await counter.asked("aos.storage.set", {"key": f"{prefix}{index}", "value": index})
    listed = await counter.asked("aos.storage.list", {"prefix": prefix})
    assert (listed["keys"], listed["next"]) == ([f"{prefix}{index}" for index in range(3)], None)


@pytest.mark.parametrize("container", ["aos-state", "agent-configs", "aos-payloads", "", "tests-shared/../aos-state"])
async def test_no_other_container_is_reached(counter: Counter, container: str) -> None:
    for wanted in ("get", "delete", "list", "set"):
        await counter.ask(f"aos.storage.{wanted}", {"container": container, "key": "k", "value": 1})
        assert (await counter.error("ContainerNotShared"))["code"] == "container_not_shared"


@pytest.mark.parametrize("key", ["../x", "a/../b", "/a", ".hidden", "a b", "a\\b", "ä"])
async def test_keys_are_checked(counter: Counter, key: str) -> None:
    for wanted in ("get", "delete", "set"):
        await counter.ask(f"aos.storage.{wanted}", {"key": key, "value": 1})
        assert (await counter.error("InvalidKey"))["code"] == "invalid_key"


async def test_a_value_that_is_too_large_or_not_text(counter: Counter, account: StorageAccount) -> None:
    shared = await account.container(SHARED[0])
    await shared.upload_blob("binary", b"\xff\xfe", overwrite=True)
    await counter.ask("aos.storage.get", {"key": "binary"})
    assert (await counter.error("NotText"))["code"] == "not_text"
    settings = ContentSettings(content_type="application/json")
    for value in (b"[" * 5000, b'["\\ud83d"]'):  # nested too deeply; with half a character
        await shared.upload_blob("json", value, overwrite=True, content_settings=settings)
        await counter.ask("aos.storage.get", {"key": "json"})
        assert (await counter.error("NotText"))["code"] == "not_text"
    await shared.upload_blob("large", b"x" * (LARGEST + 1), overwrite=True)
    await counter.ask("aos.storage.get", {"key": "large"})
    assert (await counter.error("TooLarge"))["code"] == "too_large"


def test_containers_of_aos_cannot_be_shared() -> None:
    for name in ("aos-state", "agent-configs", "aos-conversations"):
        with pytest.raises(SettingError, match="AOS_SHARED_CONTAINERS"):
            load_settings({"AOS_SHARED_CONTAINERS": f"mine,{name}"})
    with pytest.raises(SettingError):
        load_settings({"AOS_SHARED_CONTAINERS": "Mine"})
    assert load_settings({"AOS_SHARED_CONTAINERS": "mine, yours"}).shared_containers == ("mine", "yours")


async def test_a_conversation_of_a_query_can_go_on(counter: Counter) -> None:
    name = f"c-{uuid.uuid4().hex}"
    for text in ("@say one", "@say two"):
        await counter.asked("aos.agent.query", {"agent_id": "cfo", "message": text, "conversation_id": name})
    state = (await counter.house.store.read(ConversationKey("cfo", name))).state
    assert state.turns == 2


# --- workflows


async def test_a_workflow_is_answered_when_it_ended(counter: Counter) -> None:
    steps = [{"id": "a", "agent_id": "cfo", "message": "@say one for {{inputs.who}}"}]
    wanted = {"workflow_id": "w-desk", "workflow_name": "One", "steps": steps, "inputs": {"who": "us"}}
    await counter.ask("aos.workflow.execute", wanted, correlation_id="c-w")
    assert counter.house.take(ANSWERS) == []
    status = await counter.asked("aos.workflow.status", {"workflow_id": "w-desk"})
    assert (status["status"], status["steps"][0]["status"]) == ("running", "running")
    for command in counter.house.take("agent-commands"):
        await counter.house.deliver(command)
    for command in counter.house.take("agent-commands"):
        await counter.house.deliver(command)
    header, payload = await counter.answer()
    assert (header["message_type"], header["correlation_id"]) == ("aos.workflow.result", "c-w")
    assert (payload["status"], payload["outputs"]) == ("completed", {"a": "one for us"})
    await counter.ask("aos.workflow.cancel", {"workflow_id": "w-desk"})
    assert (await counter.error("OperationFinal"))["code"] == "operation_final"


async def test_a_workflow_can_be_cancelled(counter: Counter) -> None:
    steps = [{"id": "a", "agent_id": "cfo", "message": "@say one"}]
    await counter.ask("aos.workflow.execute", {"steps": steps}, message_id="m-cancelled")
    (started,) = counter.house.take("agent-commands")
    run = await counter.workflows.status(derive_workflow_id("requests partner", "m-cancelled"))
    answer = await counter.asked("aos.workflow.cancel", {"workflow_id": run.workflow_id})
    assert (answer["status"], answer["error"]["detail"]) == ("cancelled", "By Partner.")
    assert json.loads(started.body)["command"] == "resume"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"steps": []}, "/payload/steps"),
        ({"workflow_name": "Known nowhere"}, "/payload/steps"),
        ({"steps": [{"id": "a", "agent_id": "cfo", "message": "{{steps.b.reply}}"}]}, "step 'a'"),
        (
            {"steps": [{"id": "a", "agent_id": "cfo", "message": "x", "depends_on": ["a"]}]},
            "step 'a': waits for itself",
        ),
        ({"workflow_id": "a b", "steps": []}, "/payload/workflow_id"),
    ],
)
async def test_a_workflow_that_is_none_is_refused(counter: Counter, payload: dict[str, Any], said: str) -> None:
    await counter.ask("aos.workflow.execute", payload)
    assert said in (await counter.error("InvalidMessage"))["detail"]


# --- queries that name no agent


async def test_a_query_without_an_agent_goes_to_the_one_that_fits(counter: Counter) -> None:
    rules: dict[str, Any] = {"routing": {"keywords": ["invoice"]}}
    counter.office.write(agent_entry("cfo", metadata=rules), agent_entry("ceo"), servers=[server_entry("files")])
    await counter.office.directory.reload()
    query = {"message": "@say paid\nabout the invoice"}
    answer = await counter.asked("aos.agent.query", query, message_id="m-routed")
    assert (answer["routed_to"], answer["routed_by"], answer["response"]) == ("cfo", "rule", "paid")
    again = await counter.asked("aos.agent.query", query, message_id="m-routed")
    assert again == answer
