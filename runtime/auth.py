"""Who may call a route: keys as the Azure Functions host has them, and tokens of Microsoft Entra ID.

A key travels in the header `x-functions-key` or the query parameter `code`; the admin key may also travel in
`x-admin-key`, because on Azure the first two are checked by the host, against its own keys. A token travels in
`Authorization: Bearer`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from runtime.easy_auth import principal
from runtime.messages import Caller, CallerKind, Headers
from runtime.problems import KEY_CHALLENGE, Problem, forbidden, unauthorized
from runtime.routes import AuthLevel

FUNCTION_KEY_HEADER = "x-functions-key"
ADMIN_KEY_HEADER = "x-admin-key"
KEY_QUERY_PARAMETER = "code"
ADMIN = "admin"
"""The scope that makes a caller an administrator."""
BEARER_CHALLENGE = 'Bearer realm="api"'

_ANONYMOUS = Caller()
_LOCAL = Caller(CallerKind.LOCAL, "local", is_admin=True)
_HOST_CHECKED = Caller(CallerKind.KEY, "function")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an authorizer sees of a request. `peer` is the address of the other end of the connection, if known."""

    headers: Headers
    query: Mapping[str, str]
    peer: str | None = None


class Authorizer(Protocol):
    """Decides whether a caller may use a route."""

    async def authorize(self, level: AuthLevel, credentials: Credentials, scopes: Sequence[str] = ()) -> Caller:
        """The caller, or a 401 or 403 `Problem`. One of `scopes`, if there are any, lets a caller in."""


class Tokens(Protocol):
    """Verifies bearer tokens."""

    async def verify(self, token: str) -> Caller:
        """The caller that a token names, or a 401 or 503 `Problem`."""

    def accepts_issuer(self, issuer: str) -> bool:
        """Whether this issuer's statements count."""


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A key with scopes; None: everything that is not for administrators. Scope `admin` makes an admin key."""

    key: str = field(repr=False)
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of an application. `named` are further keys by name, one per calling application.

    A blank key counts as absent, so that an empty setting never opens a door.
    """

    function: str | None = field(default=None, repr=False)
    admin: str | None = field(default=None, repr=False)
    named: Mapping[str, str | NamedKey] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self._entries())

    @property
    def has_admin(self) -> bool:
        """Whether some key makes its holder an administrator."""
        return any(caller.is_admin for _, caller in self._entries())

    def identify(self, presented: str) -> Caller | None:
        """The holder of this key, or None. Takes the same time for every wrong key."""
        given = _digest(presented)
        found: Caller | None = None
        for key, caller in self._entries():
            if hmac.compare_digest(given, _digest(key)) and (found is None or caller.is_admin):
                found = caller
        return found

    def _entries(self) -> list[tuple[str, Caller]]:
        entries = [(self.function or "", Caller(CallerKind.KEY, "function"))]
        for name, value in self.named.items():
            named = value if isinstance(value, NamedKey) else NamedKey(value)
            caller = Caller(CallerKind.KEY, name, ADMIN in (named.scopes or ()), named.scopes)
            entries.append((named.key, caller))
        entries.append((self.admin or "", Caller(CallerKind.KEY, "admin", is_admin=True)))
        return [(key, caller) for key, caller in entries if key]


class RequestAuthorizer:
    """Keys and tokens, checked by this process.

    With `host_checks_function_keys` (Azure Functions without tokens) a request that arrives has passed the host's
    check for FUNCTION routes, and only admin and named keys are ours to check. Without it, and without any key or
    `tokens`, only this machine is served. `platform_principals`: the header `X-MS-CLIENT-PRINCIPAL` was set by the
    platform (see `runtime.easy_auth.proven`); anywhere else it is nobody's word.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        host_checks_function_keys: bool = False,
        tokens: Tokens | None = None,
        platform_principals: bool = False,
    ) -> None:
        self._keys = keys
        self._host_checks = host_checks_function_keys
        self._tokens = tokens
        self._principals = platform_principals and tokens is not None

    async def authorize(self, level: AuthLevel, credentials: Credentials, scopes: Sequence[str] = ()) -> Caller:
        """The caller, or a 401 or 403 `Problem`."""
        if level is AuthLevel.ANONYMOUS:
            return await self._known_or_anonymous(credentials)
        caller = await self._identify(credentials)
        if caller is None and self._host_checks:
            caller = _HOST_CHECKED
        if caller is None:
            raise self._unknown(_presented(credentials))
        if level is AuthLevel.ADMIN:
            if not caller.is_admin and not any(caller.holds(scope) for scope in scopes):
                raise self._not_admin(scopes)
        elif scopes and not any(caller.may(scope) for scope in scopes):
            raise forbidden("scope_required", f"This needs one of the scopes: {', '.join(scopes)}.")
        return caller

    async def _known_or_anonymous(self, credentials: Credentials) -> Caller:
        try:
            return await self._identify(credentials) or _ANONYMOUS
        except Problem:
            # A bad token is no worse than none where none is asked for.
            return _ANONYMOUS

    async def _identify(self, credentials: Credentials) -> Caller | None:
        if not self._keys and not self._host_checks and self._tokens is None:
            return _LOCAL if _is_local(credentials) else None
        headers = credentials.headers
        callers = [caller for key in _presented(credentials) if (caller := self._keys.identify(key)) is not None]
        if callers:
            return max(callers, key=lambda caller: caller.is_admin)
        if self._tokens is not None:
            if self._principals and (known := principal(headers, self._tokens.accepts_issuer)) is not None:
                return known
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                return await self._tokens.verify(token.strip())
        return None

    def _unknown(self, presented: Sequence[str]) -> Problem:
        if not self._keys and self._tokens is None:
            return unauthorized("No keys are configured, so only this machine is served, under a loopback name.")
        refused = "The key that was sent is not one of this application's. " if presented else ""
        detail = f"{refused}Send a key in the header {FUNCTION_KEY_HEADER} or the parameter {KEY_QUERY_PARAMETER}"
        if self._tokens is None:
            return unauthorized(f"{detail}.")
        return unauthorized(f"{detail}, or a token in Authorization: Bearer.", BEARER_CHALLENGE, KEY_CHALLENGE)

    def _not_admin(self, scopes: Sequence[str]) -> Problem:
        if not self._keys.has_admin and self._tokens is None:
            return forbidden("admin_key_not_configured", "No admin key is configured for this application.")
        others = f", or one of the scopes: {', '.join(scopes)}" if scopes else ""
        detail = f"This route needs the admin key ({ADMIN_KEY_HEADER} carries it too){others}."
        return forbidden("admin_required", detail)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine (RFC 6761 section 6.3, RFC 1122, RFC 4291)."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _presented(credentials: Credentials) -> list[str]:
    """All keys of a request."""
    headers = credentials.headers
    keys = (
        headers.get(ADMIN_KEY_HEADER),
        headers.get(FUNCTION_KEY_HEADER),
        credentials.query.get(KEY_QUERY_PARAMETER),
    )
    return [key for key in keys if key]


def _digest(key: str) -> bytes:
    # Of equal length, whatever was sent: a comparison must not tell how long the right key is.
    return hashlib.sha256(key.encode()).digest()


def _is_local(credentials: Credentials) -> bool:
    """A request from this machine that no web page made: browsers send foreign pages' requests to loopback too,
    marked by `Origin`, or, after DNS rebinding, by a foreign `Host`."""
    if credentials.peer is None or not is_loopback(credentials.peer):
        return False
    host = urlsplit(f"//{credentials.headers.get('host', '')}").hostname
    origin = credentials.headers.get("origin")
    if host is None or not is_loopback(host):
        return False
    return origin is None or is_loopback(urlsplit(origin).hostname or "")
