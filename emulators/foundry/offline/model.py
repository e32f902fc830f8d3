"""What the offline model does with a request: follow directives, call tools, answer from results, or talk."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

from emulators.foundry.model import (
    ArgumentsDelta,
    Called,
    CallStarted,
    Finished,
    ModelError,
    ModelEvent,
    ModelRequest,
    Returned,
    Said,
    TextDelta,
    count_tokens,
)
from emulators.foundry.offline.answer import Outcome, answer_from
from emulators.foundry.offline.directives import Directives, parse_directives
from emulators.foundry.offline.plan import Plan, PlannedCall, plan_calls, same_arguments
from emulators.foundry.offline.structured import structured_answer
from emulators.foundry.offline.talk import talk

MAX_TOOL_ROUNDS = 8
_CHUNK = re.compile(r"\S*\s*")


class OfflineModel:
    """Decides by rules alone: the same request always gets the same answer."""

    @property
    def kind(self) -> str:
        """``offline``."""
        return "offline"

    async def close(self) -> None:
        """Nothing to release."""

    def check(self, request: ModelRequest) -> None:
        """``@fail context_length_exceeded`` refuses a request as a service does that counts first."""
        if parse_directives(_last_user_text(request)).fail == "context_length_exceeded":
            message = "Your input exceeds the context window of this model (asked for by @fail)."
            raise ModelError("context_length_exceeded", message, status=400)

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """One step: either calls or a text."""
        message = _last_user_text(request)
        directives = parse_directives(message)
        outcomes, rounds = _since_last_user(request)
        plan = _plan(request, message, directives)
        left = _not_yet_made(plan.calls, outcomes) if rounds < MAX_TOOL_ROUNDS else []
        if left and not request.parallel_calls:
            left = left[:1]
        if left:
            for index, call in enumerate(left):
                yield CallStarted(index, call.name)
                yield ArgumentsDelta(index, call.arguments)
            yield Finished()
            return
        if directives.fail == "server_error":
            raise ModelError("server_error", "The model failed (asked for by @fail).")
        if directives.fail == "rate_limit_exceeded":
            message = "Rate limit is exceeded. Try again in 1 second (asked for by @fail)."
            raise ModelError("rate_limit_exceeded", message, status=429, retry_after=1.0)
        if directives.fail == "content_filter":
            yield Finished("content_filter")
            return
        for event in _say(_text(request, message, directives, plan, outcomes), request.max_output_tokens):
            yield event


def _text(request: ModelRequest, message: str, directives: Directives, plan: Plan, outcomes: list[Outcome]) -> str:
    if directives.say is not None:
        return directives.say
    if request.json_schema is not None:
        return structured_answer(request.json_schema, message, outcomes)
    if outcomes:
        return answer_from(message, outcomes)
    return talk(request, message, plan)


def _plan(request: ModelRequest, message: str, directives: Directives) -> Plan:
    if directives:
        names = {tool.name for tool in request.tools}
        calls = tuple(PlannedCall(_full_name(name, names), arguments) for name, arguments in directives.calls)
        return Plan(calls)
    if request.tool_choice == "none" or not message:
        return Plan(())
    said = [turn.text for turn in request.history if isinstance(turn, Said) and turn.role == "user"]
    return plan_calls(message, request.tools, request.tool_choice, said[:-1])


def _full_name(name: str, names: set[str]) -> str:
    if name in names:
        return name
    longer = sorted(known for known in names if known.endswith((f"_{name}", f"-{name}")))
    return longer[0] if longer else name


def _last_user_text(request: ModelRequest) -> str:
    for turn in reversed(request.history):
        if isinstance(turn, Said) and turn.role == "user":
            return turn.text
    return ""


def _since_last_user(request: ModelRequest) -> tuple[list[Outcome], int]:
    calls: dict[str, Called] = {}
    outcomes: list[Outcome] = []
    rounds = 0
    calling = False
    for turn in request.history:
        match turn:
            case Said(role="user"):
                calls, outcomes, rounds, calling = {}, [], 0, False
            case Called():
                rounds += not calling
                calling = True
                calls[turn.call_id] = turn
            case Returned() if turn.call_id in calls:
                calling = False
                call = calls[turn.call_id]
                outcomes.append(Outcome(call.name, call.arguments, turn.output))
    return outcomes, rounds


def _not_yet_made(planned: tuple[PlannedCall, ...], outcomes: list[Outcome]) -> list[PlannedCall]:
    made = [PlannedCall(outcome.name, outcome.arguments) for outcome in outcomes]
    left: list[PlannedCall] = []
    for call in planned:
        earlier = next((m for m in made if m.name == call.name and same_arguments(m.arguments, call.arguments)), None)
        if earlier is None:
            left.append(call)
        else:
            made.remove(earlier)  # a directive may ask for the same call twice
    return left


def _say(text: str, limit: int | None) -> Iterator[ModelEvent]:
    spent = 0
    for chunk in _CHUNK.findall(text):
        spent += count_tokens(chunk)
        if limit is not None and spent > limit:
            yield Finished("max_output_tokens")
            return
        if chunk:
            yield TextDelta(chunk)
    yield Finished()
