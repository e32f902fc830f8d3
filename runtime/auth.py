"""Who may call a route: function and admin keys, as the Azure Functions host has them.

A key travels in the header `x-functions-key` or the query parameter `code`; the admin key may also travel in
`x-admin-key`, because on Azure the first two are checked by the host, against its own keys.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from runtime.messages import Caller, CallerKind, Headers
from runtime.problems import forbidden, unauthorized
from runtime.routes_registry import AuthLevel

FUNCTION_KEY_HEADER = "x-functions-key"
ADMIN_KEY_HEADER = "x-admin-key"
KEY_QUERY_PARAMETER = "code"

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

    async def authorize(self, level: AuthLevel, credentials: Credentials) -> Caller:
        """The caller, or a 401 or 403 `Problem`."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of an application. `named` are further function keys by name, one per calling application.

    A blank key counts as absent, so that an empty setting never opens a door.
    """

    function: str | None = field(default=None, repr=False)
    admin: str | None = field(default=None, repr=False)
    named: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self._entries())

    def identify(self, presented: str) -> Caller | None:
        """The holder of this key, or None. Takes the same time for every wrong key of a given length."""
        given = presented.encode()
        found: Caller | None = None
        for name, key, is_admin in self._entries():
            if hmac.compare_digest(given, key.encode()) and (found is None or is_admin):
                found = Caller(CallerKind.KEY, name, is_admin)
        return found

    def _entries(self) -> list[tuple[str, str, bool]]:
        entries = [("function", self.function, False), *((name, key, False) for name, key in self.named.items())]
        return [(name, key, is_admin) for name, key, is_admin in [*entries, ("admin", self.admin, True)] if key]


class KeyAuthorizer:
    """Keys, checked by this process.

    With `host_checks_function_keys` (Azure Functions) a request that arrives has passed the host's check for FUNCTION
    routes, and only the admin key is ours to check. Without it and without any key, only this machine is served.
    """

    def __init__(self, keys: Keys, *, host_checks_function_keys: bool = False) -> None:
        self._keys = keys
        self._host_checks = host_checks_function_keys

    async def authorize(self, level: AuthLevel, credentials: Credentials) -> Caller:
        """The caller, or a 401 or 403 `Problem`."""
        caller = self._identify(credentials)
        if level is AuthLevel.ANONYMOUS:
            return caller or _ANONYMOUS
        if caller is None and self._host_checks:
            caller = _HOST_CHECKED
        if caller is None:
            if not self._keys:
                raise unauthorized("No keys are configured, so only this machine is served, under a loopback name.")
            raise unauthorized(
                f"Send a key in the header {FUNCTION_KEY_HEADER} or the parameter {KEY_QUERY_PARAMETER}."
            )
        if level is AuthLevel.ADMIN and not caller.is_admin:
            if not self._keys.admin:
                raise forbidden("admin_key_not_configured", "No admin key is configured for this application.")
            raise forbidden("admin_required", f"This route needs the admin key; {ADMIN_KEY_HEADER} carries it too.")
        return caller

    def _identify(self, credentials: Credentials) -> Caller | None:
        if not self._keys and not self._host_checks:
            return _LOCAL if _is_local(credentials) else None
        presented = (
            credentials.headers.get(ADMIN_KEY_HEADER),
            credentials.headers.get(FUNCTION_KEY_HEADER),
            credentials.query.get(KEY_QUERY_PARAMETER),
        )
        callers = [caller for key in presented if key and (caller := self._keys.identify(key)) is not None]
        return max(callers, key=lambda caller: caller.is_admin, default=None)


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
