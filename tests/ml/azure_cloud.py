"""Azure as the SDKs see it: https hosts behind a proxy, with a certificate authority of their own.

`HTTPS_PROXY` leads every https connection here and `REQUESTS_CA_BUNDLE` makes the SDKs trust what answers, so that they
run as they are, with the addresses of the public cloud. Storage hosts are passed on to Azurite; an unknown host is
refused. All of it runs in a thread with a loop of its own, so that blocking callers can use it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

TENANT = "72f988bf-0000-0000-0000-00000000aaaa"
HOSTS = (
    "management.azure.com",
    "northeurope.api.azureml.ms",
    "*.blob.core.windows.net",
    "*.northeurope.inference.ml.azure.com",
)


class AzureCloud:
    """`serve` runs it; `environment` is what a process needs to live in it.

    Args:
        hosts: App by the suffix of the host names that it answers for.
        blobs: Where the blob service of Azurite listens (`http://127.0.0.1:10000/devstoreaccount1`).
        folder: For the certificates.
    """

    def __init__(self, hosts: Mapping[str, ASGIApp], blobs: str, folder: Path) -> None:
        self._hosts = dict(hosts)
        self._blobs = blobs
        self._folder = folder
        self.signed_in = True
        self.environment: dict[str, str] = {}

    @contextmanager
    def serve(self) -> Iterator[AzureCloud]:
        ready = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self._run(ready))
            except BaseException as error:
                failed.append(error)
                ready.set()

        thread = threading.Thread(target=run, name="azure")
        thread.start()
        ready.wait()
        try:
            if failed:
                raise failed[0]
            yield self
        finally:
            if not failed:
                self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        certificate, key, authority = make_certificate(self._folder)
        async with (
            httpx2.AsyncClient() as self._client,
            _uvicorn(self._dispatch, certificate, key) as tls,
            _uvicorn(Starlette(routes=[Route("/token", self._token)])) as identity,
            _tunnel(tls) as proxy,
        ):
            self.environment = {
                "HTTPS_PROXY": f"http://127.0.0.1:{proxy}",
                "NO_PROXY": "127.0.0.1,localhost",
                "REQUESTS_CA_BUNDLE": str(authority),
                "SSL_CERT_FILE": str(authority),
                # The managed identity of an app service.
                "IDENTITY_ENDPOINT": f"http://127.0.0.1:{identity}/token",
                "IDENTITY_HEADER": "local",
            }
            ready.set()
            await self._stop.wait()

    async def _dispatch(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        request = Request(scope, receive)
        host = request.url.hostname or ""
        if host.endswith(".blob.core.windows.net"):
            return await (await self._blob(request))(scope, receive, send)
        for suffix in sorted(self._hosts, key=len, reverse=True):
            if host.endswith(suffix):
                if "authorization" not in request.headers and suffix == "management.azure.com":
                    break
                return await self._hosts[suffix](scope, receive, send)
        refused = {"error": {"code": "AuthenticationFailed", "message": f"{host}: no token"}}
        await JSONResponse(refused, 401)(scope, receive, send)

    async def _blob(self, request: Request) -> Response:
        dropped = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding"}
        headers = {name: value for name, value in request.headers.items() if name not in dropped}
        url = f"{self._blobs}{request.scope['raw_path'].decode().partition('?')[0]}?{request.url.query}"
        answer = await self._client.request(request.method, url, headers=headers, content=await request.body())
        kept = {
            name: value for name, value in answer.headers.items() if name not in {"transfer-encoding", "connection"}
        }
        if request.method != "HEAD":
            kept.pop("content-length", None)
        return Response(answer.content, answer.status_code, kept)

    async def _token(self, request: Request) -> Response:
        if not self.signed_in:
            return JSONResponse({"statusCode": 400, "message": "No managed identity found for this app."}, 400)
        resource = request.query_params["resource"]
        claims = {"aud": resource, "tid": TENANT, "oid": "app", "exp": int(time.time()) + 3600}
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)]
        token = f"{'.'.join(parts)}.c2lnbmF0dXJl"
        return JSONResponse(
            {"access_token": token, "expires_on": str(claims["exp"]), "resource": resource, "token_type": "Bearer"}
        )


@asynccontextmanager
async def _uvicorn(app: ASGIApp, certificate: Path | None = None, key: Path | None = None) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_level="error",
        lifespan="off",
        interface="asgi3",
        ssl_certfile=certificate and str(certificate),
        ssl_keyfile=key,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


@asynccontextmanager
async def _tunnel(port: int) -> AsyncIterator[int]:
    """A proxy that takes every CONNECT to one port of this machine."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    open_tunnels: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(forward(reader, writer))
        open_tunnels.add(task)
        task.add_done_callback(open_tunnels.discard)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"CONNECT "):
            writer.close()
            return
        there, here = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pump(reader, here), pump(there, writer))
        finally:
            here.close()
            writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in open_tunnels:
        task.cancel()
    await asyncio.gather(*open_tunnels, return_exceptions=True)


def make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Certificate and key for the hosts of Azure, and the authority that signed it."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local Azure")])
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "azure.pem", folder / "azure.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, secret, certificate
