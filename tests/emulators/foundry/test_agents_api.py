from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx2
import openai
import pytest
from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import (
    FunctionTool,
    HostedAgentDefinition,
    ModelDeployment,
    PageOrder,
    PromptAgentDefinition,
    Tool,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from openai import AsyncOpenAI
from starlette.applications import Starlette

from emulators.foundry import FoundryEmulator
from emulators.foundry.agents_api import MAX_VERSIONS, AgentsApi
from emulators.foundry.edge import Edge
from emulators.foundry.state import State

Connect = Callable[[str], AbstractAsyncContextManager[tuple[AIProjectClient, AsyncOpenAI]]]
DEFINITION = PromptAgentDefinition(model="llama-3.3-70b-ceo", instructions="You lead.")
OBJECT_SCHEMA = {"type": "object", "properties": {}}


async def test_every_create_makes_a_new_version_that_keeps_all_it_was_given(project: AIProjectClient) -> None:
    tool = FunctionTool(name="get_kpis", description="Key figures", parameters=OBJECT_SCHEMA, strict=False)
    definition = PromptAgentDefinition(
        model="llama-3.3-70b-ceo", instructions="You lead.", tools=[tool], temperature=0.2, top_p=0.9
    )
    first = await project.agents.create_version(
        "versions", definition=definition, description="the boss", metadata={"hash": "1"}
    )
    second = await project.agents.create_version("versions", definition=definition)
    assert (first.name, first.version, first.id) == ("versions", "1", "versions:1")
    assert (first.description, first.metadata, first.status, first.object) == (
        "the boss",
        {"hash": "1"},
        "active",
        "agent.version",
    )
    assert second.version == "2"
    agent = await project.agents.get("versions")
    assert (agent.id, agent.name, agent.state, agent.versions.latest.version) == (
        "versions",
        "versions",
        "enabled",
        "2",
    )
    stored = await project.agents.get_version("versions", "1")
    assert stored.definition.as_dict() == definition.as_dict()
    assert stored.created_at == first.created_at


async def test_a_draft_is_not_the_latest(project: AIProjectClient) -> None:
    await project.agents.create_version("drafted", definition=DEFINITION)
    await project.agents.create_version("drafted", definition=DEFINITION, draft=True)
    assert (await project.agents.get("drafted")).versions.latest.version == "1"
    assert [v.version async for v in project.agents.list_versions("drafted")] == ["1"]
    assert [v.version async for v in project.agents.list_versions("drafted", include_drafts=True)] == ["2", "1"]


async def test_versions_are_deleted_one_by_one_and_numbers_are_not_used_again(project: AIProjectClient) -> None:
    for _ in range(3):
        await project.agents.create_version("shrinking", definition=DEFINITION)
    deleted = await project.agents.delete_version("shrinking", "3")
    assert (deleted.object, deleted.name, deleted.version, deleted.deleted) == (
        "agent.version.deleted",
        "shrinking",
        "3",
        True,
    )
    assert (await project.agents.create_version("shrinking", definition=DEFINITION)).version == "4"
    for version in ("1", "2", "4"):
        await project.agents.delete_version("shrinking", version)
    with pytest.raises(ResourceNotFoundError):
        await project.agents.get("shrinking")


async def test_delete_agent(project: AIProjectClient) -> None:
    await project.agents.create_version("gone", definition=DEFINITION)
    deleted = await project.agents.delete("gone")
    assert (deleted.object, deleted.name, deleted.deleted) == ("agent.deleted", "gone", True)
    for call in (
        lambda: project.agents.get("gone"),
        lambda: project.agents.delete("gone"),
        lambda: project.agents.get_version("gone", "1"),
        lambda: project.agents.delete_version("gone", "1"),
    ):
        with pytest.raises(ResourceNotFoundError) as caught:
            await call()
        assert error_code(caught.value) == "not_found"
    with pytest.raises(ResourceNotFoundError):
        [v async for v in project.agents.list_versions("gone")]


async def test_lists_are_paged_to_their_end_in_both_orders(connect: Connect) -> None:
    async with FoundryEmulator() as emulator, connect(emulator.endpoint) as (project, _):
        names = [f"agent-{number}" for number in range(7)]
        for name in names:
            await project.agents.create_version(name, definition=DEFINITION)
        agents = project.agents
        assert [a.name async for a in agents.list(limit=3)] == names[::-1]
        assert [a.name async for a in agents.list(limit=3, order=PageOrder.ASC)] == names
        assert await first_page(emulator, "/agents?order=asc&after=agent-4") == (names[5:], False)
        assert [a.name async for a in agents.list(kind="hosted")] == []
        before = await first_page(emulator, "/agents?order=asc&limit=2&before=agent-4")
        assert before == (["agent-2", "agent-3"], True)
        before = await first_page(emulator, "/agents?order=desc&limit=9&before=agent-4")
        assert before == (["agent-6", "agent-5"], False)
        for _ in range(4):
            await agents.create_version("agent-0", definition=DEFINITION)
        assert [v.version async for v in agents.list_versions("agent-0", limit=2)] == ["5", "4", "3", "2", "1"]
        after = await first_page(emulator, "/agents/agent-0/versions?order=asc&limit=2&after=agent-0:2")
        assert after == (["agent-0:3", "agent-0:4"], True)


async def first_page(emulator: FoundryEmulator, path: str) -> tuple[list[str], bool]:
    async with httpx2.AsyncClient(headers={"api-key": "local"}) as http:
        body = (await http.get(f"{emulator.endpoint}{path}&api-version=v1")).json()
    return [entry["id"] for entry in body["data"]], body["has_more"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=\u00b2",
        "limit=" + "9" * 5000,
        "order=up",
        "after=nobody",
        "before=nobody",
    ],
)
async def test_a_bad_page_is_refused(http: httpx2.AsyncClient, query: str) -> None:
    answer = await http.get(f"/agents?api-version=v1&{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_payload"


async def test_deployments_are_listed_and_found(project: AIProjectClient) -> None:
    names = [d.name async for d in project.deployments.list()]
    assert names == sorted(["llama-3.3-70b", *(f"llama-3.3-70b-{r}" for r in ("ceo", "cfo", "cto", "cmo", "coo"))])
    one = await project.deployments.get("llama-3.3-70b-cfo")
    assert isinstance(one, ModelDeployment)
    assert (one.model_name, one.model_publisher, one.sku.capacity) == ("Llama-3.3-70B-Instruct", "Meta", 1)
    assert [d.name async for d in project.deployments.list(model_publisher="Mistral")] == []
    with pytest.raises(ResourceNotFoundError) as caught:
        await project.deployments.get("gpt-9")
    assert error_code(caught.value) == "DeploymentNotFound"


async def test_a_list_of_deployments_restricts_what_agents_may_use(connect: Connect) -> None:
    async with FoundryEmulator(deployments=["only-one"]) as emulator, connect(emulator.endpoint) as (project, runtime):
        assert [d.name async for d in project.deployments.list()] == ["only-one"]
        with pytest.raises(HttpResponseError) as caught:
            await project.agents.create_version("ceo", definition=DEFINITION)
        assert (caught.value.status_code, error_code(caught.value)) == (400, "DeploymentNotFound")
        await project.agents.create_version("ceo", definition=PromptAgentDefinition(model="only-one"))
        with pytest.raises(openai.NotFoundError) as unknown:
            await runtime.responses.create(model="llama-3.3-70b", input="hi")
        assert unknown.value.code == "DeploymentNotFound"


def error_of(error: HttpResponseError) -> tuple[str, str | None]:
    """Code and param of a refusal."""
    assert error.response is not None
    body = json.loads(error.response.text())["error"]
    return body["code"], body["param"]


def error_code(error: HttpResponseError) -> str:
    return error_of(error)[0]


@pytest.mark.parametrize("name", ["a" * 64, "-a", "a-", "a_b", "a.b", "ä"])
async def test_a_bad_agent_name_is_refused(project: AIProjectClient, name: str) -> None:
    with pytest.raises(HttpResponseError) as caught:
        await project.agents.create_version(name, definition=DEFINITION)
    assert (caught.value.status_code, error_code(caught.value)) == (400, "invalid_agent_name")


@pytest.mark.parametrize("name", ["a", "a" * 63, "A-1-b"])
async def test_a_good_agent_name_is_taken(project: AIProjectClient, name: str) -> None:
    assert (await project.agents.create_version(name, definition=DEFINITION)).name == name


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({f"k{number}": "v" for number in range(17)}, "metadata"),
        ({"k" * 65: "v"}, "metadata"),
        ({"k": "v" * 513}, "metadata.k"),
    ],
)
async def test_metadata_has_bounds(project: AIProjectClient, metadata: dict[str, str], field: str) -> None:
    with pytest.raises(HttpResponseError) as caught:
        await project.agents.create_version("bounds", definition=DEFINITION, metadata=metadata)
    code, param = error_of(caught.value)
    assert (caught.value.status_code, code) == (400, "invalid_payload")
    assert (param or "").startswith(field)


async def test_the_largest_metadata_is_taken(project: AIProjectClient) -> None:
    metadata = {f"{number:064}": "v" * 512 for number in range(16)}
    assert (
        await project.agents.create_version("bounds", definition=DEFINITION, metadata=metadata)
    ).metadata == metadata


def tools(count: int) -> list[Tool]:
    return [FunctionTool(name=f"t{n}", description="", parameters=OBJECT_SCHEMA, strict=False) for n in range(count)]


async def test_128_tools_are_taken_and_129_are_not(project: AIProjectClient) -> None:
    await project.agents.create_version(
        "many", definition=PromptAgentDefinition(model="llama-3.3-70b", tools=tools(128))
    )
    with pytest.raises(HttpResponseError) as caught:
        await project.agents.create_version(
            "many", definition=PromptAgentDefinition(model="llama-3.3-70b", tools=tools(129))
        )
    assert (caught.value.status_code, error_code(caught.value)) == (400, "tool_limit_exceeded")


@pytest.mark.parametrize(
    ("tool", "code"),
    [
        ({"type": "function", "name": "no spaces", "parameters": OBJECT_SCHEMA}, "invalid_payload"),
        ({"type": "function", "name": "n" * 65, "parameters": OBJECT_SCHEMA}, "invalid_payload"),
        ({"type": "function", "name": "a", "parameters": {"type": "array"}}, "invalid_function_parameters"),
        ({"type": "function", "name": "a", "strict": True, "parameters": OBJECT_SCHEMA}, "invalid_function_parameters"),
        (
            {
                "type": "function",
                "name": "a",
                "strict": True,
                "parameters": {
                    "type": "object",
                    "properties": {"x": {"type": "string"}},
                    "additionalProperties": False,
                    "required": [],
                },
            },
            "invalid_function_parameters",
        ),
        ({"name": "a"}, "invalid_payload"),
        ("text", "invalid_payload"),
    ],
)
async def test_a_bad_tool_is_refused(http: httpx2.AsyncClient, tool: object, code: str) -> None:
    body = {"definition": {"kind": "prompt", "model": "llama-3.3-70b", "tools": [tool]}}
    answer = await http.post("/agents/tooled/versions?api-version=v1", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert answer.json()["error"]["param"].startswith("definition.tools[0]")


async def test_a_tool_name_given_twice_is_refused_and_a_strict_tool_may_be_right(http: httpx2.AsyncClient) -> None:
    parameters = {
        "type": "object",
        "properties": {"x": {"type": "string"}},
        "additionalProperties": False,
        "required": ["x"],
    }
    tool = {"type": "function", "name": "a", "strict": True, "parameters": parameters}
    definition = {"kind": "prompt", "model": "llama-3.3-70b", "tools": [tool]}
    assert (await http.post("/agents/t/versions?api-version=v1", json={"definition": definition})).status_code == 200
    definition["tools"] = [tool, tool]
    assert (await http.post("/agents/t/versions?api-version=v1", json={"definition": definition})).status_code == 400


async def test_only_prompt_agents_are_served(project: AIProjectClient) -> None:
    with pytest.raises(HttpResponseError) as caught:
        await project.agents.create_version("hosted", definition=HostedAgentDefinition(cpu="1", memory="2Gi"))
    assert caught.value.status_code == 400


async def test_an_agent_has_at_most_a_thousand_versions() -> None:
    state = State()
    for _ in range(MAX_VERSIONS):
        state.create_version("ceo", {"definition": {}})
    state.replace_deployments([{"name": "m"}])
    app = Starlette(routes=AgentsApi(state).routes(Edge("")))
    body = {"definition": {"kind": "prompt", "model": "m"}}
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://local", headers={"api-key": "k"}) as client:
        answer = await client.post("/agents/ceo/versions?api-version=v1", json=body)
    state.close()
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "agent_version_limit_exceeded")
