"""What every generation of the Foundry Agent Service has to do for the kernel, whichever adapter speaks to it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import pytest

from aos.errors import AgentGone, ConversationGone, FoundryRefused, FoundryUnavailable
from aos.foundry.provisioning import Provisioner
from aos.kernel.recovery import settle
from aos.kernel.types import ConversationKey, ToolOutput
from aos.storage.account import StorageAccount
from emulators.foundry import FoundryEmulator
from emulators.foundry.model import ModelError
from tests.foundry.pacing import HeldModel, PacedModel, Patience
from tests.foundry.project import DEPLOYMENT, Api, Project, running, spec
from tests.foundry.script import Script, calls, says
from tests.foundry.talk import Talk, talk

APIS: tuple[Api, ...] = ("responses", "threads")
CREATE = {"responses": "POST /agents/{name}/versions", "threads": "POST /assistants"}
DELETE = {"responses": "/agents/", "threads": "/assistants/"}
STEP = {"responses": "/responses", "threads": "/runs"}
LOOKUP = '@tool ledger_lookup {"year": 2024}\n@say done'


@pytest.fixture(scope="module", params=APIS)
async def either(request: pytest.FixtureRequest, shared_project: Project) -> AsyncIterator[Project]:
    project = Project(shared_project.emulator, request.param)
    yield project
    await project.close()


@pytest.fixture
async def project(either: Project) -> AsyncIterator[Project]:
    yield either
    await either.heal()


# --- agents


async def test_an_agent_is_made_once_found_again_and_made_anew_when_it_changes(project: Project) -> None:
    wanted = spec()
    first = await project.any_adapter().ensure_agent(wanted)
    assert await project.any_adapter().ensure_agent(wanted) == first, "found by its hash"
    assert await project.versions(first.name) == [first.version]
    changed = await project.any_adapter().ensure_agent(spec(wanted.agent_id, "Be thorough."))
    assert changed.version != first.version
    assert await project.versions(first.name) == [changed.version, first.version]


async def test_an_agent_is_removed_with_all_its_versions_and_made_again(
    project: Project, account: StorageAccount
) -> None:
    wanted = spec(f"a{uuid.uuid4().hex[:12]}z")
    adapter = project.any_adapter(Provisioner(account, scope=f"{project.api}.aos.test"))
    first = await adapter.ensure_agent(wanted)
    await adapter.ensure_agent(spec(wanted.agent_id, "Be thorough."))
    assert len(await project.versions(first.name)) == 2
    assert wanted.agent_id in await adapter.look_up_agents([])
    assert await adapter.remove_agent(wanted.agent_id)
    assert await project.versions(first.name) == []
    assert wanted.agent_id not in await adapter.look_up_agents([])
    assert not await adapter.remove_agent(wanted.agent_id), "it is gone already"
    again = await adapter.ensure_agent(wanted)
    assert await project.versions(first.name) == [again.version]


async def test_removing_leaves_alone_what_another_app_made(project: Project) -> None:
    wanted = spec()
    theirs = await project.any_adapter(app_name="other").ensure_agent(wanted)
    assert not await project.any_adapter().remove_agent(wanted.agent_id)
    assert await project.versions(theirs.name) == [theirs.version]
    if project.api == "responses":
        # They added a version of theirs to an agent of ours.
        ours = await project.any_adapter().ensure_agent(shared := spec())
        made = await project.any_adapter(app_name="other").create_agent(ours.name, shared, "hash")
        assert await project.any_adapter().remove_agent(shared.agent_id)
        assert await project.versions(ours.name) == [made]


async def test_an_agent_that_cannot_be_removed_now_is_removed_later(project: Project, account: StorageAccount) -> None:
    wanted = spec(f"a{uuid.uuid4().hex[:12]}z")
    adapter = project.any_adapter(Provisioner(account, scope=f"{project.api}.aos.test"))
    ref = await adapter.ensure_agent(wanted)
    await project.fail(503, DELETE[project.api], times=1, method="DELETE")
    with pytest.raises(FoundryUnavailable):
        await adapter.remove_agent(wanted.agent_id)
    assert wanted.agent_id in await adapter.look_up_agents([])
    assert await adapter.ensure_agent(wanted) == ref, "nothing was lost"
    assert await adapter.remove_agent(wanted.agent_id)
    assert await project.versions(ref.name) == []


async def test_a_turn_goes_on_with_the_version_it_began_with(project: Project) -> None:
    one = await talk(project)
    reply = await one.say(LOOKUP)
    await one.adapter.ensure_agent(spec(one.ref.name, "Other."))
    assert (await one.say(None, ToolOutput(reply.calls[0].call_id, "1"))).text == "done"


async def test_twenty_cold_starts_at_once_make_one(project: Project, account: StorageAccount) -> None:
    wanted = spec(f"a{uuid.uuid4().hex[:12]}z")
    scope = f"{project.api}.aos.test"
    adapters = [project.any_adapter(Provisioner(account, scope=scope)) for _ in range(20)]
    made = await project.calls(CREATE[project.api])
    refs = await asyncio.gather(*(adapter.ensure_agent(wanted) for adapter in adapters))
    assert set(refs) == {refs[0]}
    assert await project.calls(CREATE[project.api]) == made + 1
    assert await project.versions(wanted.agent_id) == [refs[0].version]


async def test_an_agent_deleted_outside_is_made_again(project: Project) -> None:
    one = await talk(project)
    await project.delete_agent(one.ref.name)
    with pytest.raises(AgentGone):
        await one.say("hello")
    await one.adapter.forget_agent(one.ref.name)
    one.ref = await one.adapter.ensure_agent(spec(one.ref.name))
    assert (await one.recovered("@say back")).text == "back"


async def test_another_app_in_the_project_is_left_alone(project: Project) -> None:
    wanted = spec()
    theirs = await project.any_adapter(app_name="other").ensure_agent(wanted)
    if project.api == "responses":
        with pytest.raises(FoundryRefused, match="did not make"):
            await project.any_adapter().ensure_agent(wanted)
    else:
        ours = await project.any_adapter().ensure_agent(wanted)
        assert ours.version != theirs.version, "names of assistants need not differ"
    assert theirs.version in await project.versions(theirs.name)


async def test_a_missing_deployment_names_those_there_are(project: Project) -> None:
    wanted = spec(deployment="llama-3.3-70b-cxo")
    with pytest.raises(FoundryRefused, match=rf"no deployment 'llama-3.3-70b-cxo'.*{DEPLOYMENT}") as refused:
        await project.any_adapter().ensure_agent(wanted)
    assert refused.value.code == "deployment_not_found"
    assert await project.versions(wanted.agent_id) == []


async def test_where_it_is_allowed_a_missing_deployment_is_replaced(project: Project) -> None:
    adapter = project.any_adapter(fallback=DEPLOYMENT)
    ref = await adapter.ensure_agent(spec(deployment="llama-3.3-70b-cxo"))
    assert ref.deployment == DEPLOYMENT
    remote_id = await adapter.open_conversation(ConversationKey("a", "b"))
    assert (await adapter.respond(ref, remote_id, (), "@say hi", 10)).model == DEPLOYMENT
    missing = project.any_adapter(fallback="llama-3.3-70b-nowhere")
    with pytest.raises(FoundryRefused, match="cxo"):
        await missing.ensure_agent(spec(deployment="llama-3.3-70b-cxo"))


# --- turns


async def test_a_conversation_remembers(project: Project) -> None:
    one = await talk(project)
    first = await one.say("@say one")
    second = await one.say("@say two")
    assert (first.text, second.text) == ("one", "two")
    assert first.calls == ()
    assert first.model == one.ref.deployment
    assert 0 < first.usage.input_tokens < second.usage.input_tokens
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    items = await one.adapter.items_after(one.remote_id, None)
    assert [(item.kind, item.text) for item in items] == [
        ("user", "@say one"),
        ("text", "one"),
        ("user", "@say two"),
        ("text", "two"),
    ]
    assert (items[1].item_id, items[3].item_id) == (first.anchor, second.anchor)
    assert await one.adapter.items_after(one.remote_id, first.anchor) == items[2:]
    assert await one.adapter.items_after(one.remote_id, items[0].item_id) == items[1:]


async def test_an_anchor_that_is_not_there_is_refused(project: Project) -> None:
    one = await talk(project)
    await one.say("@say one")
    with pytest.raises(FoundryRefused, match="msg_nowhere"):
        await one.adapter.items_after(one.remote_id, "msg_nowhere")


async def test_parallel_calls_are_answered_together(project: Project) -> None:
    one = await talk(project)
    reply = await one.say('@tool ledger_lookup {"year": 2024}\n@tool ledger_lookup {"year": 2025}\n@say done')
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [
        ("ledger_lookup", {"year": 2024}),
        ("ledger_lookup", {"year": 2025}),
    ]
    items = await one.adapter.items_after(one.remote_id, None)
    assert [item.kind for item in items] == ["user", "call", "call"]
    assert reply.anchor == items[-1].item_id
    assert [item.call_id for item in items[1:]] == [call.call_id for call in reply.calls]
    after = await one.say(None, *(ToolOutput(call.call_id, "1") for call in reply.calls))
    assert after.text == "done"
    assert await one.kinds(reply.anchor) == ["output", "output", "text"]


@pytest.mark.parametrize(
    "output", ["42", "null", '["error"]', "not json", "", '{"nested": {"error": 1}}', "ü \U0001f600"]
)
async def test_any_text_is_a_result(project: Project, output: str) -> None:
    one = await talk(project)
    reply = await one.say(LOOKUP)
    assert (await one.say(None, ToolOutput(reply.calls[0].call_id, output))).text == "done"


async def test_a_turn_of_several_tool_steps(project: Project) -> None:
    one = await talk(project)
    first = await one.say('@tool ledger_lookup {"year": 2024}')
    second = await one.say(None, ToolOutput(first.calls[0].call_id, "1"))
    assert second.text
    assert await one.kinds(first.anchor) == ["output", "text"]
    assert (await one.say("@say next")).text == "next"


# --- somebody listens


async def test_a_streamed_step_ends_like_one_that_is_not(project: Project) -> None:
    plain, heard = await talk(project), await talk(project)
    pieces: list[str] = []
    asked = f"{LOOKUP} and dusted"
    for one, on_text in ((plain, None), (heard, pieces.append)):
        first = await one.adapter.respond(one.ref, one.remote_id, (), asked, 10, on_text=on_text)
        assert [json.loads(call.arguments) for call in first.calls] == [{"year": 2024}]
        assert pieces == []
        output = ToolOutput(first.calls[0].call_id, "1")
        second = await one.adapter.respond(one.ref, one.remote_id, [output], None, 10, on_text=on_text)
        assert (second.text, second.calls) == ("done and dusted", ())
        items = await one.adapter.items_after(one.remote_id, None)
        assert [item.kind for item in items] == ["user", "call", "output", "text"]
        assert second.anchor == items[-1].item_id
    assert pieces == ["done ", "and ", "dusted"]


@pytest.mark.parametrize("api", APIS)
async def test_text_comes_before_the_end(api: Api) -> None:
    model, pieces, first = PacedModel(), list[str](), asyncio.Event()

    def hear(piece: str) -> None:
        pieces.append(piece)
        first.set()

    async with running(FoundryEmulator(model=model), api) as project:
        one = await talk(project)
        step = asyncio.create_task(one.adapter.respond(one.ref, one.remote_id, (), "@say a WAIT b", 60, on_text=hear))
        await asyncio.wait_for(first.wait(), 30)
        assert pieces == ["a "]
        assert not step.done()
        model.go.set()
        assert (await step).text == "".join(pieces) == "a WAIT b"


# --- after a crash


async def test_a_turn_that_was_interrupted_at_its_tools_goes_on_without_asking_again(project: Project) -> None:
    one = await talk(project)
    asked = await one.say(LOOKUP)
    other = Talk(project.any_adapter(), one.ref, one.remote_id)
    adopted = await other.recovered(LOOKUP)
    assert adopted.usage.adopted == 1
    assert (adopted.calls, adopted.anchor) == (asked.calls, asked.anchor)
    answered = await other.say(None, ToolOutput(adopted.calls[0].call_id, "7"))
    assert answered.text == "done"
    again = await one.recovered(None, ToolOutput(adopted.calls[0].call_id, "7"), anchor=asked.anchor)
    assert (again.text, again.usage.adopted, again.anchor) == ("done", 1, answered.anchor)


async def test_unanswered_calls_do_not_spoil_the_next_turn(project: Project) -> None:
    one = await talk(project)
    asked = await one.say(LOOKUP)
    items = await one.adapter.items_after(one.remote_id, None)
    settled = settle(items, None, ())
    assert [orphan.call_id for orphan in settled.orphans] == [asked.calls[0].call_id]
    after = await one.say("@say next", *settled.orphans)
    assert after.text == "next"
    assert (await one.kinds(settled.anchor))[-3:] == ["output", "user", "text"]
    assert (await one.say("@say more")).text == "more"


async def test_calls_that_appear_late_do_not_spoil_the_next_turn(project: Project) -> None:
    one = await talk(project)
    await one.say("@say before")
    known = (await one.adapter.items_after(one.remote_id, None))[-1].item_id
    await one.say(LOOKUP)  # as if nobody had waited for it
    assert (await one.recovered("@say next", anchor=known)).text == "next"
    assert (await one.say("@say more")).text == "more"


@pytest.mark.parametrize("api", APIS)
async def test_the_answer_to_a_step_that_timed_out_is_adopted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    model, patience = PacedModel(), Patience(monkeypatch)
    async with running(FoundryEmulator(model=model, on_disconnect="finish"), api) as project:
        one = await talk(project)
        asking = asyncio.create_task(one.say("@say WAIT", timeout=patience.SECONDS))
        await model.waits.wait()
        patience.end()
        with pytest.raises(FoundryUnavailable, match="in time") as late:
            await asking
        assert late.value.sent
        assert await one.kinds() == ["user"]
        with pytest.raises(FoundryUnavailable):
            await one.say(None, timeout=0.5)  # it still runs, and no second one begins
        model.go.set()
        async with asyncio.timeout(60):
            while await one.kinds() != ["user", "text"]:  # noqa: ASYNC110 - the service tells nobody
                await asyncio.sleep(0.02)
        recovered = await one.recovered("@say WAIT")
        assert (recovered.text, recovered.usage.adopted) == ("WAIT", 1)
        assert await one.kinds() == ["user", "text"], "asked once"
        assert (await one.say("@say next")).text == "next"


@pytest.mark.parametrize("api", APIS)
async def test_a_step_whose_process_was_cancelled_is_gone_on_with(api: Api) -> None:
    model = HeldModel()
    async with running(FoundryEmulator(model=model, on_disconnect="finish"), api) as project:
        one = await talk(project)
        asking = asyncio.create_task(one.say(LOOKUP))
        await model.began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        model.go.set()
        adopted = await one.recovered(LOOKUP)
        assert [call.name for call in adopted.calls] == ["ledger_lookup"]
        assert await one.kinds() == ["user", "call"], "asked once"


# --- what goes wrong


async def test_overload_says_when_to_come_back(project: Project) -> None:
    one = await talk(project)
    await project.fail(429, STEP[project.api], retry_after=50)
    with pytest.raises(FoundryUnavailable) as overloaded:
        async with asyncio.timeout(30):
            await one.say("@say after", timeout=100)
    assert overloaded.value.retry_after == 50
    assert (await one.recovered("@say after")).text == "after"
    assert await one.kinds() == ["user", "text"]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("code", ["rate_limit_exceeded", "server_error"])
async def test_a_step_that_failed_for_now_is_tried_again_without_its_input(api: Api, code: str) -> None:
    model = Script(ModelError(code, "Try again in 3 seconds."), says("at last"))
    async with running(FoundryEmulator(model=model), api) as project:
        one = await talk(project)
        with pytest.raises(FoundryUnavailable) as failed:
            await one.say("hello")
        assert (failed.value.code, failed.value.sent) == (code, True)
        assert (await one.recovered("hello")).text == "at last"
        assert await one.kinds() == ["user", "text"]


@pytest.mark.parametrize("api", APIS)
async def test_results_survive_a_step_that_failed_for_now(api: Api) -> None:
    busy = ModelError("rate_limit_exceeded", "Slow down.")
    model = Script(calls(("ledger_lookup", '{"year": 2024}')), busy, says("so 7"))
    async with running(FoundryEmulator(model=model), api) as project:
        one = await talk(project)
        asked = await one.say("What about 2024?")
        output = ToolOutput(asked.calls[0].call_id, "result-7")
        with pytest.raises(FoundryUnavailable):
            await one.say(None, output)
        assert (await one.recovered(None, output, anchor=asked.anchor)).text == "so 7"
        assert len(model.asked) == 3
        assert model.heard("result-7") == 1, "the model was told once"
        assert (await one.kinds(asked.anchor))[0] == "output"


@pytest.mark.parametrize("api", APIS)
async def test_arguments_that_are_no_json_arrive_as_they_are(api: Api) -> None:
    model = Script(calls(("ledger_lookup", "year=2024"), ("ledger_lookup", "")), says("sorry"))
    async with running(FoundryEmulator(model=model), api) as project:
        one = await talk(project)
        asked = await one.say("hello")
        assert [call.arguments for call in asked.calls] == ["year=2024", ""]
        outputs = [ToolOutput(call.call_id, '{"error": "no JSON"}') for call in asked.calls]
        assert (await one.say(None, *outputs)).text == "sorry"


@pytest.mark.parametrize("kind", ["content_filter", "context_length_exceeded"])
async def test_what_the_model_refuses_for_good(project: Project, kind: str) -> None:
    one = await talk(project)
    with pytest.raises(FoundryRefused) as refused:
        await one.say(f"@fail {kind}")
    assert refused.value.code == kind
    assert (await one.say("@say next")).text == "next"


async def test_a_conversation_deleted_outside_is_gone(project: Project) -> None:
    one = await talk(project)
    await project.delete_conversation(one.remote_id)
    with pytest.raises(ConversationGone):
        await one.say("hello")
    with pytest.raises(ConversationGone):
        await one.adapter.items_after(one.remote_id, None)


async def test_a_conversation_is_removed_once_and_for_all(project: Project) -> None:
    one = await talk(project)
    await one.say("@say hello")
    for _ in range(2):
        await one.adapter.delete_conversation(one.remote_id)
    with pytest.raises(ConversationGone):
        await one.adapter.items_after(one.remote_id, None)


async def test_check_asks_the_service(project: Project) -> None:
    before = await project.calls("GET /deployments")
    await project.any_adapter().check()
    assert await project.calls("GET /deployments") == before + 1
