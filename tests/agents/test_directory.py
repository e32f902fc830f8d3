from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import replace

import pytest

from aos.errors import AgentDisabled, AgentNotReady, BusUnavailable, UnknownAgent
from aos.kernel.types import FunctionCall
from aos.mcp.tools import ToolInfo
from aos.messaging.envelopes import ToolRequest, parse_body
from tests.agents.office import LOOKUP, Office, agent_entry, server_entry

_numbers = itertools.count(1)
CREATE, FIND = "POST /agents/{name}/versions", "GET /agents/{name}"


def an_agent() -> str:
    return f"manager{next(_numbers)}"


def a_server() -> str:
    """The id of a server that nobody has listed: the catalogue is shared by all tests."""
    return f"ledger-{uuid.uuid4().hex[:8]}"


async def foundry_calls(office: Office) -> int:
    return await office.project.calls(CREATE) + await office.project.calls(FIND)


async def ready(office: Office) -> tuple[str, str]:
    """An agent with one tool, as the registries and the catalogue know it."""
    agent, server = an_agent(), a_server()
    office.write(agent_entry(agent, (server, "lookup")), servers=[server_entry(server, timeout_seconds=10)])
    await office.list_tools(server)
    return agent, server


async def test_an_agent_is_bound_to_its_version_and_its_tools(office: Office) -> None:
    agent, server = await ready(office)
    assert office.directory.bound(agent) is None
    bound = await office.directory.bind(agent)
    assert (bound.ref.name, bound.ref.version, bound.ref.deployment) == (agent, "1", "llama-3.3-70b-ceo")
    planned = bound.plan(FunctionCall("c", bound.tools.names[0], '{"year": 2024}'))
    assert (planned.server, planned.tool, planned.time_limit) == (server, "lookup", 10 * 4 + 90)
    assert office.directory.bound(agent) is bound


async def test_an_agent_may_name_the_server_and_have_no_tools(office: Office) -> None:
    agent, other, server = an_agent(), an_agent(), a_server()
    office.write(agent_entry(agent, (server.title(), "lookup")), agent_entry(other), servers=[server_entry(server)])
    await office.list_tools(server)
    assert (await office.directory.bind(agent)).tools.definitions[0].description == LOOKUP.description
    assert (await office.directory.bind(other)).tools.names == []


async def test_what_has_not_changed_asks_nobody(office: Office) -> None:
    agent, _ = await ready(office)
    bound = await office.directory.bind(agent)
    before = await foundry_calls(office)
    assert await office.directory.bind(agent) is bound
    office.later(60)
    assert await office.directory.bind(agent) is bound
    assert await foundry_calls(office) == before


async def test_many_at_once_make_one_version(office: Office) -> None:
    agent, _ = await ready(office)
    before = await office.project.calls(CREATE)
    bound = await asyncio.gather(*(office.directory.bind(agent) for _ in range(20)))
    assert len(set(map(id, bound))) == 1
    assert await office.project.calls(CREATE) == before + 1


async def test_a_changed_entry_is_bound_anew(office: Office) -> None:
    agent, server = await ready(office)
    await office.directory.bind(agent)
    office.write(agent_entry(agent, (server, "lookup"), purpose="To change."), servers=[server_entry(server)])
    assert (await office.directory.bind(agent)).ref.version == "1", "not looked at yet"
    office.later(16)
    bound = await office.directory.bind(agent)
    assert bound.ref.version == "2"
    assert "To change." in bound.agent.instructions


async def test_changed_tools_are_bound_anew(office: Office) -> None:
    agent, server = await ready(office)
    await office.directory.bind(agent)
    await office.list_tools(server, LOOKUP.model_copy(update={"description": "Looks much better."}))
    bound = await office.directory.bind(agent)
    assert (bound.ref.version, bound.tools.definitions[0].description) == ("2", "Looks much better.")


async def test_changed_time_outs_count_without_a_new_version(office: Office) -> None:
    agent, server = await ready(office)
    before = await office.directory.bind(agent)
    changed = server_entry(server, timeout_seconds=20, max_retries=0)
    office.write(agent_entry(agent, (server, "lookup")), servers=[changed])
    office.later(16)
    bound = await office.directory.bind(agent)
    assert bound.ref == before.ref
    assert bound.plan(FunctionCall("c", bound.tools.names[0], '{"year": 1}')).time_limit == 20 + 90


async def test_an_unknown_agent_names_those_there_are(office: Office) -> None:
    office.write(agent_entry("cfo"), agent_entry("cto"))
    with pytest.raises(UnknownAgent, match=r"'nobody'.*cfo, cto"):
        await office.directory.bind("nobody")
    office.write()
    office.later(16)
    with pytest.raises(UnknownAgent, match="none"):
        await office.directory.entry("nobody")


async def test_a_bad_entry_says_why(office: Office) -> None:
    office.write(agent_entry("cfo", purpose=""), agent_entry("cto", ("nowhere", "lookup")))
    with pytest.raises(UnknownAgent, match=r"'cfo' is wrong: /agents/0/purpose"):
        await office.directory.bind("cfo")
    with pytest.raises(UnknownAgent, match=r"'cto' is wrong: /agents/1/mcp_tools/0/server_name"):
        await office.directory.bind("cto")


async def test_for_an_unknown_agent_the_registry_is_read_at_most_every_ten_seconds(office: Office) -> None:
    await office.directory.registry()
    office.later(2)
    office.write(agent_entry("cfo"))
    assert (await office.directory.entry("cfo")).agent_id == "cfo", "a new agent is found at once"
    reads = office.source.reads
    for _ in range(5):
        office.later(1.5)
        with pytest.raises(UnknownAgent):
            await office.directory.entry("nobody")
    assert office.source.reads == reads
    office.later(4)
    with pytest.raises(UnknownAgent):
        await office.directory.entry("nobody")
    assert office.source.reads == reads + 1


async def test_a_registry_older_than_the_message_cannot_tell(office: Office) -> None:
    await office.directory.registry()
    office.later(2)
    came = office.clock.now()
    with pytest.raises(UnknownAgent):
        await office.directory.entry("nobody", since=came)
    office.later(3)
    office.write(agent_entry("cfo"))
    came = office.clock.now()
    with pytest.raises(AgentNotReady, match="'cfo'") as early:
        await office.directory.enabled_entry("cfo", since=came)
    assert early.value.retry_after is not None
    assert 5 < early.value.retry_after <= 10
    office.later(early.value.retry_after + 0.1)
    assert (await office.directory.enabled_entry("cfo", since=came)).agent_id == "cfo"


async def test_without_a_registry_messages_wait(office: Office) -> None:
    for content, code in (("{", "registry_invalid"), (None, "registry_missing")):
        path = office.source.origin.removeprefix("file ")
        with open(path, "w") as file:  # noqa: ASYNC230 - a few bytes
            file.write(content or "")
        if content is None:
            (office._folder / "agents.json").unlink()
        office.later(2)
        with pytest.raises(AgentNotReady) as waiting:
            await office.directory.bind("cfo")
        assert waiting.value.code == code
    office.write(agent_entry("cfo"))
    office.later(2)
    assert (await office.directory.entry("cfo")).agent_id == "cfo"


async def test_a_disabled_agent(office: Office) -> None:
    office.write(agent_entry("cfo", enabled=False))
    assert (await office.directory.entry("cfo")).enabled is False
    with pytest.raises(AgentDisabled, match="cfo"):
        await office.directory.bind("cfo")


async def test_tools_that_nobody_listed_are_asked_for_every_five_seconds(office: Office) -> None:
    agent, server = an_agent(), a_server()
    office.write(agent_entry(agent, (server, "lookup")), servers=[server_entry(server)])
    for _ in range(4):
        with pytest.raises(AgentNotReady, match=server) as waiting:
            await office.directory.bind(agent)
        assert waiting.value.retry_after == 1.0
        office.later(1.2)
    (message,) = office.to("mcp-requests")
    request = parse_body(ToolRequest, message.body)
    assert (request.server_id, request.method) == (server, "list_tools")
    office.later(1.2)
    with pytest.raises(AgentNotReady):
        await office.directory.bind(agent)
    ids = {message.message_id for message in office.to("mcp-requests")}
    assert len(ids) == 2
    await office.list_tools(server)
    assert (await office.directory.bind(agent)).tools.names


async def test_a_bus_that_is_down_does_not_hide_what_is_missing(office: Office) -> None:
    agent, server = an_agent(), a_server()
    office.write(agent_entry(agent, (server, "lookup")), servers=[server_entry(server)])
    office.outages.append(BusUnavailable("down"))
    with pytest.raises(AgentNotReady, match="has not listed"):
        await office.directory.bind(agent)


async def test_a_tool_that_the_server_does_not_have(office: Office) -> None:
    agent, server = an_agent(), a_server()
    office.write(agent_entry(agent, (server, "erase")), servers=[server_entry(server)])
    await office.list_tools(server)
    with pytest.raises(AgentNotReady, match=r"'erase'.*Its tools: lookup") as lacking:
        await office.directory.bind(agent)
    assert lacking.value.code == "unknown_tool"


async def test_a_tool_with_a_schema_of_no_use(office: Office) -> None:
    agent, server = an_agent(), a_server()
    office.write(agent_entry(agent, (server, "lookup")), servers=[server_entry(server)])
    await office.list_tools(server, ToolInfo(name="lookup", input_schema={"type": "objekt"}))
    with pytest.raises(AgentNotReady, match="schema of no use"):
        await office.directory.bind(agent)


async def test_a_server_that_is_switched_off_takes_its_tools_along(office: Office) -> None:
    agent, server, other = an_agent(), a_server(), a_server()
    entry = agent_entry(agent, (server, "lookup"), (other, "lookup"))
    office.write(entry, servers=[server_entry(server, enabled=False), server_entry(other)])
    await office.list_tools(other)
    bound = await office.directory.bind(agent)
    assert len(bound.tools.names) == 1
    assert office.sent == [], "nobody asks a server that is off"
    await office.list_tools(server)
    office.write(entry, servers=[server_entry(server), server_entry(other)])
    office.later(16)
    assert len((await office.directory.bind(agent)).tools.names) == 2


async def test_a_forgotten_agent_is_looked_up_again(office: Office) -> None:
    agent, _ = await ready(office)
    await office.directory.bind(agent)
    await office.project.delete_agent(agent)
    await office.directory.forget(agent)
    before = await office.project.calls(CREATE)
    bound = await office.directory.bind(agent)
    assert await office.project.calls(CREATE) == before + 1
    assert await office.project.versions(agent) == [bound.ref.version]


async def test_reload_reads_both_registries_now(office: Office) -> None:
    await office.directory.registry()
    office.later(2)
    office.write(agent_entry("cfo"))
    await office.directory.reload()
    assert "cfo" in (await office.directory.registry()).entries
    assert office.directory.unread == []


# --- definitions and generations


async def test_a_turn_ends_with_the_definition_that_it_began_with(office: Office) -> None:
    agent_id, server = an_agent(), a_server()
    office.write(agent_entry(agent_id, (server, "lookup")), servers=[server_entry(server)])
    await office.list_tools(server)
    began = await office.directory.bind(agent_id)
    call = FunctionCall("c", began.tools.names[0], '{"year": 2024}')
    office.write(agent_entry(agent_id, enabled=False))
    office.later(16)
    with pytest.raises(AgentDisabled):
        await office.directory.bind(agent_id)
    assert (await office.directory.bound_to(agent_id, began.ref)).plan(call).tool == "lookup"
    unknown = replace(began.ref, definition_hash="of a process that is no more")
    assert (await office.directory.bound_to(agent_id, unknown)).plan(call).refusal


async def test_the_generation_is_told_and_an_unchanged_agent_stays(office: Office) -> None:
    agent_id = an_agent()
    office.write(agent_entry(agent_id))
    before = await office.directory.bind(agent_id)
    assert before.ref.generation == office.directory.generation != ""
    seen = office.directory.seen()
    office.write(agent_entry(agent_id), agent_entry("another"))
    office.later(16)
    after = await office.directory.bind(agent_id)
    assert (after.ref.version, after.tools) == (before.ref.version, before.tools)
    assert after.ref.generation == office.directory.generation != before.ref.generation
    changes = office.directory.seen().since(seen)
    assert (changes["added"], changes["changed"], changes["removed"]) == (["another"], [], [])


async def test_an_agent_is_made_from_the_newest_registry_only(office: Office) -> None:
    agent_id = an_agent()
    office.write(agent_entry(agent_id, purpose="Old."))
    await office.directory.registry()
    office.write(agent_entry(agent_id, purpose="New."))
    office.later(2)
    bound = await office.directory.bind(agent_id)
    assert bound.agent.purpose == "New."
    assert bound.ref.version == "1", "the old one was never made"


async def test_a_tool_that_changed_holds_up_its_agent_and_no_other(office: Office) -> None:
    agent, other, server = an_agent(), an_agent(), a_server()
    agents = [agent_entry(agent, (server, "lookup")), agent_entry(other, (server, "save"))]
    office.write(*agents, servers=[server_entry(server)])
    save = LOOKUP.model_copy(update={"name": "save"})
    await office.list_tools(server, LOOKUP.model_copy(update={"changed": True}), save)
    with pytest.raises(AgentNotReady, match=rf"python -m aos tools approve {server} lookup") as held:
        await office.directory.bind(agent)
    assert held.value.code == "tool_changed"
    assert (await office.directory.bind(other)).tools.names == [f"{server}_save"]
    await office.list_tools(server, LOOKUP, save)
    assert (await office.directory.bind(agent)).tools.names == [f"{server}_lookup"]


async def test_the_entry_says_how_a_tool_is_used(office: Office) -> None:
    agent, server = an_agent(), a_server()
    entry = agent_entry(agent, (server, "lookup"))
    entry["mcp_tools"][0]["configuration"] = {"fixed": {"year": 2024}, "timeout_seconds": 7, "approval": "writes"}
    office.write(entry, servers=[server_entry(server)])
    await office.list_tools(server)
    bound = await office.directory.bind(agent)
    (definition,) = bound.tools.definitions
    assert definition.parameters["properties"] == {}
    planned = bound.plan(FunctionCall("c", definition.name, "{}"))
    assert (planned.call.arguments, planned.time_limit) == ('{"year": 2024}', 7)
    assert planned.approval is not LOOKUP.read_only


async def test_a_tool_that_is_named_in_two_ways_is_one_function(office: Office) -> None:
    agent, server = an_agent(), a_server()
    entry = agent_entry(agent, (server, "lookup"), (server.title(), "lookup"))
    entry["mcp_tools"][0]["configuration"] = {"fixed": {"year": 2024}}
    office.write(entry, servers=[server_entry(server)])
    await office.list_tools(server)
    (definition,) = (await office.directory.bind(agent)).tools.definitions
    assert definition.parameters["properties"] == {}, "what the first reference says holds"
