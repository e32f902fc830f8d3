"""The health of a system whose storage takes connections, and never answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aos.checks
import aos.health
import aos.registry.source
from aos.config import load_settings
from aos.system import AgentOperatingSystem


@pytest.fixture
async def mute() -> AsyncIterator[str]:
    """The connection string of a storage account that swallows whatever it is sent."""
    open_writers: list[asyncio.StreamWriter] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.append(writer)
        while await reader.read(65_536):
            pass

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/devstoreaccount1"
    kinds = ";".join(f"{kind}Endpoint={address}" for kind in ("Blob", "Queue", "Table"))
    yield f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=a2V5;{kinds}"
    server.close()
    for writer in open_writers:
        writer.close()


@pytest.mark.parametrize("roles", ["agents,mcp", "mcp"])
async def test_storage_that_never_answers_is_named_within_the_patience_of_a_check(
    mute: str, roles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aos.health, "PATIENCE", 0.3)
    monkeypatch.setattr(aos.checks, "PATIENCE", 0.3)
    # Without that patience a registry is waited for as long as the rest of storage.
    monkeypatch.setattr(aos.registry.source, "READ_SECONDS", 30)
    settings = load_settings({"AZURE_STORAGE_CONNECTION_STRING": mute, "AOS_ROLES": roles})
    system = AgentOperatingSystem(settings, folder=tmp_path)
    try:
        for _ in range(2):
            report = await asyncio.wait_for(system.checks.report(), 20)
            assert report["status"] == "unhealthy"
            assert "No answer within" in report["checks"]["storage"]["detail"]
            assert report["agent_ids"] == []
    finally:
        await system.close(0)
