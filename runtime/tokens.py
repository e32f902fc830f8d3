"""Bearer tokens of Microsoft Entra ID, or of any OpenID provider: verified here, against the provider's own keys.

Checked are the signature (by a key of the provider's JWKS, with an algorithm of the allow-list), `iss`, `aud`, `exp`
and `nbf` (RFC 7519 section 4.1). Keys are fetched when they are needed, kept for an hour, and fetched again when a
token names one that is not known, at a bounded pace.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runtime.easy_auth import caller_of
from runtime.messages import Caller
from runtime.problems import Problem, unauthorized

if TYPE_CHECKING:
    from jwt import PyJWK

log = logging.getLogger("runtime.tokens")

ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
LEEWAY_SECONDS = 60.0
KEYS_KEPT_SECONDS = 3600.0
KEYS_USABLE_SECONDS = 86_400.0
"""How long keys are used while the provider cannot be asked."""
REFETCH_SECONDS = 30.0
"""Between two requests for keys, whatever tokens say."""
FETCH_TIMEOUT_SECONDS = 5.0
MAX_DOCUMENT_BYTES = 1_048_576
MAX_TOKEN_CHARACTERS = 16_384
MAX_KEYS = 100


@dataclass(frozen=True, slots=True)
class Entra:
    """Whose tokens are accepted.

    Attributes:
        issuers: Exactly as in `iss`, such as `https://login.microsoftonline.com/<tenant>/v2.0`. The first one's
            discovery document names the keys, unless `jwks_uri` does.
        audiences: Of which `aud` must name one: the application's client id, or its `api://` URI.
        algorithms: Asymmetric ones only; a token signed with another one is refused.
    """

    issuers: tuple[str, ...]
    audiences: tuple[str, ...]
    jwks_uri: str | None = None
    algorithms: tuple[str, ...] = ("RS256",)

    def __post_init__(self) -> None:
        if not self.issuers or not all(self.audiences) or not self.audiences:
            raise ValueError("name at least one issuer and one audience")
        if not self.algorithms or not ASYMMETRIC.issuperset(self.algorithms):
            raise ValueError(f"algorithms must be among {', '.join(sorted(ASYMMETRIC))}")
        for url in (*self.issuers, *((self.jwks_uri,) if self.jwks_uri is not None else ())):
            _check_url(url)


class TokenVerifier:
    """Verifies the tokens of one provider. Opens nothing until the first token comes, and keeps no connection."""

    def __init__(self, entra: Entra) -> None:
        self._entra = entra
        self._keys: dict[tuple[str, str], PyJWK] = {}  # by name and algorithm
        self._fetched = -KEYS_USABLE_SECONDS
        self._tried = -KEYS_USABLE_SECONDS
        self._lock = asyncio.Lock()

    def accepts_issuer(self, issuer: str) -> bool:
        """Whether tokens of this issuer are accepted."""
        return issuer in self._entra.issuers

    async def verify(self, token: str) -> Caller:
        """The caller that a token names. Raises a 401 `Problem`, or 503 when the provider's keys cannot be had."""
        import jwt

        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _invalid("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._entra.algorithms:
                raise _invalid("its algorithm is not accepted")
            key = await self._key(str(header.get("kid", "")), header["alg"])
            claims = jwt.decode(
                token,
                key,
                algorithms=list(self._entra.algorithms),
                audience=list(self._entra.audiences),
                issuer=list(self._entra.issuers),
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise _invalid(_why(error)) from error
        name = claims.get("oid") or claims.get("sub")
        if not isinstance(name, str) or not name:
            raise _invalid("it has neither oid nor sub")
        roles, delegated = claims.get("roles", []), claims.get("scp", "")
        return caller_of(
            name,
            [role for role in roles if isinstance(role, str)] if isinstance(roles, list) else [],
            delegated.split() if isinstance(delegated, str) else [],
        )

    async def _key(self, kid: str, algorithm: str) -> PyJWK:
        wanted = (kid, algorithm)
        known = self._keys.get(wanted)
        # A known key is used while all are fetched again: a token with a made-up name must not hold up the others.
        kept = KEYS_USABLE_SECONDS if self._lock.locked() else KEYS_KEPT_SECONDS
        if known is not None and time.monotonic() - self._fetched <= kept:
            return known
        async with self._lock:
            age = time.monotonic() - self._fetched
            if (wanted not in self._keys or age > KEYS_KEPT_SECONDS) and self._may_fetch():
                await self._fetch()
                age = time.monotonic() - self._fetched
            if not self._keys or age > KEYS_USABLE_SECONDS:
                headers = {"Retry-After": str(round(REFETCH_SECONDS))}
                raise Problem(503, "identity_provider_unavailable", detail="No keys to verify with.", headers=headers)
        if wanted not in self._keys:
            raise _invalid("its key is not one of the issuer's")
        return self._keys[wanted]

    def _may_fetch(self) -> bool:
        return time.monotonic() - self._tried > REFETCH_SECONDS

    async def _fetch(self) -> None:
        self._tried = time.monotonic()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                uri = self._entra.jwks_uri or await self._discover()
                self._keys = _parse_keys(await _get(uri), self._entra.algorithms)
            self._fetched = time.monotonic()
        except (OSError, ValueError, TimeoutError) as error:
            # Known keys are used meanwhile.
            log.warning("the keys of %s cannot be fetched: %s: %s", self._entra.issuers[0], type(error).__name__, error)

    async def _discover(self) -> str:
        document = await _get(self._entra.issuers[0].rstrip("/") + "/.well-known/openid-configuration")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str):
            raise ValueError("the discovery document names no jwks_uri")
        _check_url(uri)
        return uri


async def _get(url: str) -> dict[str, object]:
    import aiohttp

    try:
        async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as response:
            response.raise_for_status()
            body = await response.content.read(MAX_DOCUMENT_BYTES + 1)
            while len(body) <= MAX_DOCUMENT_BYTES and (more := await response.content.read(MAX_DOCUMENT_BYTES)):
                body += more
    except aiohttp.ClientError as error:
        raise OSError(f"{url}: {error}") from error
    if len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{url} answers with more than {MAX_DOCUMENT_BYTES} bytes")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"{url} does not answer with a JSON object")
    return document


def _parse_keys(document: dict[str, object], algorithms: Sequence[str]) -> dict[tuple[str, str], PyJWK]:
    """The keys by name and algorithm: the one that a key names, else each of `algorithms` that fits its type."""
    import jwt

    listed = document.get("keys")
    if not isinstance(listed, list):
        raise ValueError("the key set has no list of keys")
    keys: dict[tuple[str, str], PyJWK] = {}
    for item in listed[:MAX_KEYS]:
        if isinstance(item, dict) and isinstance(item.get("kid"), str) and item.get("use", "sig") == "sig":
            faults: list[jwt.PyJWTError] = []
            named = (item["alg"],) if isinstance(item.get("alg"), str) else algorithms
            for algorithm in named:
                try:
                    key = jwt.PyJWK.from_dict(item, algorithm)
                except jwt.PyJWTError as error:
                    faults.append(error)
                    continue
                if algorithm in ASYMMETRIC:
                    keys[item["kid"], algorithm] = key
            if len(faults) == len(named):
                log.warning("key %s cannot be used: %s", item["kid"], faults[0])
    if not keys:
        raise ValueError("the key set has no usable key")
    return keys


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise ValueError(f"{url!r} is not an https URL")


def _why(error: Exception) -> str:
    return {
        "ExpiredSignatureError": "it has expired",
        "ImmatureSignatureError": "it is not valid yet",
        "InvalidAudienceError": "it is meant for another audience",
        "InvalidIssuerError": "its issuer is not accepted",
        "InvalidSignatureError": "its signature is wrong",
        "MissingRequiredClaimError": "it lacks exp, iss or aud",
    }.get(type(error).__name__, "it cannot be read")


def _invalid(why: str) -> Problem:
    # RFC 6750 section 3.1.
    challenge = f'Bearer realm="api", error="invalid_token", error_description="{why}"'
    return unauthorized(f"The token is not accepted: {why}.", challenge, code="invalid_token")
