from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.harness import REPLIES, World, world

HERE = Path(__file__).parent
LONGEST = 300
"""Seconds after which a test hangs, with the stack that is started for it and ended after it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONGEST))


@pytest_asyncio.fixture(scope="session")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    state: Path = tmp_path_factory.mktemp("aos")
    async with world(state) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def aos(shared_world: World) -> World:
    """One running AOS for all tests that leave it as they found it, but for messages that nobody fetched."""
    for queue in (REPLIES, "aos-poison"):
        await shared_world.client.empty(queue)
    return shared_world
