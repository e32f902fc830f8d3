"""Messages that name no agent, with real agents, tables and the Foundry emulator."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aos.config import Settings
from aos.errors import FoundryUnavailable, UnknownAgent
from aos.foundry.responses import ResponsesAdapter
from aos.intake import Ask
from aos.kernel.types import Operation
from aos.routing import NoAgentFits, Router
from aos.storage.account import StorageAccount
from aos.storage.routes import TableRoutes
from aos.views import operation_view
from emulators.foundry import FoundryEmulator
from tests.agents.office import BASE, Office, agent_entry
from tests.foundry.project import Project, running
from tests.test_intake import House

RESPONSES = "POST /openai/v1/responses"


@pytest.fixture(scope="module")
async def project() -> AsyncIterator[Project]:
    async with running(FoundryEmulator()) as project:
        yield project


@pytest.fixture(scope="module")
async def account(storage_settings: Settings) -> AsyncIterator[StorageAccount]:
    account = StorageAccount(storage_settings)
    yield account
    await account.close()


def chooses(agent_id: str, reason: str = "It is about money.") -> str:
    """A message that has the offline model choose an agent."""
    return "@say " + json.dumps({"agent_id": agent_id, "reason": reason})


class Desk:
    def __init__(self, house: House, account: StorageAccount) -> None:
        self.house, self.office, self.account = house, house.office, account
        self.router = self.process()

    def process(self) -> Router:
        """A router of another process."""
        routes = TableRoutes(self.account)
        office = self.office
        return Router(self.house.kernel, office.directory, office.project.adapter, routes, BASE, office.clock)

    async def agents(self, *entries: dict[str, Any]) -> None:
        self.office.write(*entries)
        await self.office.directory.reload()

    async def ask(self, message: str, key: str | None = None, router: Router | None = None, **more: Any) -> Operation:
        ask = {name: more.pop(name) for name in ("conversation_id",) if name in more}
        asked = Ask(message=message, **ask)
        return await (router or self.router).query(asked, caller="app", idempotency_key=key, **more)

    async def steps(self) -> int:
        return await self.office.project.calls(RESPONSES)


@pytest.fixture
async def desk(tmp_path: Path, project: Project, account: StorageAccount) -> AsyncIterator[Desk]:
    house = House(Office(tmp_path, project, account))
    desk = Desk(house, account)
    await desk.agents(
        agent_entry("ceo", purpose="Strategy."),
        agent_entry("cfo", purpose="Money.", metadata={"routing": {"keywords": ["invoice"], "prefixes": ["finance:"]}}),
        agent_entry("cto", purpose="Technology.", metadata={"routing": {"keywords": ["invoice software"]}}),
    )
    yield desk
    await house.kernel.close(1)


async def test_a_rule_wins_and_the_model_is_not_asked(desk: Desk) -> None:
    before = await desk.steps()
    operation = await desk.ask("Finance: " + chooses("ceo"))
    assert await desk.steps() == before
    view = operation_view(operation)
    assert (view["routed_to"], view["agent_id"], view["routed_by"]) == ("cfo", "cfo", "rule")
    assert "'finance:'" in view["reason"]


async def test_else_the_model_chooses_once_and_the_reason_stays_in_the_operation(desk: Desk) -> None:
    before = await desk.steps()
    operation = await desk.ask(chooses("cto", "It is about machines."))
    assert await desk.steps() == before + 1
    stored = operation_view(await desk.house.kernel.operation(operation.operation_id))
    assert (stored["routed_to"], stored["routed_by"], stored["reason"]) == ("cto", "model", "It is about machines.")


async def test_among_agents_whose_rules_match_the_model_chooses(desk: Desk) -> None:
    operation = await desk.ask(f"{chooses('cto')}\nthe invoice software")
    assert (operation.agent_id, operation.routing and operation.routing.by) == ("cto", "model")
    with pytest.raises(NoAgentFits, match="'ceo'"):
        await desk.ask(f"{chooses('ceo')}\nthe invoice software")


@pytest.mark.parametrize("answer", ["@say the cfo, I think", "@say {}", chooses("nobody"), '@say {"agent_id": 7}'])
async def test_an_unusable_choice_goes_to_the_default_agent_or_is_an_error(desk: Desk, answer: str) -> None:
    with pytest.raises(NoAgentFits) as caught:
        await desk.ask(answer)
    assert '"default": true' in caught.value.detail
    await desk.agents(agent_entry("ceo"), agent_entry("coo", metadata={"routing": {"default": True}}))
    operation = await desk.ask(answer)
    assert (operation.agent_id, operation.routing and operation.routing.by) == ("coo", "default")


async def test_with_one_agent_nobody_chooses(desk: Desk) -> None:
    await desk.agents(agent_entry("ceo"), agent_entry("cfo", enabled=False))
    before = await desk.steps()
    operation = await desk.ask(chooses("cfo"))
    assert (operation.agent_id, operation.routing and operation.routing.by) == ("ceo", "only")
    assert await desk.steps() == before
    await desk.agents(agent_entry("cfo", enabled=False))
    with pytest.raises(UnknownAgent):
        await desk.ask("hello")


async def test_the_same_key_gets_the_same_agent(desk: Desk) -> None:
    key = uuid.uuid4().hex
    first = await desk.ask(chooses("cto"), key)
    before = await desk.steps()
    await desk.agents(agent_entry("ceo"), agent_entry("cto", metadata={"routing": {"keywords": ["nothing"]}}))
    again = await desk.ask(chooses("cto"), key, desk.process())
    assert (again.operation_id, again.agent_id, await desk.steps()) == (first.operation_id, "cto", before)


async def test_a_conversation_stays_with_its_agent(desk: Desk) -> None:
    mine = uuid.uuid4().hex
    await desk.ask(chooses("cto"), conversation_id=mine)
    goes_on = await desk.ask("finance: and what does it cost?", conversation_id=mine, router=desk.process())
    assert (goes_on.agent_id, goes_on.routing and goes_on.routing.by) == ("cto", "conversation")
    begun = await desk.ask(chooses("ceo"))
    goes_on = await desk.ask("finance: and what does it cost?", conversation_id=begun.conversation_id)
    assert goes_on.agent_id == "ceo"
    await desk.agents(agent_entry("ceo"), agent_entry("cfo"), agent_entry("cto", enabled=False))
    anew = await desk.ask(chooses("cfo"), conversation_id=mine)
    assert (anew.agent_id, anew.routing and anew.routing.by) == ("cfo", "model")


async def test_of_two_processes_that_choose_at_once_the_first_counts(desk: Desk) -> None:
    mine = uuid.uuid4().hex
    routes = TableRoutes(desk.account)
    assert [await routes.choose(mine, "cto"), await routes.choose(mine, "cfo")] == ["cto", "cto"]
    assert [await routes.choose(mine, "cfo", "ceo"), await routes.choose(mine, "cfo", "cto")] == ["cto", "cfo"]


async def test_nobody_is_chosen_whom_the_caller_may_not_ask(desk: Desk) -> None:
    mine = uuid.uuid4().hex
    with pytest.raises(NoAgentFits):
        await desk.ask(chooses("cto"), may=lambda agent_id: agent_id != "cto")
    await desk.ask(chooses("cto"), conversation_id=mine)
    with pytest.raises(UnknownAgent, match="may not"):
        await desk.ask("and now?", conversation_id=mine, may=lambda agent_id: agent_id != "cto")


async def test_a_model_that_is_down_is_no_reason_for_a_guess(desk: Desk) -> None:
    await desk.office.project.fail(503, "responses", times=1)
    key = uuid.uuid4().hex
    with pytest.raises(FoundryUnavailable):
        await desk.ask(chooses("cto"), key)
    assert (await desk.ask(chooses("cto"), key)).agent_id == "cto"


async def test_a_router_that_was_deleted_in_foundry_is_made_again(desk: Desk) -> None:
    await desk.ask(chooses("cto"))
    adapter = desk.office.project.adapter
    assert isinstance(adapter, ResponsesAdapter)
    listed = await adapter.list_agents()
    (name,) = [name for name, known in listed.items() if known.agent_id == "aos.router"]
    await desk.office.project.delete_agent(name)
    assert (await desk.ask(chooses("cto"))).agent_id == "cto"
