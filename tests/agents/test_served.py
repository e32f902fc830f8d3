"""What is left to the service: connected agents, and Azure Functions, of the threads generation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aos.agents.connected import service_agent
from aos.errors import UnknownAgent
from aos.mcp.functions import ToolNamesCollide
from aos.registry.agents import AgentEntry
from aos.storage.account import StorageAccount
from tests.agents.office import Office, agent_entry
from tests.foundry.project import Project

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "outputqueueuri": {"type": "string"}}}
DOUBLE = {"name": "double", "description": "Doubles.", "parameters": SCHEMA, "execution": "service"}
ENDPOINT = "http://127.0.0.1:10001/devstoreaccount1"


@pytest.fixture
async def threads(tmp_path: Path, project: Project, account: StorageAccount) -> AsyncIterator[Office]:
    older = Project(project.emulator, "threads")
    older.adapter = older.any_adapter()
    office = Office(tmp_path, older, account)
    office.clock.stand()
    yield office
    await older.close()


async def tools(office: Office, assistant_id: str) -> list[dict[str, Any]]:
    assistant = await office.project.clients.agents.get_agent(assistant_id)
    found: list[dict[str, Any]] = assistant.as_dict()["tools"]
    return found


def chief(name: str, *others: str, **more: Any) -> dict[str, Any]:
    return agent_entry(name, connected_agents=list(others), delegation="service", **more)


async def test_connected_agents_are_made_first_and_known_by_their_ids(threads: Office) -> None:
    threads.write(chief("head1", "hand1", "off1"), agent_entry("hand1"), agent_entry("off1", enabled=False))
    head = await threads.directory.bind("head1")
    hand = threads.directory.bound("hand1")
    assert hand is not None
    (tool,) = await tools(threads, head.ref.version)
    assert tool["connected_agent"]["id"] == hand.ref.version
    assert tool["connected_agent"]["description"].startswith("Ask agent hand1, and get its answer. Its purpose: ")
    assert (head.tools.names, head.served.names) == ([], [tool["connected_agent"]["name"]])
    assert await threads.directory.bind("head1") is head


async def test_a_connected_agent_that_is_made_again_makes_the_other_one_again(threads: Office) -> None:
    threads.write(chief("head2", "hand2"), agent_entry("hand2"))
    first = await threads.directory.bind("head2")
    threads.write(chief("head2", "hand2"), agent_entry("hand2", system_message="Be quick."))
    threads.later(20.0)
    second = await threads.directory.bind("head2")
    hand = threads.directory.bound("hand2")
    assert hand is not None
    assert second.ref.version != first.ref.version
    assert [tool["connected_agent"]["id"] for tool in await tools(threads, second.ref.version)] == [hand.ref.version]


async def test_one_that_was_stopped_is_left_out(threads: Office) -> None:
    threads.write(chief("head3", "hand3"), agent_entry("hand3"))
    await threads.desired.order("hand3", "stop")
    try:
        assert (await threads.directory.bind("head3")).served.names == []
    finally:
        await threads.desired.order("hand3", "start")
    threads.later(10.0)
    assert len((await threads.directory.bind("head3")).served.names) == 1


async def test_what_was_deleted_in_foundry_is_made_again_with_those_it_is_connected_to(threads: Office) -> None:
    threads.write(chief("head4", "hand4"), agent_entry("hand4"))
    head = await threads.directory.bind("head4")
    await threads.project.delete_agent("hand4")
    before = threads.directory.bound("hand4")
    await threads.directory.forget("head4")
    again = await threads.directory.bind("head4")
    after = threads.directory.bound("hand4")
    assert before is not None
    assert after is not None
    assert after.ref.version != before.ref.version
    assert again.ref.version != head.ref.version


async def test_an_agent_that_the_service_cannot_run_is_refused_by_name(threads: Office) -> None:
    threads.write(chief("head5", "hand5"), chief("hand5", "head5"))
    with pytest.raises(UnknownAgent, match=r"/agents/0/connected_agents/0: The service cannot run agent 'hand5'"):
        await threads.directory.bind("head5")


async def test_the_current_generation_refuses_with_the_remedy(office: Office) -> None:
    office.write(chief("head6", "hand6"), agent_entry("hand6"))
    with pytest.raises(UnknownAgent, match=r'/agents/0/delegation: .* leave it at "aos".*FOUNDRY_API=threads'):
        await office.directory.bind("head6")


async def function_of_the_service(at: Office) -> str:
    """Binds an agent with one function of each kind; returns its version."""
    bridged = DOUBLE | {"name": "triple", "execution": "aos"}
    at.write(agent_entry("teller1", azure_functions=[DOUBLE, bridged]))
    bound = await at.directory.bind("teller1")
    assert (bound.tools.names, bound.served.names) == (["triple"], ["double"])
    assert at.queues == ["azure-function-double-input", "azure-function-double-output"]
    (function,) = bound.served.functions
    assert (function.endpoint, function.input_queue) == (ENDPOINT, "azure-function-double-input")
    shown = function.definition.parameters["properties"]["outputqueueuri"]
    assert shown == {"type": "string", "enum": [f"{ENDPOINT}/azure-function-double-output"]}
    return bound.ref.version


async def test_a_function_of_the_service_has_its_queues_and_no_address_but_one(threads: Office) -> None:
    version = await function_of_the_service(threads)
    assert {tool["type"] for tool in await tools(threads, version)} == {"function", "azure_function"}


async def test_so_it_has_on_the_current_generation(office: Office) -> None:
    version = await function_of_the_service(office)
    made = await office.project.clients.project.agents.get_version("teller1", version)
    shown = made.as_dict()["definition"]["tools"]
    assert {tool["type"] for tool in shown} == {"function", "azure_function"}
    assert "double" in [tool["azure_function"]["function"]["name"] for tool in shown if "azure_function" in tool]


async def test_two_tools_of_one_name_are_refused(threads: Office) -> None:
    asking = chief("head7", "double", azure_functions=[DOUBLE | {"name": "ask_double"}])
    threads.write(asking, agent_entry("double"))
    with pytest.raises(ToolNamesCollide, match="'ask_double'"):
        await threads.directory.bind("head7")


def test_names_for_the_service_have_letters_and_underscores_only_and_differ() -> None:
    ids = ["cfo", "cfo_", "cfo-1", "cfo_1", "a" * 48, "1" * 48, "1" * 47 + "-"]
    names = [service_agent(AgentEntry.model_validate(agent_entry(agent_id)), "x").name for agent_id in ids]
    assert names[:2] == ["ask_cfo", "ask_cfo_"]
    assert len(set(names)) == len(ids)
    assert all(name.replace("_", "").isalpha() and name.isascii() and len(name) <= 64 for name in names)
