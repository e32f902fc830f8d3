"""Every route of AOS answers alike on Azure Functions and on ASGI: HTTP with every declared status, and messages."""

from __future__ import annotations

import asyncio

import pytest

from aos.app import routes
from aos.config import load_settings
from aos.kernel.points import FAULT_POINT
from runtime import AuthLevel, Route, openapi_document
from tests.conformance.conftest import SETTINGS
from tests.conformance.letters import LETTERS, Letter, written
from tests.conformance.scenarios import SCENARIOS, Scenario
from tests.conformance.sides import (
    ADMIN_KEY,
    CEO_KEY,
    FUNCTION_KEY,
    TRACE_ID,
    Asgi,
    Functions,
    Side,
    compared,
    compared_message,
)
from tests.e2e.harness import REPLIES, ROOT
from tests.functions_worker import FunctionsWorker, WorkerError

REGISTRY = routes(load_settings(SETTINGS))
ROUTES = {route.name: route for route in REGISTRY.http_routes}
POSTS = [route for route in ROUTES.values() if "POST" in route.methods]
PLACES = {"{agent_id}": "cfo", "{server_id}": "company-ledger"}

REFUSALS = {
    401: [route for route in ROUTES.values() if route.auth_level is not AuthLevel.ANONYMOUS],
    # Of another agent, or the administrator's; where the agent is known later only, a scenario shows it.
    403: [route for route in ROUTES.values() if route.scopes or route.auth_level is AuthLevel.ADMIN],
    413: POSTS,
    415: POSTS,
    400: [route for route in POSTS if route.request_model is not None],
    422: [route for route in POSTS if route.request_model is not None],
}

ELSEWHERE = {
    500: "an error that nobody foresaw: tests/runtime/test_conformance.py has a route that raises",
    408: "a body that does not arrive: on Azure the host waits for it; tests/runtime/test_asgi_runtime.py",
    502: "a service that answers nonsense; made from an error by the handler, as 404 and 409 are",
    503: "tests/conformance/test_unavailable.py, for every route",
}
NOT_BROUGHT_ABOUT = {
    ("decide", 202): "the decision is on its way for as long as another process holds the conversation",
    ("cancel", 202): "a model step is under way, which lasts milliseconds here: tests/kernel/test_cancel.py",
    ("begin_workflow", 429): "the steps of a workflow wait instead (scenario too_much)",
    ("agent_list", 403): "a key with scopes sees its agents (scenario the_agents)",
    ("query", 403): "a key with scopes is routed among its agents (scenario too_much)",
    ("reload_registry", 400): "it takes any body: the connection would have to break off while it is sent",
}
"""Declared, but not to be had in a test of seconds; why."""


def request_of(route: Route) -> str:
    """A request for the route, with something in the place of each parameter."""
    parts = [PLACES.get(part, "x") if part.startswith("{") else part for part in route.path.split("/")]
    return f"{route.methods[0]} {'/'.join(parts)}"


async def both(sides: tuple[Side, Side], scenario: Scenario) -> None:
    """Plays a scenario on both sides and compares all answers."""
    for side in sides:
        side.log.clear()
    await asyncio.gather(*map(scenario.play, sides))
    asgi, functions = ([compared(answer) for answer in side.log] for side in sides)
    for ours, theirs in zip(asgi, functions, strict=True):
        assert ours == theirs
    assert {(answer.route, answer.status) for answer in sides[0].log} == scenario.shows
    for answer in sides[1].log:
        assert answer.headers["x-request-id"] == "same"
        assert TRACE_ID in answer.headers["traceresponse"]
        if answer.status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.json["status"], answer.json["request_id"]) == (answer.status, "same")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.play.__name__ for scenario in SCENARIOS])
async def test_both_bindings_answer_alike(sides: tuple[Side, Side], scenario: Scenario) -> None:
    await both(sides, scenario)


@pytest.mark.parametrize("status", REFUSALS)
async def test_both_bindings_refuse_alike(sides: tuple[Side, Side], status: int) -> None:
    async def play(side: Side) -> None:
        for route in REFUSALS[status]:
            key = ADMIN_KEY if route.auth_level is AuthLevel.ADMIN else FUNCTION_KEY
            match status:
                case 401:
                    for wrong in (None, "nobody-s key"):
                        await side.send(route.name, request_of(route), key=wrong)
                case 403:
                    await side.send(route.name, request_of(route), key=CEO_KEY)
                case 413:
                    await side.send(route.name, request_of(route), bytes(route.max_body_bytes + 1), key=key)
                case 415:
                    await side.send(route.name, request_of(route), b"x", key=key, content_encoding="gzip")
                case 400:
                    await side.send(route.name, request_of(route), b"{", key=key)
                case 422:
                    await side.send(route.name, request_of(route), b"[]", key=key)

    shown = frozenset((route.name, status) for route in REFUSALS[status])
    await both(sides, Scenario(play, shown))


async def test_both_bindings_refuse_other_methods_alike(sides: tuple[Side, Side]) -> None:
    answers_for = {route.path: route.name for route in reversed(REGISTRY.http_routes)}

    async def play(side: Side) -> None:
        for path, name in answers_for.items():
            _, _, where = request_of(ROUTES[name]).partition(" ")
            answer = await side.send(name, f"PATCH {where}", key=ADMIN_KEY)
            assert methods_of(path) <= set(answer.headers["allow"].split(", "))

    await both(sides, Scenario(play, frozenset((name, 405) for name in answers_for.values())))


def methods_of(path: str) -> set[str]:
    """What is answered at a path."""
    return {method for route in REGISTRY.http_routes if route.path == path for method in route.methods}


@pytest.mark.parametrize("letter", LETTERS, ids=lambda letter: letter.about)
async def test_both_bindings_answer_messages_alike(sides: tuple[Side, Side], letter: Letter) -> None:
    client = sides[0].world.client if isinstance(sides[0], Asgi) else None
    assert client is not None
    came = []
    for side in sides:
        message_id = side.name(letter.about.replace(" ", "-"))
        await side.deliver(
            letter.route, letter.entity, written(letter.body, side), message_id=message_id, reply_to=REPLIES
        )
        came.append([compared_message(await client.receive(queue)) for queue in letter.brings])
    assert came[0] == came[1]


async def test_a_function_host_that_ends_during_a_request_leaves_the_same_operation(sides: tuple[Side, Side]) -> None:
    asgi, _ = sides
    assert isinstance(asgi, Asgi)
    environ = {**asgi.world.stack.environment, **SETTINGS, "AOS_ROLES": "agents", FAULT_POINT: "after-model-step"}
    body = {"message": "@say after all", "timeout_seconds": 40}
    async with FunctionsWorker(ROOT, environ=environ) as worker:
        dying = Functions(worker)
        # With all that it needs imported: while it did that, the other one would take the turn up.
        await dying.until("agent_status", "GET agents/cmo/status", lambda status: bool(status.get("is_running")))
        with pytest.raises(WorkerError, match="the worker process ended"):
            await dying.look("ask", "POST agents/cmo", body, key=FUNCTION_KEY, idempotency_key="ended")
    answer = await asgi.look("ask", "POST agents/cmo", body, key=FUNCTION_KEY, idempotency_key="ended")
    assert (answer.status, answer.json["status"], answer.json["reply"]) == (200, "completed", "after all")
    # The model had answered, and was not asked again.
    assert answer.json["usage"]["adopted"] == 1


def test_every_declared_answer_of_every_route_is_shown() -> None:
    document = openapi_document(REGISTRY, title="AOS", version="1")
    paths = document["paths"]
    assert isinstance(paths, dict)
    declared = {
        (operation["operationId"], int(status))
        for operations in paths.values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    assert {name for name, _ in declared} == {*ROUTES, "openapi"}
    shown = {pair for scenario in SCENARIOS for pair in scenario.shows}
    shown |= {(route.name, status) for status, refused in REFUSALS.items() for route in refused}
    assert shown <= declared, "a status that the API does not tell of"
    assert set(NOT_BROUGHT_ABOUT) <= declared - shown
    missing = {pair for pair in declared - shown - set(NOT_BROUGHT_ABOUT) if pair[1] not in ELSEWHERE}
    assert missing == set()
    assert {name for name, status in shown if status < 400} == {*ROUTES, "openapi"}, "a route that never succeeds"
