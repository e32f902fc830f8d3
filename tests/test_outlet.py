from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import pytest

from aos.config import Settings
from aos.errors import AosError, BusUnavailable, UnknownEntity
from aos.kernel.types import ConversationKey, Operation, ReplyAddress, SendReply, SendTool
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import INLINE, ClaimCheck
from aos.messaging.envelopes import AgentCommand, AgentReply, ToolRequest, parse_body
from aos.outlet import BusOutlet
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads

KEY = ConversationKey("ceo", "main")
DONE = Operation("op_1", "ceo", "main", "completed", 1.0, 2.0, reply="Yes.", reply_to=ReplyAddress("answers", "c", "s"))


class Wire:
    """A bus that is written down.

    Attributes:
        sends: The messages of each send.
        outages: Errors by entity.
    """

    def __init__(self) -> None:
        self.sends: list[list[Outbound]] = []
        self.outages: dict[str, AosError] = {}

    async def send(self, messages: Sequence[Outbound]) -> None:
        for message in messages:
            if message.entity in self.outages:
                raise self.outages[message.entity]
        self.sends.append(list(messages))


@pytest.fixture(scope="module")
async def claim_check(storage_settings: Settings) -> AsyncIterator[ClaimCheck]:
    account = StorageAccount(storage_settings)
    yield ClaimCheck(Payloads(account))
    await account.close()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def outlet(wire: Wire, claim_check: ClaimCheck) -> BusOutlet:
    return BusOutlet(wire.send, claim_check)


async def test_tool_calls_leave_together(wire: Wire, outlet: BusOutlet) -> None:
    calls = [SendTool(f"op_1.1.{index}", "ledger", "lookup", '{"year": 2024}') for index in range(3)]
    await outlet.send(KEY, calls)
    (sent,) = wire.sends
    assert [message.message_id for message in sent] == ["op_1.1.0", "op_1.1.1", "op_1.1.2"]
    assert {message.entity for message in sent} == {"mcp-requests"}
    assert parse_body(ToolRequest, sent[0].body).params == {"tool_name": "lookup", "tool_params": {"year": 2024}}


async def test_a_reply_goes_where_it_is_wanted(wire: Wire, outlet: BusOutlet) -> None:
    await outlet.send(KEY, [SendReply(DONE)])
    ((reply,),) = wire.sends
    assert (reply.entity, reply.message_id, reply.correlation_id, reply.session_id) == (
        "answers",
        "op_1.1.reply",
        "c",
        "s",
    )
    assert parse_body(AgentReply, reply.body).response == "Yes."


async def test_nothing_to_send(wire: Wire, outlet: BusOutlet) -> None:
    await outlet.send(KEY, [])
    await outlet.send(KEY, [SendReply(Operation("op_1", "ceo", "main", "completed", 1.0, 2.0))])
    assert wire.sends == []


async def test_what_is_long_travels_by_reference(wire: Wire, outlet: BusOutlet, claim_check: ClaimCheck) -> None:
    arguments = json.dumps({"text": "x" * INLINE})
    await outlet.send(KEY, [SendTool("op_1.1.0", "ledger", "note", arguments)])
    ((request,),) = wire.sends
    assert len(request.body) < 1000
    body = parse_body(ToolRequest, await claim_check.unpack(request.body))
    assert body.params["tool_params"] == json.loads(arguments)


async def test_a_reply_that_nobody_takes_is_parked(wire: Wire, outlet: BusOutlet) -> None:
    wire.outages["answers"] = UnknownEntity("no queue or topic 'answers'")
    await outlet.send(KEY, [SendReply(DONE)])
    ((parked,),) = wire.sends
    assert (parked.entity, parked.message_id) == ("aos-poison", "op_1.1.reply")
    assert parse_body(AgentReply, parked.body).response == "Yes."
    assert parked.properties["DeadLetterReason"] == "ReplyUndeliverable"
    assert parked.properties["aos-source"] == "answers"


@pytest.mark.parametrize("effect", [SendReply(DONE), SendTool("op_1.1.0", "ledger", "lookup", "{}")])
async def test_a_bus_that_is_down_is_told_to_the_kernel(
    wire: Wire, outlet: BusOutlet, effect: SendReply | SendTool
) -> None:
    wire.outages = {"answers": BusUnavailable("down"), "mcp-requests": BusUnavailable("down")}
    with pytest.raises(BusUnavailable):
        await outlet.send(KEY, [effect])
    assert wire.sends == []


async def test_a_wake_up_is_a_command(wire: Wire, outlet: BusOutlet) -> None:
    await outlet.wake(KEY, 2.5)
    await outlet.wake(KEY, 2.5)
    (first,), (second,) = wire.sends
    assert (first.entity, first.delay) == ("agent-commands", 2.5)
    command = parse_body(AgentCommand, first.body)
    assert (command.command, command.params) == ("resume", {"agent_id": "ceo", "conversation_id": "main"})
    assert first.message_id != second.message_id, "none may be taken for a repetition of another"
