"""Tools that the service deals with itself, through both adapters."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from aos.errors import AgentGone, FoundryRefused
from aos.foundry.provisioning import definition_hash
from aos.kernel.ports import AgentSpec, ServiceAgent, ServiceFunction
from aos.kernel.types import AgentRef, ConversationKey
from tests.foundry.project import LOOKUP, Project, spec


@pytest.fixture
async def threads(shared_project: Project) -> AsyncIterator[Project]:
    project = Project(shared_project.emulator, "threads")
    project.adapter = project.any_adapter()
    yield project
    await project.heal()
    await project.close()


def ask(text: str) -> str:
    return f"@tool ask_hand {json.dumps({'query': text})}"


async def head(project: Project) -> tuple[AgentRef, AgentRef, str]:
    """An agent, the one that it is connected to, and a conversation."""
    hand = await project.adapter.ensure_agent(replace(spec(), functions=()))
    asking = replace(spec(), service_agents=(ServiceAgent("ask_hand", "Lends a hand.", hand.version),))
    made = await project.adapter.ensure_agent(asking)
    return made, hand, await project.adapter.open_conversation(ConversationKey(asking.agent_id, "c"))


async def test_the_service_has_the_connected_agent_answer(threads: Project) -> None:
    made, _, remote = await head(threads)
    reply = await threads.adapter.respond(made, remote, (), f"{ask('@say it is done')}", 20.0)
    assert (reply.calls, "it is done" in reply.text) == ((), True)
    kinds = [item.kind for item in await threads.adapter.items_after(remote, None)]
    assert kinds == ["user", "text"], "what the service called is no item"
    assert await threads.adapter.items_after(remote, reply.anchor) == []


async def test_a_step_with_both_kinds_comes_back_for_the_function_alone(threads: Project) -> None:
    made, _, remote = await head(threads)
    text = f'{ask("@say it is done")}\n@tool {LOOKUP.name} {{"year": 2025}}'
    reply = await threads.adapter.respond(made, remote, (), text, 20.0)
    assert [call.name for call in reply.calls] == [LOOKUP.name]
    # After a crash, the same is found.
    items = await threads.adapter.items_after(remote, None)
    assert [(item.kind, item.name) for item in items] == [("user", ""), ("call", LOOKUP.name)]


async def test_a_connected_agent_that_was_deleted_is_told_as_such(threads: Project) -> None:
    made, hand, remote = await head(threads)
    await threads.clients.agents.delete_agent(hand.version)
    with pytest.raises(AgentGone, match="ask_hand"):
        await threads.adapter.respond(made, remote, (), ask("@say never"), 20.0)


async def test_a_run_that_fails_with_all_agents_there_says_why(threads: Project) -> None:
    made, _, remote = await head(threads)
    with pytest.raises(FoundryRefused, match="no 'query'") as refused:
        await threads.adapter.respond(made, remote, (), "@tool ask_hand {}", 20.0)
    assert refused.value.code == "tool_user_error"


async def test_the_current_generation_refuses_connected_agents(project: Project) -> None:
    with pytest.raises(FoundryRefused, match='leave it at "aos", or run on FOUNDRY_API=threads') as refused:
        await project.adapter.ensure_agent(replace(spec(), service_agents=(ServiceAgent("ask_hand", "x", "1"),)))
    assert refused.value.code == "connected_agents_unavailable"


@pytest.mark.parametrize("api", ["threads", "responses"])
async def test_both_generations_take_functions_of_the_service(shared_project: Project, api: str) -> None:
    project = Project(shared_project.emulator, "threads" if api == "threads" else "responses")
    try:
        adapter = project.any_adapter()
        # Queues elsewhere are not called by the emulator, which says so: the call came as far as there.
        function = ServiceFunction(LOOKUP, "in-queue", "out-queue", "https://books.queue.core.windows.net")
        given = replace(spec(), functions=(), service_functions=(function,))
        made = await adapter.ensure_agent(given)
        remote = await adapter.open_conversation(ConversationKey(given.agent_id, uuid.uuid4().hex))
        reply = await adapter.respond(made, remote, (), f'@tool {LOOKUP.name} {{"year": 2025}}', 20.0)
        assert reply.calls == ()
        assert "on this machine only; this one is at books.queue.core.windows.net" in reply.text
        assert [item.kind for item in await adapter.items_after(remote, None)] == ["user", "text"]
        again = await adapter.respond(made, remote, (), "@say on", 20.0)
        assert again.text == "on"
    finally:
        await project.close()


def test_agents_without_such_tools_keep_the_hash_that_they_had() -> None:
    plain = AgentSpec("a", "llama", "Be brief.", (LOOKUP,))
    assert definition_hash(plain) == "4cea17a2599b7c612513bad1955985428dbeb57791ed6505d264886c62bdb967"
    agent, function = ServiceAgent("ask_b", "x", "asst_1"), ServiceFunction(LOOKUP, "i", "o", "https://q")
    others = [
        replace(plain, service_agents=(agent,)),
        replace(plain, service_agents=(replace(agent, version="asst_2"),)),
        replace(plain, service_functions=(function,)),
        replace(plain, service_functions=(replace(function, output_queue="p"),)),
    ]
    assert len({definition_hash(one) for one in (plain, *others)}) == 5
