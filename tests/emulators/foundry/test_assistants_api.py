from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import pytest
import pytest_asyncio
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    AgentThreadCreationOptions,
    FunctionDefinition,
    FunctionToolDefinition,
    ListSortOrder,
    MessageRole,
    ResponseFormatJsonSchema,
    ResponseFormatJsonSchemaType,
    ThreadMessageOptions,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from emulators.foundry import FoundryEmulator

Connect = Callable[[str], AgentsClient]
MODEL = "llama-3.3-70b"


@pytest_asyncio.fixture
async def fresh(connect_agents: Connect) -> AsyncIterator[AgentsClient]:
    async with FoundryEmulator() as emulator, connect_agents(emulator.endpoint) as client:
        yield client


async def test_an_assistant_keeps_all_it_was_given(agents: AgentsClient) -> None:
    tool = FunctionToolDefinition(
        function=FunctionDefinition(
            name="get_kpis",
            description="Key figures",
            parameters={"type": "object", "properties": {"of": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"minimum": 1}}},
        )
    )
    made = await agents.create_agent(
        model="llama-3.3-70b-cfo",
        name="Büro für Zahlen",
        description="figures",
        instructions="Count.",
        tools=[tool],
        temperature=0.2,
        top_p=0.9,
        metadata={"hash": "1"},
    )
    assert made.id.startswith("asst_")
    assert (made.object, made.model, made.name) == ("assistant", "llama-3.3-70b-cfo", "Büro für Zahlen")
    assert (made.description, made.instructions, made.temperature, made.top_p, made.metadata) == (
        "figures",
        "Count.",
        0.2,
        0.9,
        {"hash": "1"},
    )
    assert [found.as_dict() for found in made.tools] == [tool.as_dict()]
    assert (await agents.get_agent(made.id)).as_dict() == made.as_dict()


async def test_an_update_replaces_what_it_names_and_a_delete_is_final(agents: AgentsClient) -> None:
    made = await agents.create_agent(model=MODEL, name="a", instructions="Before.", metadata={"v": "1"})
    changed = await agents.update_agent(made.id, instructions="After.", metadata={"v": "2"})
    assert (changed.id, changed.name, changed.instructions, changed.metadata) == (made.id, "a", "After.", {"v": "2"})
    assert (await agents.get_agent(made.id)).instructions == "After."
    await agents.delete_agent(made.id)
    for gone in (agents.get_agent(made.id), agents.update_agent(made.id, name="b"), agents.delete_agent(made.id)):
        with pytest.raises(ResourceNotFoundError, match=made.id):
            await gone


async def test_paging_ends_and_follows_its_cursors(fresh: AgentsClient) -> None:
    assert [agent.id async for agent in fresh.list_agents()] == []
    made = [(await fresh.create_agent(model=MODEL, name=str(number))).id for number in range(5)]
    assert [agent.id async for agent in fresh.list_agents(limit=2)] == made[::-1]
    ascending = fresh.list_agents(limit=2, order=ListSortOrder.ASCENDING)
    assert [agent.id async for agent in ascending] == made
    assert [agent.id async for agent in fresh.list_agents(order=ListSortOrder.ASCENDING, limit=100)] == made
    before = fresh.list_agents(order=ListSortOrder.ASCENDING, before=made[2], limit=100).by_page()
    first_page = await before.__anext__()
    assert [agent.id async for agent in first_page] == made[:2]


async def test_the_envelope_of_a_page(http: httpx2.AsyncClient, agents: AgentsClient) -> None:
    made = [(await agents.create_agent(model=MODEL, name=str(number))).id for number in range(2)]
    page = (await http.get("/assistants", params={"api-version": "v1", "limit": 1})).json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", made[1], made[1], True)
    empty = (await http.get("/threads/none/messages", params={"api-version": "v1"})).json()
    assert empty["error"]["code"] == "not_found"
    past = {"api-version": "v1", "order": "asc", "after": made[1]}
    end = (await http.get("/assistants", params=past)).json()
    assert (end["data"], end["first_id"], end["last_id"], end["has_more"]) == ([], None, None, False)
    unknown = await http.get("/assistants", params={"api-version": "v1", "after": "asst_none"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "invalid_payload")


def tool(name: str) -> FunctionToolDefinition:
    return FunctionToolDefinition(function=FunctionDefinition(name=name, parameters={"type": "object"}))


@pytest.mark.parametrize(
    ("tools", "code", "message"),
    [
        ([tool(f"f{number}") for number in range(129)], "tool_limit_exceeded", "128"),
        ([tool("a"), tool("a")], "invalid_payload", "twice"),
        ([tool("a b")], "invalid_payload", r"tools\[0\].function.name"),
        (
            [FunctionToolDefinition(function=FunctionDefinition(name="a", parameters={"type": "array"}))],
            "invalid_function_parameters",
            "type object",
        ),
    ],
)
async def test_tools_are_checked(
    agents: AgentsClient, tools: list[FunctionToolDefinition], code: str, message: str
) -> None:
    with pytest.raises(HttpResponseError, match=message) as caught:
        await agents.create_agent(model=MODEL, tools=[*tools])
    assert caught.value.status_code == 400
    assert caught.value.error is not None
    assert caught.value.error.code == code


async def test_128_tools_are_allowed(agents: AgentsClient) -> None:
    made = await agents.create_agent(model=MODEL, tools=[tool(f"f{number}") for number in range(128)])
    assert len(made.tools) == 128


async def test_a_tool_without_its_function_is_refused(http: httpx2.AsyncClient) -> None:
    body = {"model": MODEL, "tools": [{"type": "function", "name": "flat"}]}
    answer = await http.post("/assistants?api-version=v1", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[0].function"


async def test_a_model_is_a_deployment(agents: AgentsClient) -> None:
    made = await agents.create_agent(model=MODEL)
    for refused in (agents.create_agent(model="gpt-none"), agents.update_agent(made.id, model="gpt-none")):
        with pytest.raises(HttpResponseError, match="gpt-none") as caught:
            await refused
        assert caught.value.error is not None
        assert (caught.value.status_code, caught.value.error.code) == (400, "DeploymentNotFound")


async def test_an_administrator_can_disable_the_protocol(connect_agents: Connect) -> None:
    async with FoundryEmulator(threads=False) as emulator, connect_agents(emulator.endpoint) as client:
        for refused in (
            client.create_agent(model=MODEL),
            client.update_agent("asst_x", name="a"),
            client.threads.create(),
            client.runs.create("thread_x", agent_id="asst_x"),
            client.create_thread_and_run(agent_id="asst_x"),
        ):
            with pytest.raises(HttpResponseError, match="MS-AOAI-Feature-Assistants=Disabled") as caught:
                await refused
            assert caught.value.status_code == 403
        assert [agent async for agent in client.list_agents()] == []


async def test_a_response_format_is_heeded(agents: AgentsClient) -> None:
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}
    wanted = ResponseFormatJsonSchemaType(json_schema=ResponseFormatJsonSchema(name="y", schema=schema))
    made = await agents.create_agent(model=MODEL, response_format=wanted)
    run = await agents.create_thread_and_process_run(
        agent_id=made.id,
        thread=AgentThreadCreationOptions(messages=[ThreadMessageOptions(role="user", content="The year 2025")]),
        polling_interval=0,
    )
    message = await agents.messages.get_last_message_text_by_role(run.thread_id, MessageRole.AGENT)
    assert message is not None
    assert message.text.value == '{"year": 2025}'


async def test_files_and_vector_stores_are_not_served(agents: AgentsClient, http: httpx2.AsyncClient) -> None:
    for refused in (agents.files.list(), agents.files.get("f"), agents.vector_stores.create(name="v")):
        with pytest.raises(HttpResponseError, match="no files and no vector stores") as caught:
            await refused
        assert caught.value.status_code == 501
    answer = await http.post("/files?api-version=v1", content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_implemented")


@pytest.mark.parametrize("path", ["/assistants", "/threads", "/threads/t/runs", "/files"])
async def test_the_edge_asks_for_credential_and_version(emulator: FoundryEmulator, path: str) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{emulator.endpoint}{path}?api-version=v1")
        assert answer.status_code == 401
        answer = await client.get(emulator.endpoint + path, headers={"authorization": "Bearer t"})
        assert answer.json()["error"]["code"] == "MissingApiVersionParameter"
