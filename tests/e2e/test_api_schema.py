"""Generated requests, good and bad, against a running AOS: every answer is as described, none is a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.harness import App, World

FUNCTION_KEY, ADMIN_KEY = "function-key-of-the-tests", "admin-key-of-the-tests"
KEYS = {"x-functions-key": FUNCTION_KEY, "x-admin-key": ADMIN_KEY}
NAMED: dict[str, dict[str, Any]] = {
    "shop": {"key": "shop-key-of-the-tests", "scopes": ["agents/ceo:run", "agents/ceo:read"]},
    "other": {"key": "other-key-of-the-tests", "scopes": ["agents/cfo:run", "agents/*:read"]},
    "duty": {"key": "duty-key-of-the-tests", "scopes": ["approver"]},
}
EXAMPLES = 12
Operation: TypeAlias = APIOperation[Any, Any, Any, Any]
Case: TypeAlias = schemathesis.Case[Operation]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]


@pytest.fixture(scope="module")
async def guarded(aos: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """Another process of the running AOS, with keys."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    keys = {
        "AOS_FUNCTION_KEY": FUNCTION_KEY,
        "AOS_ADMIN_KEY": ADMIN_KEY,
        "AOS_KEYS": json.dumps(NAMED),
        "AOS_ROLES": "agents",
    }
    app = App({**aos.stack.environment, **keys}, folder)
    app.http.headers.update(KEYS)
    await app.start()
    try:
        await app.ready()
        yield app
    finally:
        await app.stop()
        await app.http.aclose()


def exercise(operation: Operation, base_url: str, mode: GenerationMode, real: dict[str, str]) -> set[int]:
    """Sends generated requests and checks what comes back; the statuses that came."""
    seen: set[int] = set()
    sent = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Case) -> None:
        # What is there every other time; commands go to made-up agents alone, because other tests need the real.
        nonlocal sent
        sent += 1
        if sent % 2 and "commands" not in operation.path:
            case.path_parameters.update({name: real[name] for name in case.path_parameters if name in real})
        response = case.call(base_url=base_url, headers=KEYS, timeout=60)
        seen.add(response.status_code)
        case.validate_response(response, checks=CHECKS, headers=KEYS)

    send()
    return seen


@pytest.mark.slow
async def test_answers_are_as_described(guarded: App) -> None:
    document = (await guarded.http.get("openapi.json")).json()
    # A body that is too long is refused as such, not as invalid.
    refusals = ["400", "401", "403", "404", "405", "409", "413", "415", "422"]
    config = schemathesis.Config.from_dict(
        {
            "checks": {"negative_data_rejection": {"expected-statuses": refusals}},
            "generation": {"with-security-parameters": False},
        }
    )
    schema = schemathesis.openapi.from_dict(document, config=config)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == 20
    base_url = f"http://127.0.0.1:{guarded.port}"
    asked = await guarded.http.post("agents/ceo", json={"message": "@say hello"})
    real = {"agent_id": "ceo", "operation_id": asked.json()["operation_id"]}
    seen: set[int] = set()
    for operation in operations:
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or operation.body or operation.query:
                seen |= await asyncio.to_thread(exercise, operation, base_url, mode, real)
    assert {200, 404, 409} <= seen
    assert seen & {400, 422}


async def test_a_limited_key_reaches_its_agents_alone(guarded: App) -> None:
    async def call(method: str, path: str, name: str, body: object = None) -> tuple[int, dict[str, Any]]:
        async with httpx2.AsyncClient(base_url=guarded.http.base_url, timeout=60) as client:
            answer = await client.request(method, path, headers={"x-functions-key": NAMED[name]["key"]}, json=body)
        return answer.status_code, answer.json()

    hello = {"message": "@say hello"}
    status, asked = await call("POST", "agents/ceo", "shop", hello)
    answered, routed = await call("POST", "query", "shop", hello)
    assert (answered, routed["routed_to"], routed["routed_by"]) == (200, "ceo", "only")
    steps = {"steps": [{"id": "a", "agent_id": "ceo", "message": "@say hello"}]}
    accepted, begun = await call("POST", "workflows", "shop", steps)
    flow = f"workflows/{begun['workflow_id']}"
    assert (accepted, (await call("GET", flow, "shop"))[0]) == (202, 200)
    assert (await call("DELETE", flow, "other"))[1]["code"] == "scope_required"
    assert (await call("POST", "workflows", "other", steps))[1]["code"] == "scope_required"
    operation = f"operations/{asked['operation_id']}"
    assert (status, (await call("GET", operation, "shop"))[0]) == (200, 200)
    for method, path, name in (
        ("POST", "agents/cfo", "shop"),
        ("GET", "agents/cfo", "shop"),
        ("GET", "mcp/servers", "shop"),
        ("DELETE", operation, "other"),
        ("GET", operation, "duty"),
    ):
        refused, problem = await call(method, path, name, hello if method == "POST" else None)
        assert (refused, problem["code"]) == (403, "scope_required"), (method, path, name)
    assert [agent["agent_id"] for agent in (await call("GET", "agents", "shop"))[1]["agents"]] == ["ceo"]
    assert len((await call("GET", "agents", "other"))[1]["agents"]) == 5
    assert (await call("GET", "approvals", "shop"))[1]["code"] == "admin_required"
    assert (await call("GET", "approvals", "duty"))[0] == 200
    assert (await call("POST", "registry/reload", "duty"))[1]["code"] == "admin_required"
