from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2
import pytest
import pytest_asyncio
from azure.ai.agents.aio import AgentsClient
from azure.ai.projects.aio import AIProjectClient
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import HeadersPolicy
from openai import AsyncOpenAI

from emulators.foundry import FoundryEmulator


class NoCredential:
    """The policy below authenticates; the client only wants something of this shape."""

    async def get_token(self, *scopes: str, **kwargs: object) -> AccessToken:
        return AccessToken("local", 4_102_444_800)

    async def close(self) -> None: ...

    async def __aenter__(self) -> NoCredential:
        return self

    async def __aexit__(self, *error: object) -> None: ...


def project_client(endpoint: str) -> AIProjectClient:
    policy = HeadersPolicy({"api-key": "local"})
    return AIProjectClient(endpoint, NoCredential(), authentication_policy=policy, retry_total=0)


def agents_client(endpoint: str) -> AgentsClient:
    """The client of the threads protocol."""
    policy = HeadersPolicy({"api-key": "local"})
    return AgentsClient(endpoint, NoCredential(), authentication_policy=policy, retry_total=0)


@asynccontextmanager
async def clients(emulator_endpoint: str) -> AsyncIterator[tuple[AIProjectClient, AsyncOpenAI]]:
    async with (
        project_client(emulator_endpoint) as project,
        project.get_openai_client(api_key="local", max_retries=0) as runtime,
    ):
        yield project, runtime


@pytest.fixture(scope="session")
def connect() -> Callable[[str], AbstractAsyncContextManager[tuple[AIProjectClient, AsyncOpenAI]]]:
    """Opens both SDK clients on a project endpoint."""
    return clients


@pytest_asyncio.fixture(scope="session")
async def emulator() -> AsyncIterator[FoundryEmulator]:
    async with FoundryEmulator() as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def sdks(emulator: FoundryEmulator) -> AsyncIterator[tuple[AIProjectClient, AsyncOpenAI]]:
    async with clients(emulator.endpoint) as pair:
        yield pair


@pytest_asyncio.fixture(scope="session")
async def project(sdks: tuple[AIProjectClient, AsyncOpenAI]) -> AIProjectClient:
    return sdks[0]


@pytest_asyncio.fixture(scope="session")
async def runtime(sdks: tuple[AIProjectClient, AsyncOpenAI]) -> AsyncOpenAI:
    return sdks[1]


@pytest.fixture(scope="session")
def connect_agents() -> Callable[[str], AgentsClient]:
    """Opens the threads SDK's client on a project endpoint."""
    return agents_client


@pytest_asyncio.fixture(scope="session")
async def agents(emulator: FoundryEmulator) -> AsyncIterator[AgentsClient]:
    async with agents_client(emulator.endpoint) as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def http(emulator: FoundryEmulator) -> AsyncIterator[httpx2.AsyncClient]:
    """A bare HTTP client with a credential, for what the SDKs cannot be made to send."""
    async with httpx2.AsyncClient(base_url=emulator.endpoint, headers={"api-key": "local"}, timeout=30) as client:
        yield client
