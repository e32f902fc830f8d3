"""A small OpenID provider: discovery, JWKS, and tokens signed with keys that it can change."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm


class OidcServer:
    """Counts the requests for its keys, and sets `asked`; `down` makes it answer 500. It waits for `answers`."""

    def __init__(self) -> None:
        self.url = ""
        self.fetches = 0
        self.down = False
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self.rotate("k1")

    def rotate(self, kid: str) -> None:
        """Signs with a new key from now on, and knows no other."""
        self._keys = {kid: rsa.generate_private_key(65537, 2048)}

    def token(self, *, kid: str | None = None, alg: str = "RS256", **claims: object) -> str:
        """A token with the usual claims, and these; None leaves a claim out."""
        known, key = next(iter(self._keys.items()))
        now = int(time.time())
        usual = {"iss": self.url, "aud": "api://shop", "oid": "user-1", "iat": now, "nbf": now, "exp": now + 300}
        payload = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(payload, key, alg, headers={"kid": kid or known})

    async def discovery(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def jwks(self, request: web.Request) -> web.Response:
        del request
        self.fetches += 1
        self.asked.set()
        await self.answers.wait()
        if self.down:
            return web.Response(status=500)
        public = [
            {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}
            for kid, key in self._keys.items()
        ]
        return web.json_response({"keys": [{"kid": "odd", "kty": "unknown"}, *public]})


@asynccontextmanager
async def oidc_server() -> AsyncIterator[OidcServer]:
    provider = OidcServer()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.discovery)
    app.router.add_get("/keys", provider.jwks)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()
