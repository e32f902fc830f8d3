"""Where HTTP servers of the registry may lie: the guard against an entry that points into the app's own network.

Each connection is checked when it is made, by the address that the name resolves to at that moment, and goes to that
very address: neither a redirect nor a name that changes its answer gets around it. Proxies are not used, since they
would resolve names where we cannot look.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpcore2
import httpx2

from aos.mcp.link import ATTEMPT

NEVER = tuple(
    ip_network(network)
    for network in (
        # The address under which Azure's hosts serve their guests, and the metadata services of other clouds.
        "168.63.129.16/32",
        "100.100.100.200/32",
        "fd00:ec2::254/128",
        "192.0.0.192/32",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""

CONNECT_SECONDS = 10.0

SOCKET_OPTION = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "dcb", "dcz", "compress", "x-compress"})
"""Of IANA's registry of HTTP content codings."""


class EgressRefused(httpcore2.ConnectError):
    """The server lies where no connection may go."""


class BodyTooLarge(httpx2.StreamError):
    """The server sent more than it may."""


class BodyEncoded(httpx2.StreamError):
    """The server sent a compressed body, of which nobody knows how large it is, though it was asked not to."""


def refusal(address: str, private: bool) -> str | None:
    """Why no connection may go to this IP address; None if it may.

    Args:
        private: Whether addresses that are not of the public Internet are allowed.
    """
    found = _plain(ip_address(address))
    if found.is_link_local or any(found in network for network in NEVER if network.version == found.version):
        return f"{address} is a link-local or metadata address, which no MCP server has"
    if found.is_unspecified or found.is_multicast or (found.is_reserved and not found.is_loopback):
        return f"{address} is no address of a host"
    if not found.is_global and not private:
        return f"{address} is a private address: set AOS_MCP_PRIVATE_NETWORKS=true if MCP servers may lie there"
    return None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, if it does (RFC 4291 section 2.5.5.2, RFC 6052, RFC 3056)."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        if address.sixtofour is not None:
            return address.sixtofour
    return address


async def allowed_addresses(host: str, port: int, private: bool) -> list[str]:
    """The IP addresses of a host that connections may go to.

    Raises:
        EgressRefused: There is none.
        OSError: The name cannot be resolved.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
    refusals = {address: refusal(address.partition("%")[0], private) for address in addresses}
    allowed = [address for address, why in refusals.items() if why is None]
    if not allowed:
        said = "; ".join(why for why in refusals.values() if why)
        raise EgressRefused(said if host in addresses else f"{host}: {said}")
    return allowed


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections to allowed addresses only."""

    def __init__(self, private: bool) -> None:
        self._private = private
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            addresses = await allowed_addresses(host, port, self._private)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} cannot be resolved: {error.strerror}") from error
        for address in addresses[:-1]:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._backend.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """HTTP over guarded connections, with bodies of bounded size.

    Args:
        private: Whether private addresses are allowed.
        largest: Bytes of a body; an event stream has no end, its events are bounded by whoever reads them.
    """

    def __init__(self, *, private: bool, largest: int) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(), network_backend=_GuardedBackend(private), keepalive_expiry=30.0
        )
        self._largest = largest

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        attempt = ATTEMPT.get()
        request.headers["accept-encoding"] = "identity"
        try:
            response = await super().handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            # What had a response was sent: this is the attempt to read the rest of its answer.
            if attempt is not None and attempt.status is None:
                attempt.unsent = True
            raise
        if attempt is not None:
            attempt.status = response.status_code
            attempt.later = "retry-after" in response.headers
        encoding = response.headers.get("content-encoding", "")
        if not _COMPRESSIONS.isdisjoint(coding.strip().lower() for coding in encoding.split(",")):
            response.stream = _Refused(response.stream, encoding)
            return response
        # Whatever else stands there, as `utf-8`, is no compression: nobody is to decode by it.
        response.headers.pop("content-encoding", None)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = _Bounded(response.stream, self._largest)
        return response


class _Refused(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise BodyEncoded(f"the answer is compressed ({self._encoding[:100]}), which was not asked for")
        yield b""  # makes it a generator

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, largest: int) -> None:
        self._stream = stream
        self._largest = largest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._largest:
                raise BodyTooLarge(f"the answer has more than {self._largest} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
