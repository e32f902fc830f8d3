"""Tokens of a real provider over sockets, and what the platform's authentication may and may not say."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator

import httpx2
import jwt
import pytest

from runtime import (
    AsgiRuntime,
    AuthLevel,
    Entra,
    Keys,
    Problem,
    Request,
    RouteRegistry,
    RuntimeConfig,
    ServeError,
    create_runtime,
    tokens,
)
from runtime.auth import Credentials, RequestAuthorizer
from runtime.easy_auth import proven
from runtime.messages import Headers
from runtime.tokens import TokenVerifier
from tests.runtime.oidc_server import OidcServer, oidc_server


@pytest.fixture
async def provider() -> AsyncIterator[OidcServer]:
    async with oidc_server() as running:
        yield running


@pytest.fixture
def entra(provider: OidcServer) -> Entra:
    return Entra((provider.url,), ("api://shop", "client-id"))


@pytest.fixture
def verifier(entra: Entra) -> TokenVerifier:
    return TokenVerifier(entra)


async def refused(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(Problem) as caught:
        await verifier.verify(token)
    assert (caught.value.status, caught.value.code) == (401, "invalid_token")
    assert 'error="invalid_token"' in caught.value.headers["WWW-Authenticate"]
    return str(caught.value.detail)


async def test_a_good_token_names_its_caller_and_keys_are_fetched_once(
    provider: OidcServer, verifier: TokenVerifier
) -> None:
    caller = await verifier.verify(provider.token(roles=["agents/ceo:run", "approver"], scp="agents/cto:run"))
    assert (caller.kind, caller.name, caller.is_admin) == ("token", "user-1", False)
    assert caller.scopes == frozenset({"agents/ceo:run", "approver"})
    assert (await verifier.verify(provider.token(roles=["admin"], aud="client-id"))).is_admin
    # Without roles, what the client was given counts; but no word of an administrator.
    assert (await verifier.verify(provider.token(scp="agents/ceo:read admin"))).scopes == frozenset({"agents/ceo:read"})
    assert (await verifier.verify(provider.token())).scopes == frozenset()
    assert (await verifier.verify(provider.token(oid=None, sub="app-7"))).name == "app-7"
    assert provider.fetches == 1


async def test_bad_tokens_are_refused_with_the_reason(provider: OidcServer, verifier: TokenVerifier) -> None:
    past = int(time.time()) - 120
    forged = jwt.encode({"oid": "x"}, "0" * 32, "HS256", headers={"kid": "k1"})
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=") + ".e30."
    assert "has expired" in await refused(verifier, provider.token(exp=past))
    assert "not valid yet" in await refused(verifier, provider.token(nbf=past + 600))
    assert "another audience" in await refused(verifier, provider.token(aud="api://other"))
    assert "issuer is not accepted" in await refused(verifier, provider.token(iss="https://evil.example"))
    assert "lacks exp" in await refused(verifier, provider.token(exp=None))
    assert "lacks exp, iss or aud" in await refused(verifier, provider.token(aud=None))
    assert "algorithm is not accepted" in await refused(verifier, forged)
    assert "algorithm is not accepted" in await refused(verifier, none)
    assert "algorithm is not accepted" in await refused(verifier, provider.token(alg="RS512"))
    assert "neither oid nor sub" in await refused(verifier, provider.token(oid=None))
    assert "cannot be read" in await refused(verifier, "not.a.token")
    assert "too long" in await refused(verifier, "x" * 20_000)
    token = provider.token()
    assert "signature is wrong" in await refused(verifier, token[:-8] + ("A" * 8))


async def test_a_key_that_names_no_algorithm_verifies_each_accepted_one(provider: OidcServer) -> None:
    # RFC 7517 section 4.4: `alg` is optional; most providers leave it out.
    several = TokenVerifier(Entra((provider.url,), ("api://shop",), algorithms=("RS256", "PS256", "ES256")))
    assert (await several.verify(provider.token(alg="PS256"))).name == "user-1"
    assert (await several.verify(provider.token(alg="RS256"))).name == "user-1"
    claims = provider.token().split(".")[1]
    other = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"k1"}').decode().rstrip("=")
    assert "not one of the issuer's" in await refused(several, f"{other}.{claims}.AAAA")


async def test_new_keys_are_found_at_a_bounded_pace(
    provider: OidcServer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    await verifier.verify(provider.token())
    provider.rotate("k2")
    for _ in range(5):
        assert "not one of the issuer's" in await refused(verifier, provider.token())
    assert provider.fetches == 1
    monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0.0)
    assert (await verifier.verify(provider.token())).name == "user-1"
    assert provider.fetches == 2
    assert "not one of the issuer's" in await refused(verifier, provider.token(kid="k1"))


@pytest.mark.parametrize("kept", [3600.0, -1.0])
async def test_tokens_of_known_keys_do_not_wait_for_a_provider_that_is_slow(
    provider: OidcServer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "FETCH_TIMEOUT_SECONDS", 60.0)
    await verifier.verify(provider.token())
    monkeypatch.setattr(tokens, "KEYS_KEPT_SECONDS", kept)
    provider.asked.clear()
    provider.answers.clear()
    strange = asyncio.create_task(verifier.verify(provider.token(kid="made-up")))
    async with asyncio.timeout(30):
        await provider.asked.wait()
        assert (await verifier.verify(provider.token())).name == "user-1"
    assert not strange.done()
    provider.answers.set()
    with pytest.raises(Problem, match="not one of the issuer's"):
        await strange


async def test_known_keys_outlast_a_provider_that_is_down(
    provider: OidcServer, entra: Entra, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = TokenVerifier(entra)
    await verifier.verify(provider.token())
    provider.down = True
    monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "KEYS_KEPT_SECONDS", 0.0)
    assert (await verifier.verify(provider.token())).name == "user-1"
    assert provider.fetches == 2
    with pytest.raises(Problem) as caught:
        await TokenVerifier(entra).verify(provider.token())
    assert (caught.value.status, caught.value.code) == (503, "identity_provider_unavailable")


@pytest.mark.parametrize(
    ("issuers", "audiences", "more"),
    [
        ((), ("a",), {}),
        (("https://i.example",), (), {}),
        (("https://i.example",), ("",), {}),
        (("http://i.example",), ("a",), {}),
        (("https://i.example",), ("a",), {"jwks_uri": "ftp://keys"}),
        (("https://i.example",), ("a",), {"algorithms": ("HS256",)}),
        (("https://i.example",), ("a",), {"algorithms": ()}),
    ],
)
def test_unsafe_settings_are_refused(
    issuers: tuple[str, ...], audiences: tuple[str, ...], more: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"name at least|algorithms|https"):
        Entra(issuers, audiences, **more)  # type: ignore[arg-type]  # the mistakes under test


async def show(request: Request) -> dict[str, object]:
    return {"name": request.caller.name, "admin": request.caller.is_admin}


def registry() -> RouteRegistry:
    routes = RouteRegistry()
    routes.register("agents/{id}", show, scopes=("agents/{id}:run",))
    routes.register("approvals", show, auth_level=AuthLevel.ADMIN, scopes=("approver",))
    routes.register("open", show, auth_level=AuthLevel.ANONYMOUS)
    return routes


def platform(provider: str, issuer: str, *roles: str) -> dict[str, str]:
    """The header that anybody can send."""
    claims = [{"typ": "iss", "val": issuer}, {"typ": "oid", "val": "user-2"}]
    claims += [{"typ": "roles", "val": role} for role in roles]
    document = {"auth_typ": provider, "role_typ": "roles", "claims": claims}
    return {"x-ms-client-principal": base64.b64encode(json.dumps(document).encode()).decode()}


async def test_tokens_over_http_with_scopes_per_agent(provider: OidcServer, entra: Entra) -> None:
    runtime = AsgiRuntime(RuntimeConfig(), registry(), keys=Keys(function="f-key"), entra=entra, settings={})
    transport = httpx2.ASGITransport(runtime.app, client=("203.0.113.9", 1))

    async def get(path: str, **headers: str) -> tuple[int, str]:
        answer = await client.get(path, headers=headers)
        body = answer.json()
        return answer.status_code, body.get("code") or body["name"]

    async with httpx2.AsyncClient(transport=transport, base_url="http://shop.example/api/") as client:
        user = f"Bearer {provider.token(roles=['agents/ceo:run'])}"
        approver = f"bearer {provider.token(roles=['approver'])}"
        assert await get("agents/ceo", authorization=user) == (200, "user-1")
        assert await get("agents/cto", authorization=user) == (403, "scope_required")
        assert await get("approvals", authorization=user) == (403, "admin_required")
        assert await get("approvals", authorization=approver) == (200, "user-1")
        assert await get("agents/ceo", authorization=approver) == (403, "scope_required")
        assert await get("approvals", authorization=f"Bearer {provider.token(roles=['admin'])}") == (200, "user-1")
        assert await get("agents/cto", **{"x-functions-key": "f-key"}) == (200, "function")
        assert await get("agents/ceo", authorization="Bearer nonsense") == (401, "invalid_token")
        assert await get("open", authorization="Bearer nonsense") == (200, "anonymous")
        # No platform stands before this runtime: what the header says is nobody's word.
        forged = platform("aad", provider.url, "admin")
        assert await get("approvals", **forged) == (401, "unauthorized")
        nobody = await client.get("agents/ceo")
        assert nobody.headers["www-authenticate"] == 'Bearer realm="api", Key realm="functions"'
        document = (await client.get("openapi.json")).json()
        assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        assert {"token": ["approver", "admin"]} in document["paths"]["/api/approvals"]["get"]["security"]


@pytest.mark.parametrize(
    ("environ", "believed"),
    [
        ({"WEBSITE_AUTH_ENABLED": "True", "WEBSITE_SITE_NAME": "shop"}, True),
        ({"WEBSITE_AUTH_ENABLED": "False", "WEBSITE_SITE_NAME": "shop"}, False),
        ({"WEBSITE_SITE_NAME": "shop"}, False),
        ({"WEBSITE_AUTH_ENABLED": "True"}, False),
        ({}, False),
    ],
)
async def test_the_platforms_principal_is_believed_only_with_proof(
    provider: OidcServer, verifier: TokenVerifier, environ: dict[str, str], believed: bool
) -> None:
    authorizer = RequestAuthorizer(Keys(), tokens=verifier, platform_principals=proven(environ))

    async def authorize(headers: dict[str, str]) -> str:
        try:
            caller = await authorizer.authorize(
                AuthLevel.FUNCTION, Credentials(Headers(headers), {}), ["agents/ceo:run"]
            )
        except Problem as problem:
            return problem.code
        return caller.name

    assert await authorize(platform("aad", provider.url, "agents/ceo:run")) == (
        "user-2" if believed else "unauthorized"
    )
    if believed:
        assert await authorize(platform("aad", provider.url)) == "scope_required"
        assert await authorize(platform("github", provider.url, "admin")) == "invalid_principal"
        assert await authorize(platform("aad", "https://other.example", "admin")) == "invalid_principal"
        assert await authorize({"x-ms-client-principal": "e30="}) == "invalid_principal"
        assert await authorize({"x-ms-client-principal": "%%%"}) == "invalid_principal"


def test_with_tokens_the_functions_host_lets_everybody_through_to_this_process(entra: Entra) -> None:
    app = create_runtime(RuntimeConfig(), registry(), entra=entra, settings={}).get_func_app()
    levels = {str(function.get_trigger().get_dict_repr()["authLevel"]) for function in app.get_functions()}  # type: ignore[union-attr]  # HTTP functions have a trigger
    assert levels == {"ANONYMOUS"}


async def test_other_hosts_are_served_with_tokens_alone(entra: Entra) -> None:
    without = AsgiRuntime(RuntimeConfig(), registry(), keys=Keys(), settings={})
    with pytest.raises(ServeError, match="refusing to serve"):
        await without.serve(host="192.0.2.1", port=0)
    with pytest.raises(ServeError, match="Cannot listen"):  # past that door: the address is not this machine's
        await AsgiRuntime(RuntimeConfig(), registry(), keys=Keys(), entra=entra, settings={}).serve("192.0.2.1", 0)
