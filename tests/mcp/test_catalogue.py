from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest

from aos.mcp.catalogue import FRESH, KEEP, KEEP_MISS, ToolCatalogue
from aos.mcp.tools import ServerTools, ToolInfo
from aos.storage.account import StorageAccount
from aos.storage.payloads import Payloads
from aos.storage.rows import table_key
from tests.mcp.conftest import ShiftedClock, StandingClock


@pytest.fixture
def clock() -> ShiftedClock:
    return StandingClock()


@pytest.fixture
def catalogue(account: StorageAccount, payloads: Payloads, clock: ShiftedClock) -> ToolCatalogue:
    return ToolCatalogue(account, payloads, clock)


@pytest.fixture
def server_id() -> str:
    return f"crm {uuid.uuid4().hex}/eu"


def tool(name: str = "find", **changes: Any) -> ToolInfo:
    return ToolInfo.model_validate({"name": name, "input_schema": {"type": "object"}, **changes})


def listing(server_id: str, *tools: ToolInfo, at: float = 1000.0) -> ServerTools:
    return ServerTools(server_id=server_id, tools=tools, listed_at=at)


async def written_at(account: StorageAccount, server_id: str) -> Any:
    table = await account.table("aostools")
    row = await table.get_entity("server", table_key(server_id))
    return row.metadata["timestamp"]


async def test_what_is_put_is_got_elsewhere(
    catalogue: ToolCatalogue, account: StorageAccount, payloads: Payloads, server_id: str
) -> None:
    tools = listing(server_id, tool(read_only=True), tool("save"))
    assert await catalogue.put(tools) == tools
    other = ToolCatalogue(account, payloads)
    assert await other.get(server_id) == tools
    assert tools in await other.all()


async def test_a_long_listing_lies_in_a_blob(
    catalogue: ToolCatalogue, account: StorageAccount, payloads: Payloads, server_id: str
) -> None:
    tools = listing(server_id, *(tool(f"t{n}", description="x" * 1000) for n in range(100)))
    await catalogue.put(tools)
    assert await ToolCatalogue(account, payloads).get(server_id) == tools


async def test_a_listing_whose_blob_is_gone_is_none(
    catalogue: ToolCatalogue, account: StorageAccount, server_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    tools = listing(server_id, tool(description="x" * 50_000))
    await catalogue.put(tools)
    container = await account.container("aos-payloads")
    async for blob in container.list_blobs(name_starts_with="tools/"):
        await container.delete_blob(blob.name)
    catalogue = ToolCatalogue(account, Payloads(account))
    with caplog.at_level(logging.WARNING, "aos.mcp"):
        assert await catalogue.get(server_id) is None
    assert server_id in caplog.text
    await catalogue.put(tools)
    assert await ToolCatalogue(account, Payloads(account)).get(server_id) == tools


async def test_only_a_change_or_an_old_row_is_written(
    catalogue: ToolCatalogue, account: StorageAccount, server_id: str
) -> None:
    await catalogue.put(listing(server_id, tool()))
    first = await written_at(account, server_id)
    await catalogue.put(listing(server_id, tool(), at=1000 + FRESH - 1))
    assert await written_at(account, server_id) == first
    await catalogue.put(listing(server_id, tool(), at=1000 + FRESH))
    second = await written_at(account, server_id)
    assert second != first
    await catalogue.put(listing(server_id, tool(description="new"), at=1000 + FRESH))
    assert await written_at(account, server_id) != second


async def test_reads_are_kept_for_a_while_and_misses_shortly(
    catalogue: ToolCatalogue, account: StorageAccount, payloads: Payloads, clock: ShiftedClock, server_id: str
) -> None:
    other = ToolCatalogue(account, payloads, clock)
    assert await catalogue.get(server_id) is None
    await other.put(listing(server_id, tool()))
    assert await catalogue.get(server_id) is None
    clock.shift += KEEP_MISS
    first = await catalogue.get(server_id)
    assert first is not None
    await other.put(listing(server_id, tool(), tool("save")))
    clock.shift += KEEP - 1
    assert await catalogue.get(server_id) == first
    clock.shift += 1
    assert await catalogue.get(server_id) != first


async def test_annotations_are_pinned_at_first_sight(
    catalogue: ToolCatalogue, server_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    await catalogue.put(listing(server_id, tool("pay"), tool("find", read_only=True)))
    with caplog.at_level(logging.WARNING, "aos.mcp"):
        held = await catalogue.put(listing(server_id, tool("pay", idempotent=True), tool("find"), tool("new")))
    assert [found.repeatable for found in held.tools] == [False, False, False]
    assert "pay" in caplog.text
    assert await catalogue.get(server_id) == held
    held = await catalogue.put(listing(server_id, tool("find", read_only=True)))
    assert not held.tools[0].repeatable
