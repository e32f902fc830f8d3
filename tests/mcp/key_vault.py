"""A key vault: the part of its REST API (7.x) that reading a secret needs, over TLS, with its challenge.

GET /secrets/{name}/{version}?api-version=...: 401 with a bearer challenge without a token, 404 SecretNotFound, 403
Forbidden, 200 with the value (learn.microsoft.com/rest/api/keyvault, authentication-requests-and-responses).
"""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "a-token-of-the-app"
TENANT = "72f988bf-0000-0000-0000-2d7cd011db47"


class KeyVault:
    """The secrets of a vault by name, and what was asked for.

    Attributes:
        status: Every authorized request is answered with it, if set.
    """

    def __init__(self, secrets: dict[str, str]) -> None:
        self.secrets = secrets
        self.status: int | None = None
        self.asked: list[str] = []
        self.challenges = 0
        self.url = ""
        self.certificate = ""

    async def get(self, request: web.Request) -> web.Response:
        if not request.query.get("api-version"):
            return self._error(400, "BadParameter")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            self.challenges += 1
            challenge = f'Bearer authorization="https://login.example/{TENANT}", resource="https://vault.azure.net"'
            return web.json_response(
                {"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}},
                status=401,
                headers={"WWW-Authenticate": challenge},
            )
        name = request.match_info["name"]
        self.asked.append(name)
        if self.status is not None:
            return self._error(self.status, "Forbidden" if self.status == 403 else "Broken")
        if name not in self.secrets:
            return self._error(404, "SecretNotFound")
        return web.json_response(
            {
                "value": self.secrets[name],
                "id": f"{self.url}/secrets/{name}/0123456789abcdef0123456789abcdef",
                "attributes": {"enabled": True, "created": 1, "updated": 1, "recoveryLevel": "Recoverable+Purgeable"},
            }
        )

    def _error(self, status: int, code: str) -> web.Response:
        return web.json_response({"error": {"code": code, "message": "said the vault"}}, status=status)


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "vault.pem", folder / "vault.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


@asynccontextmanager
async def serving(vault: KeyVault, folder: Path) -> AsyncIterator[KeyVault]:
    """Serves the vault; its address and certificate are in it."""
    certificate, private = _certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)
    app = web.Application()
    app.router.add_get("/secrets/{name}/", vault.get)
    app.router.add_get("/secrets/{name}", vault.get)
    app.router.add_get("/secrets/{name}/{version}", vault.get)
    runner = web.AppRunner(app)
    await runner.setup()
    # One address: a name may have several, each with a port of its own.
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    vault.url = f"https://localhost:{runner.addresses[0][1]}"
    vault.certificate = str(certificate)
    try:
        yield vault
    finally:
        await runner.cleanup()
