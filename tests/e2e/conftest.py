from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.harness import World, world


@pytest_asyncio.fixture(scope="session")
async def aos(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One running AOS for all tests that leave it as they found it."""
    state: Path = tmp_path_factory.mktemp("aos")
    async with world(state) as running:
        yield running
