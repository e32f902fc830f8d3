"""Who may call this app, from its settings: what the runtime checks callers against."""

from __future__ import annotations

from aos.config import Settings
from aos.errors import SettingError
from runtime import Entra, Keys, KeySettingError, parse_keys


def keys_of(settings: Settings) -> Keys:
    """The keys. Raises `SettingError` that names the setting."""
    try:
        named = parse_keys(settings.keys)
    except KeySettingError as error:
        raise SettingError(f"AOS_KEYS: {error}.") from None
    return Keys(function=settings.function_key, admin=settings.admin_key, named=named)


def entra_of(settings: Settings) -> Entra | None:
    """Whose tokens are accepted; None: nobody's. Raises `SettingError` that names the setting."""
    if not settings.entra_issuers and not settings.entra_audiences:
        return None
    try:
        return Entra(settings.entra_issuers, settings.entra_audiences)
    except ValueError as error:
        raise SettingError(f"AOS_ENTRA_ISSUERS, AOS_ENTRA_AUDIENCES: {error}.") from None
