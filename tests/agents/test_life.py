"""Agents outside an app: their life, their turns, and judgement by their purpose; Foundry and custom runtime."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from aos.agents import GenericPurposeDrivenAgent, LeadershipAgent, PurposeDrivenAgent, PurposeDrivenAgentFoundry
from aos.agents.goals import GoalInvalid, UnknownGoal
from aos.agents.judgement import AnswerUnusable
from aos.agents.leadership import StakeholdersInvalid
from aos.agents.purpose_driven import AgentNotRunning, TurnFailed, TurnUnfinished
from aos.config import Settings, load_settings
from aos.errors import SettingError
from tests.foundry.project import Project
from tests.model_server import Answer, Body, ModelServer, model_server


@pytest.fixture(scope="session")
async def served() -> AsyncIterator[ModelServer]:
    async with model_server() as model:
        yield model


@pytest.fixture
def model(served: ModelServer) -> ModelServer:
    served.reset()
    return served


@pytest.fixture
def custom(model: ModelServer) -> Settings:
    return load_settings({"USE_FOUNDRY_RUNTIME": "false", "AOS_MODEL_ENDPOINT": model.url})


@pytest.fixture
async def agent(custom: Settings) -> AsyncIterator[PurposeDrivenAgent]:
    async with GenericPurposeDrivenAgent("cfo", "Keep the company solvent.", settings=custom) as agent:
        yield agent


def answers(*values: object) -> Callable[[Body], Answer]:
    left = list(values)

    def script(body: Body) -> Answer:
        value = left.pop(0)
        return Answer(value if isinstance(value, str) else json.dumps(value))

    return script


async def test_an_agent_lives_on_the_runtime_of_the_settings(custom: Settings, model: ModelServer) -> None:
    agent = LeadershipAgent(
        agent_id="ceo",
        purpose="Strategic oversight and decision-making",
        purpose_scope="Strategic planning, major decisions",
        adapter_name="ceo",
        settings=custom,
    )
    assert not agent.is_running
    with pytest.raises(AgentNotRunning, match="start"):
        await agent.ask("Hi?")
    assert await agent.initialize()
    assert await agent.start()
    assert agent.is_running
    assert agent.runtime == "Custom Runtime"
    try:
        assert await agent.ask("Hi?") == "Done."
        assert await agent.ask("Again?") == "Done."
        shown = model.asked[-1]["messages"]
        assert [message["content"] for message in shown[1:]] == ["Hi?", "Done.", "Again?"]
        assert "Scope: Strategic planning, major decisions" in shown[0]["content"]
        assert model.asked[-1]["model"] == "llama-3.3-70b-ceo"
    finally:
        assert await agent.stop()
    assert not agent.is_running
    with pytest.raises(AgentNotRunning):
        await agent.ask("Hi?")


async def test_on_foundry_an_agent_keeps_its_conversation(project: Project) -> None:
    settings = load_settings(
        {
            "USE_FOUNDRY_RUNTIME": "false",
            "AZURE_AI_PROJECT_ENDPOINT": project.emulator.endpoint,
            "AZURE_AI_API_KEY": "local",
        }
    )
    agent = PurposeDrivenAgentFoundry(
        agent_id="boss", purpose="Strategic oversight", adapter_name="ceo", settings=settings
    )
    async with agent:
        assert agent.runtime == "Foundry Agent Service (Llama 3.3 70B + LoRA)"
        assert agent.ref is not None
        assert (agent.ref.name, agent.ref.deployment) == ("boss", "llama-3.3-70b-ceo")
        await agent.ask("Our code word is marigold.")
        assert "marigold" in await agent.ask("What is our code word?")
        other = await agent.ask("What is our code word?", conversation_id="other")
        assert "marigold" not in other


async def test_with_a_storage_account_a_conversation_outlives_its_agent(
    storage_settings: Settings, model: ModelServer
) -> None:
    settings = storage_settings.model_copy(update={"use_foundry": False, "model_endpoint": model.url})
    for message in ("One.", "Two."):
        async with PurposeDrivenAgent("keeper", "To remember.", adapter_name="ceo", settings=settings) as agent:
            await agent.ask(message, conversation_id="c-keeper")
    shown = model.asked[-1]["messages"]
    assert [message["content"] for message in shown[1:]] == ["One.", "Done.", "Two."]


async def test_what_is_missing_is_named() -> None:
    nowhere = load_settings({"USE_FOUNDRY_RUNTIME": "true", "AZURE_AI_API_KEY": "k"})
    agent = PurposeDrivenAgentFoundry("ceo", "Oversight", settings=nowhere)
    with pytest.raises(SettingError, match="AZURE_AI_PROJECT_ENDPOINT not configured"):
        await agent.initialize()
    assert not agent.is_running


async def test_a_turn_that_fails_says_why(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    model.answers(Answer(status=400, error={"message": "no", "code": "content_filter"}))
    with pytest.raises(TurnFailed) as failed:
        await agent.ask("Hi?")
    assert failed.value.code == "content_filter"
    model.models = []
    with pytest.raises(TurnFailed, match=r"Model not found.*'llama-3.3-70b-cfo'"):
        await agent.ask("Hi?")


async def test_an_endpoint_that_was_down_is_asked_again(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    model.answers(Answer(status=503, error={"message": "busy"}), Answer("Back."))
    assert await agent.ask("Hi?") == "Back."


async def test_a_call_of_a_tool_that_is_not_there_is_refused_and_the_turn_goes_on(
    agent: PurposeDrivenAgent, model: ModelServer
) -> None:
    model.answers(Answer(None, [("a", "wire_money", '{"to": "me"}')]), Answer("I cannot."))
    operation = await agent.turn("Pay me.")
    assert (operation.reply, operation.tool_calls[0].status) == ("I cannot.", "refused")
    assert "no tool" in model.asked[-1]["messages"][-1]["content"]


async def test_a_turn_may_take_longer_than_somebody_waits(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    model.answers(Answer("Late.", delay=0.4))
    with pytest.raises(TurnUnfinished):
        await agent.ask("Hi?", timeout=0.05)


# --- judgement


async def test_alignment_is_what_the_model_judges(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    judged = {"aligned": False, "alignment_score": 0.1, "reasoning": "It burns cash."}
    model.script = answers(f"Sure:\n```json\n{json.dumps(judged)}\n```")
    alignment = await agent.evaluate_purpose_alignment("Buy a yacht.")
    assert (alignment.aligned, alignment.alignment_score, alignment.reasoning) == (False, 0.1, "It burns cash.")
    asked = model.asked[0]["messages"]
    assert "Purpose: Keep the company solvent." in asked[0]["content"]
    assert "Buy a yacht." in asked[1]["content"]
    assert agent.purpose_metrics["purpose_evaluations"] == 1
    assert agent.purpose_metrics["purpose_aligned_actions"] == 0


async def test_an_answer_that_is_not_valid_is_asked_for_again(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    good = {"selected_option": "cut", "reasoning": "Cash first.", "alignment_score": 0.9}
    model.script = answers("I would cut.", good | {"selected_option": "pray"}, good)
    decision = await agent.make_purpose_driven_decision({"options": ["cut", "grow"], "cash": 3})
    assert (decision.selected_option, decision.context) == ("cut", {"options": ["cut", "grow"], "cash": 3})
    said = [message["content"] for message in model.asked[-1]["messages"] if message["role"] == "user"]
    assert "cannot be used" in said[1]
    assert "one of `options`" in said[2]
    assert agent.purpose_metrics["decisions_made"] == 1


async def test_no_valid_answer_is_an_error(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    model.script = lambda body: Answer('{"aligned": true, "alignment_score": 7, "reasoning": "x"}')
    with pytest.raises(AnswerUnusable, match="alignment_score"):
        await agent.evaluate_purpose_alignment("Anything.")
    assert len(model.asked) == 3
    assert agent.purpose_metrics["purpose_evaluations"] == 0


async def test_judgements_are_no_part_of_the_talk(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    model.script = answers({"aligned": True, "alignment_score": 1, "reasoning": "Yes."}, "Hello.")
    await agent.evaluate_purpose_alignment("Save.")
    await agent.ask("Hi?")
    assert [message["content"] for message in model.asked[-1]["messages"][1:]] == ["Hi?"]


async def test_goals_are_reached_step_by_step(agent: PurposeDrivenAgent, model: ModelServer) -> None:
    deadline = datetime(2026, 12, 31, tzinfo=UTC)
    goal = await agent.add_goal("Positive cash flow", ["two quarters in a row"], deadline)
    assert goal == "goal_1"
    assert await agent.update_goal_progress(goal, 0.25, "First month.")
    model.script = answers({"progress": 0.5, "reasoning": "One quarter of two."})
    told = await agent.assess_goal(goal, {"Q1": 3, "Q2": -1})
    assert told.progress == agent.active_goals[goal].progress == 0.5
    assert agent.active_goals[goal].notes == ["First month.", "One quarter of two."]
    assert "two quarters in a row" in model.asked[0]["messages"][1]["content"]
    with pytest.raises(GoalInvalid):
        await agent.update_goal_progress(goal, 1.5)
    assert await agent.update_goal_progress(goal, 1.0)
    assert not await agent.update_goal_progress(goal, 1.0)
    with pytest.raises(UnknownGoal):
        await agent.assess_goal(goal, None)
    status = await agent.get_purpose_status()
    assert (status["active_goals"], status["metrics"]["goals_achieved"]) == ([], 1)
    assert status["completed_goals"][0]["achieved_at"]


async def test_a_leader_decides_alone_with_others_or_through_one(custom: Settings, model: ModelServer) -> None:
    def script(body: Body) -> Answer:
        asked = body["messages"][-1]["content"]
        if "asks for your view" in asked:
            return Answer(f"{body['model'][-3:]}: careful")
        views = "with views" if "careful" in asked else "alone"
        return Answer(json.dumps({"decision": f"{body['model'][-3:]} {views}", "confidence": 0.5, "rationale": "So."}))

    model.script = script
    async with (
        LeadershipAgent("ceo", "Lead.", settings=custom) as ceo,
        PurposeDrivenAgent("cfo", "Count.", settings=custom) as cfo,
        PurposeDrivenAgent("cto", "Build.", settings=custom) as cto,
    ):
        alone = await ceo.make_decision({"topic": "merger"})
        agreed = await ceo.make_decision({"topic": "merger"}, [cfo, cto], "consensus")
        delegated = await ceo.make_decision({"topic": "merger"}, [cto], "delegated")
        with pytest.raises(StakeholdersInvalid):
            await ceo.make_decision({"topic": "merger"}, mode="delegated")
    assert (alone.decision, alone.agent_id) == ("ceo alone", "ceo")
    assert (agreed.decision, agreed.stakeholders) == ("ceo with views", ("cfo", "cto"))
    assert (delegated.decision, delegated.agent_id) == ("cto alone", "cto")
