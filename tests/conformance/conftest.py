from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from tests.conformance.scenarios import BACKLOG
from tests.conformance.sides import ADMIN_KEY, FUNCTION_KEY, KEYS, Asgi, Functions, Side
from tests.conformance.triggers_app.recorder import OUTPUT_QUEUE
from tests.e2e.harness import ROOT, world
from tests.functions_worker import FunctionsWorker

SETTINGS = {
    "AOS_FUNCTION_KEY": FUNCTION_KEY,
    "AOS_ADMIN_KEY": ADMIN_KEY,
    "AOS_KEYS": KEYS,
    # With tokens switched on the host leaves all callers to the app: then both bindings check the same.
    "AOS_ENTRA_ISSUERS": "https://login.microsoftonline.com/tenant/v2.0",
    "AOS_ENTRA_AUDIENCES": "api://aos",
    # What a process leaves behind when it dies is taken up within seconds.
    "AOS_LEASE_SECONDS": "5",
    "AOS_SWEEP_SECONDS": "1",
    "AOS_AGENT_BACKLOG": str(BACKLOG),
    "AOS_FUNCTION_OUTPUT_QUEUES": OUTPUT_QUEUE,
}
SAMPLE = ("ceo", "cfo", "cmo", "coo", "cto")


def agents() -> list[dict[str, object]]:
    """Entries beside those of the sample registry: what the two sides change, each has for itself."""
    common = {"purpose": "Writes things down", "domain_knowledge": {"domain": "ceo"}}
    writes = {
        "server_name": "company-ledger",
        "tool_name": "record_transaction",
        "configuration": {"approval": "always"},
    }
    found: list[dict[str, object]] = [{**common, "agent_id": "off", "enabled": False}]
    for letter in ("asgi", "func"):
        found += [
            {**common, "agent_id": f"{name}-{letter}", **({"mcp_tools": [writes]} if name != "halted" else {})}
            for name in ("clerk", "full", "halted")
        ]
    return found


@pytest_asyncio.fixture(scope="session")
async def sides(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Side, Side]]:
    """Both bindings before the same storage, broker and Foundry; both check their callers."""
    state: Path = tmp_path_factory.mktemp("conformance")
    async with world(state, SETTINGS, agents=agents(), ready=False) as aos:
        async with (
            # One process runs the MCP servers: with two, what is told of them is now the one's, now the other's.
            FunctionsWorker(ROOT, environ={**aos.stack.environment, **SETTINGS, "AOS_ROLES": "agents"}) as worker,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{aos.app.port}", timeout=60) as client,
        ):
            both = Asgi(aos, client), Functions(worker)
            await asyncio.gather(*(ready(side, agent) for side in both for agent in (*SAMPLE, side.name("clerk"))))
            yield both
            # Both processes take their time to end; they may do so together.
            ending = asyncio.create_task(aos.app.stop())
        await ending


async def ready(side: Side, agent_id: str) -> None:
    await side.until("agent_status", f"GET agents/{agent_id}/status", lambda body: bool(body.get("is_running")))
