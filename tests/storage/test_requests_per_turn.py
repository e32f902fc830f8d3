"""How many requests to storage a turn costs: exact numbers, because timings depend on the machine."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import AsyncIterator

import pytest
from azure.core.pipeline.transport import AioHttpTransport, HttpRequest

from aos.config import Settings
from aos.kernel.kernel import Kernel
from aos.kernel.types import ConversationKey, Message, ReplyAddress
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.counters import SHARDS, Counters
from aos.storage.payloads import Payloads
from benchmarks.world import NEVER, EchoTools, InstantModel, OneAgent

SAVE = "POST $batch"
READ = "GET aosconversations"
DUE = "PUT aosdue"
ACCEPT = ["POST aosoperations", READ, DUE, SAVE]
ENDED = [READ, "PUT aoscounters", "DELETE aosdue"]


def an_id() -> str:
    """Of an operation; all are counted in the same row, which is known after the first."""
    while hashlib.sha256((found := f"op_{uuid.uuid4().hex}").encode()).digest()[0] % SHARDS:
        pass
    return found


class StoppedClock:
    """Of the storage: however slow the machine is, what was read a moment ago is still of this second."""

    def now(self) -> float:
        return 1_000.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("storage waits for nothing")


class Turns:
    """A kernel on Table storage with an instantaneous model."""

    def __init__(self, account: StorageAccount, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[str] = []
        self.tools = EchoTools()
        store = TableConversations(account, Payloads(account), StoppedClock(), counters=Counters(account))
        self.kernel = Kernel(store=store, foundry=InstantModel(), agents=OneAgent(), outlet=self.tools)
        self.key = ConversationKey(f"a{uuid.uuid4().hex}", "main")
        send = AioHttpTransport.send

        async def counted(transport: AioHttpTransport, request: HttpRequest, **options: object) -> object:
            (what,) = re.findall(r"/devstoreaccount1/([$\w]+)", request.url.partition("?")[0])
            self.requests.append(f"{request.method} {what}")
            return await send(transport, request, **options)

        monkeypatch.setattr(AioHttpTransport, "send", counted)

    async def turn(
        self, text: str, *, fresh: bool = False, unique: bool = False, reply_to: ReplyAddress | None = None
    ) -> list[str]:
        """A whole turn; the requests that it took, in their order."""
        self.requests.clear()
        operation_id = an_id()
        message = Message(operation_id, text, 1.0, NEVER, reply_to=reply_to)
        await self.kernel.accept(self.key, message, operation_id, fresh=fresh, unique=unique)
        await self.kernel.drive(self.key)
        while self.tools.ready:
            await self.kernel.add_result(*self.tools.ready.pop())
        # The agent's backlog is counted beside it, every ten seconds.
        took = [request for request in self.requests if request != "GET aosdue"]
        assert (await self.kernel.operation(operation_id)).status == "completed"
        return took


@pytest.fixture
async def turns(storage_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Turns]:
    # Of its own: a connection that rested since another test may be closed by the service, and tried once more.
    account = StorageAccount(storage_settings)
    for table in ("aosoperations", "aosdue", "aosconversations", "aoscounters"):
        await account.table(table)
    turns = Turns(account, monkeypatch)
    await turns.turn("the first one", fresh=True)
    yield turns
    await account.close()


async def test_a_turn_that_somebody_waits_for(turns: Turns) -> None:
    """Accepted; lease and turn saved; model; answer saved and lease freed; then looked at once more, and counted."""
    assert await turns.turn("hello") == [*ACCEPT, SAVE, SAVE, *ENDED]


async def test_what_has_an_id_of_its_own_is_accepted_in_two_steps(turns: Turns) -> None:
    """The index, the look at what waits and the due entry at once, then the message."""
    took = await turns.turn("hello", unique=True)
    assert (sorted(took[:3]), took[3:]) == (sorted(ACCEPT[:3]), [SAVE, SAVE, SAVE, *ENDED])


async def test_a_new_conversation_needs_no_look_at_what_waits(turns: Turns) -> None:
    turns.key = turns.key._replace(conversation_id="another")
    expected = ["POST aosoperations", DUE, SAVE, SAVE, SAVE, *ENDED]
    assert await turns.turn("hello", fresh=True) == expected


async def test_a_reply_on_the_bus_costs_one_save(turns: Turns) -> None:
    """That it is out has to be known, so that it is not sent again."""
    reply_to = ReplyAddress("answers")
    assert await turns.turn("hello", reply_to=reply_to) == [*ACCEPT, SAVE, SAVE, SAVE, *ENDED]


async def test_a_tool_call_costs_four(turns: Turns) -> None:
    """The calls are saved, and that they are out; looked at once more; the result is stored."""
    call = [SAVE, SAVE, READ, "POST aosconversations"]
    assert await turns.turn("tool") == [*ACCEPT, SAVE, *call, SAVE, SAVE, *ENDED]
