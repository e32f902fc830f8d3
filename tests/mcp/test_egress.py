from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from aos.kernel.clock import SystemClock
from aos.mcp.connections import McpConnection
from aos.mcp.egress import BodyTooLarge, EgressRefused, GuardedTransport, allowed_addresses, refusal
from aos.mcp.errors import ServerNotConfigured
from aos.mcp.secrets import EnvironmentSecrets
from tests.mcp.conftest import server_entry


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.1.1",
        "fe80::1",
        "168.63.129.16",
        "100.100.100.200",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "0.0.0.0",  # noqa: S104 - nothing binds here
        "::",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_some_addresses_are_never_allowed(address: str) -> None:
    assert refusal(address, private=True)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "fd12::1", "100.64.0.1"]
)
def test_private_addresses_need_a_setting(address: str) -> None:
    assert "AOS_MCP_PRIVATE_NETWORKS" in (refusal(address, private=False) or "")
    assert refusal(address, private=True) is None


@pytest.mark.parametrize("address", ["20.50.2.3", "2603:1030::1", "::ffff:20.50.2.3"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert refusal(address, private=False) is None


async def test_a_name_that_leads_inside_is_refused() -> None:
    assert "127.0.0.1" in await allowed_addresses("localhost", 80, private=True)
    with pytest.raises(EgressRefused, match="localhost: 127"):
        await allowed_addresses("localhost", 80, private=False)


@pytest.mark.parametrize("kind", ["streamable_http", "sse"])
async def test_an_entry_that_leads_inside_is_not_configured(kind: str) -> None:
    entry = server_entry("crm", server_type=kind, url="http://127.0.0.1:9/mcp")
    connection = McpConnection(entry, EnvironmentSecrets({}), SystemClock())
    with pytest.raises(ServerNotConfigured, match=r"url of MCP server crm: 127\.0\.0\.1 is .*AOS_MCP_PRIVATE_NETWORKS"):
        await connection.ready()
    await connection.close()


async def test_the_metadata_service_is_refused_also_where_private_networks_are_allowed() -> None:
    entry = server_entry("crm", server_type="streamable_http", url="http://169.254.169.254/metadata/instance")
    connection = McpConnection(entry, EnvironmentSecrets({}), SystemClock(), private_networks=True)
    with pytest.raises(ServerNotConfigured, match="link-local or metadata address"):
        await connection.ready()
    await connection.close()


Answer = Callable[[], bytes]


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that gives one answer to everybody; its port, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        await server.wait_closed()


async def test_every_connection_is_checked_also_that_of_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    location = (
        b"HTTP/1.1 307 Away\r\nLocation: http://inside.example/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def resolve(host: str, port: int, **more: Any) -> Any:
        address = {"outside.example": "127.0.0.1", "inside.example": "169.254.169.254"}.get(host, host)
        return await real(address, port, **more)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    async with (
        answering(location) as (port, asked),
        httpx2.AsyncClient(
            transport=GuardedTransport(private=True, largest=1000), follow_redirects=True, trust_env=False
        ) as http,
    ):
        with pytest.raises(httpx2.ConnectError, match=r"inside\.example: 169\.254\.169\.254 is a link-local"):
            await http.get(f"http://outside.example:{port}/")
    assert b"Host: outside.example" in asked[0] or b"host: outside.example" in asked[0].lower()


async def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **more: Any) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("169.254.169.254", "127.0.0.2", "127.0.0.1")
        ]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    async with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok") as (port, _),
        httpx2.AsyncClient(transport=GuardedTransport(private=True, largest=1000), trust_env=False) as http,
    ):
        assert (await http.get(f"http://many.example:{port}/")).text == "ok"


async def test_bodies_are_bounded() -> None:
    body = b"x" * 2000
    async with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n" + body) as (port, _),
        httpx2.AsyncClient(transport=GuardedTransport(private=True, largest=1000), trust_env=False) as http,
    ):
        with pytest.raises(BodyTooLarge, match="more than 1000 bytes"):
            await http.get(f"http://127.0.0.1:{port}/")
