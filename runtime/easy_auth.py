"""The caller as App Service authentication ("Easy Auth") tells it, in the header `X-MS-CLIENT-PRINCIPAL`.

Anybody can send that header. The platform removes what came from outside and writes its own only where authentication
is switched on, which it says in the setting `WEBSITE_AUTH_ENABLED`; everywhere else the header is not looked at.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping

from runtime.messages import Caller, CallerKind
from runtime.problems import Problem, unauthorized

HEADER = "x-ms-client-principal"
MAX_HEADER = 64 * 1024

_OBJECT_ID = ("oid", "http://schemas.microsoft.com/identity/claims/objectidentifier")
_SUBJECT = ("sub", "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier")
_ROLES = ("roles", "http://schemas.microsoft.com/ws/2008/06/identity/claims/role")
_SCOPES = ("scp", "http://schemas.microsoft.com/identity/claims/scope")


def proven(environ: Mapping[str, str]) -> bool:
    """Whether the platform says that it, and nobody else, sets the header. Both settings are its own and read-only."""
    enabled = environ.get("WEBSITE_AUTH_ENABLED", "").strip().lower() in ("true", "1")
    return enabled and bool(environ.get("WEBSITE_SITE_NAME", "").strip())


def principal(headers: Mapping[str, str], accepts_issuer: Callable[[str], bool]) -> Caller | None:
    """The caller that the platform has signed in, or None. Raises a 401 `Problem` for one of another issuer."""
    sent = headers.get(HEADER, "")
    if not sent:
        return None
    try:
        if len(sent) > MAX_HEADER:
            raise ValueError("too long")
        document = json.loads(base64.b64decode(sent, validate=True))
        claims = [(str(claim["typ"]), str(claim["val"])) for claim in document["claims"]]
        provider, role_type = str(document.get("auth_typ")), str(document.get("role_typ") or _ROLES[0])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise unauthorized("X-MS-CLIENT-PRINCIPAL cannot be read.", code="invalid_principal") from None
    if provider != "aad":
        raise _refused("The platform signed the caller in with another provider than Microsoft Entra ID.")
    if not all(accepts_issuer(value) for kind, value in claims if kind == "iss"):
        raise _refused("The caller was signed in by an issuer that is not accepted here.")
    name = next((value for kind, value in claims if kind in (*_OBJECT_ID, *_SUBJECT)), "")
    if not name:
        raise _refused("The principal has neither an object id nor a subject.")
    roles = [value for kind, value in claims if kind in (*_ROLES, role_type)]
    delegated = [word for kind, value in claims if kind in _SCOPES for word in value.split()]
    return caller_of(name, roles, delegated)


def caller_of(name: str, roles: Iterable[str], delegated: Iterable[str]) -> Caller:
    """A caller with the scopes of its roles; only without any, those that a client was given on its behalf.

    Roles are given to the caller by an administrator. What a client may ask for on a user's behalf is no more than
    that, so words such as `admin` count as roles alone.
    """
    scopes = frozenset(roles) or frozenset(scope for scope in delegated if ":" in scope)
    return Caller(CallerKind.TOKEN, name, "admin" in scopes, scopes)


def _refused(detail: str) -> Problem:
    return unauthorized(detail, code="invalid_principal")
