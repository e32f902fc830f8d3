from __future__ import annotations

import json

import pytest

from emulators.foundry.model import (
    ArgumentsDelta,
    Called,
    CallStarted,
    Finished,
    FunctionSpec,
    ModelError,
    ModelEvent,
    ModelRequest,
    Returned,
    Said,
    TextDelta,
    Turn,
)
from emulators.foundry.offline import OfflineModel
from emulators.foundry.offline.model import MAX_TOOL_ROUNDS

KPIS = FunctionSpec(
    "company-ledger_get_kpis",
    "Revenue and margin of a quarter",
    {"type": "object", "properties": {"year": {"type": "integer"}, "quarter": {"enum": ["Q1", "Q2", "Q3", "Q4"]}}},
)
OVERVIEW = FunctionSpec("company-ledger_get_overview", "Company profile", {"type": "object", "properties": {}})
QUESTION = "What was our revenue in Q3 2025 and how does it compare with Q2?"


def request(*history: Turn, **fields: object) -> ModelRequest:
    given: dict[str, object] = {
        "deployment": "llama-3.3-70b-ceo",
        "instructions": "You are the CEO of Larkspur. You decide. Be brief.",
        "tools": (KPIS, OVERVIEW),
        "history": history,
        **fields,
    }
    return ModelRequest(**given)  # type: ignore[arg-type]  # fields are named by each test


async def step(asked: ModelRequest) -> list[ModelEvent]:
    model = OfflineModel()
    first = [event async for event in model.step(asked)]
    assert first == [event async for event in model.step(asked)]
    await model.close()
    return first


async def said(asked: ModelRequest) -> str:
    events = await step(asked)
    assert events[-1] == Finished()
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def called(asked: ModelRequest) -> list[tuple[str, str]]:
    events = await step(asked)
    names = {event.index: event.name for event in events if isinstance(event, CallStarted)}
    return [(names[event.index], event.text) for event in events if isinstance(event, ArgumentsDelta)]


def user(text: str) -> Said:
    return Said("user", text)


async def test_a_question_is_answered_with_the_figures_that_tools_gave() -> None:
    calls = await called(request(user(QUESTION)))
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [
        (KPIS.name, {"year": 2025, "quarter": "Q3"}),
        (KPIS.name, {"year": 2025, "quarter": "Q2"}),
    ]
    results = ('{"revenue": 2304704.79, "headcount": 76}', '{"revenue": 2400000.5, "headcount": 72}')
    made = [Called(f"c{number}", name, arguments) for number, (name, arguments) in enumerate(calls)]
    back = [Returned(f"c{number}", result) for number, result in enumerate(results)]
    answer = await said(request(user(QUESTION), *made, *back))
    assert "2,304,704.79" in answer
    assert "2,400,000.50" in answer
    assert "down by 95,295.71, 4.0 %" in answer
    assert KPIS.name in answer


async def test_calls_may_be_asked_for_one_at_a_time() -> None:
    (first,) = await called(request(user(QUESTION), parallel_calls=False))
    history = (user(QUESTION), Called("c1", *first), Returned("c1", "{}"))
    (second,) = await called(request(*history, parallel_calls=False))
    assert json.loads(second[1])["quarter"] == "Q2"
    both = (*history, Called("c2", *second), Returned("c2", "{}"))
    assert await called(request(*both, parallel_calls=False)) == []


async def test_a_failed_call_is_not_repeated_but_told() -> None:
    ((name, arguments),) = await called(request(user("revenue in Q1 2025?")))
    history = (user("revenue in Q1 2025?"), Called("c", name, arguments), Returned("c", '{"error": "no such year"}'))
    assert await said(request(*history)) == f"{name} (year 2025, quarter Q1) failed: no such year"


async def test_tool_rounds_are_bounded() -> None:
    lines = "\n".join(f'@tool f {{"n": {number}}}' for number in range(20))
    history: list[Turn] = [user(lines)]
    for number in range(MAX_TOOL_ROUNDS):
        ((name, arguments),) = await called(request(*history, parallel_calls=False))
        history += [Called(f"c{number}", name, arguments), Returned(f"c{number}", "1")]
    assert await called(request(*history, parallel_calls=False)) == []


async def test_directives_call_exactly_what_they_say() -> None:
    text = 'Do this:\n@tool get_kpis {"year": 1}\n  @tool unknown {broken json\n@tool bare\n@say done\nthanks'
    calls = await called(request(user(text)))
    assert calls == [(KPIS.name, '{"year": 1}'), ("unknown", "{broken json"), ("bare", "{}")]
    made = [Called(str(number), name, arguments) for number, (name, arguments) in enumerate(calls)]
    back = [Returned(str(number), "1") for number in range(3)]
    assert await said(request(user(text), *made, *back)) == "done"


async def test_the_same_call_may_be_directed_twice() -> None:
    assert await called(request(user("@tool f {}\n@tool f {}"))) == [("f", "{}"), ("f", "{}")]


async def test_directives_end_a_response_badly() -> None:
    with pytest.raises(ModelError) as caught:
        await step(request(user("@fail server_error")))
    assert (caught.value.code, caught.value.status) == ("server_error", None)
    assert await step(request(user("@fail content_filter"))) == [Finished("content_filter")]
    with pytest.raises(ModelError) as refused:
        OfflineModel().check(request(user("@fail context_length_exceeded")))
    assert (refused.value.code, refused.value.status) == ("context_length_exceeded", 400)


async def test_without_a_tool_it_says_what_it_is() -> None:
    answer = await said(request(user("What is the capital of France?")))
    assert "offline stand-in for llama-3.3-70b-ceo" in answer
    assert "no knowledge of my own" in answer
    assert KPIS.name in answer
    assert "Paris" not in answer


async def test_it_says_who_it_is_and_what_it_can_do() -> None:
    assert "You are the CEO of Larkspur." in await said(request(user("Who are you?")))
    abilities = await said(request(user("What can you do?")))
    assert f"{KPIS.name}: Revenue and margin of a quarter" in abilities
    assert "I have no tools" in await said(request(user("What can you do?"), tools=()))
    assert (await said(request(user("Hello!"), instructions=""))).startswith("Hello.")
    assert await said(request(user("Thanks a lot."))) == "You are welcome."


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What did I say about my dog?", "My dog is called Rex."),
        ("What is my budget?", "Our budget is 5,000 euro, my budget half of it."),
        ("What did I say?", "Nice weather."),
    ],
)
async def test_it_recalls_what_the_user_said(question: str, expected: str) -> None:
    history: list[Turn] = []
    for text in ("My dog is called Rex.", "Our budget is 5,000 euro, my budget half of it.", "Nice weather."):
        history += [user(text), Said("assistant", "Noted.")]
    assert expected in await said(request(*history, user(question)))


async def test_it_does_not_invent_a_memory() -> None:
    answer = await said(request(user("My dog is called Rex."), user("What did I say about my submarine?")))
    assert "nothing about" in answer
    assert "Rex" not in answer


async def test_it_notes_a_statement_and_asks_for_what_a_tool_lacks() -> None:
    assert 'Noted: "Remember that I like tea."' in await said(request(user("Remember that I like tea.")))
    pay = FunctionSpec(
        "pay_invoice",
        "Pay an invoice",
        {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]},
    )
    assert await said(request(user("Pay the invoice"), tools=(pay,))) == (
        "To call pay_invoice I need: amount. Your message does not say."
    )


async def test_no_tool_is_called_if_none_may_be() -> None:
    assert await called(request(user(QUESTION), tool_choice="none")) == []


async def test_a_limit_cuts_the_answer() -> None:
    events = await step(request(user("@say one two three"), max_output_tokens=2))
    assert events == [TextDelta("one "), TextDelta("two "), Finished("max_output_tokens")]


async def test_a_schema_makes_the_answer_json_from_results() -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    history = (user("@tool f {}"), Called("c", "f", "{}"), Returned("c", '{"total": 12.5}'))
    assert json.loads(await said(request(*history, json_schema=schema))) == {"total": 12.5}
