"""Who may call this app, from its settings: what the runtime checks callers against."""

from __future__ import annotations

import re

from aos.config import Settings, is_reference
from aos.errors import SettingError
from runtime import Entra, Keys, KeySettingError, parse_keys

SCOPE = re.compile(r"agents/(\*|[a-z0-9][a-z0-9_-]{0,47}):(\*|read|run)|approver|admin")
"""What the routes ask for (`aos.app`)."""


def keys_of(settings: Settings) -> Keys:
    """The keys. Raises `SettingError` that names the setting."""
    try:
        named = parse_keys(settings.keys)
    except KeySettingError as error:
        raise SettingError(f"AOS_KEYS: {error}.") from None
    for name, key in named.items():
        if is_reference(key.key):
            raise SettingError(
                f"AOS_KEYS: {name}/key: is a reference to Key Vault, which is resolved only where it is the whole value"
                " of a setting: keep all of AOS_KEYS in one secret."
            )
        # A scope that allows nothing is a slip of the pen; its key would be refused everywhere.
        if wrong := sorted(scope for scope in key.scopes or () if not SCOPE.fullmatch(scope)):
            raise SettingError(
                f"AOS_KEYS: {name}/scopes: there is no scope {wrong[0]!r}; scopes are agents/<id>:read and"
                " agents/<id>:run, both also with * in place of the id, approver and admin."
            )
    return Keys(function=settings.function_key, admin=settings.admin_key, named=named)


def entra_of(settings: Settings) -> Entra | None:
    """Whose tokens are accepted; None: nobody's. Raises `SettingError` that names the setting."""
    if not settings.entra_issuers and not settings.entra_audiences:
        return None
    try:
        return Entra(settings.entra_issuers, settings.entra_audiences)
    except ValueError as error:
        raise SettingError(f"AOS_ENTRA_ISSUERS, AOS_ENTRA_AUDIENCES: {error}.") from None
