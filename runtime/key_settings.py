"""Keys with scopes, from one JSON setting: `{"shop": {"key": "...", "scopes": ["agents/ceo:run"]}}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from runtime.auth import NamedKey

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Scope = Annotated[str, Field(pattern=r"^[A-Za-z0-9*][A-Za-z0-9*._/-]{0,127}(:[A-Za-z0-9*._-]{1,32})?$")]
RESERVED = frozenset({"function", "admin", "anonymous", "local"})
"""Names of callers that need no key of their own name."""


class KeySettingError(ValueError):
    """The setting cannot be used. `faults`: where and why, without its values."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("; ".join(faults))


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[SecretStr, Field(min_length=16, max_length=512)]
    scopes: frozenset[Scope]


_LENGTHS = {"too_short": "a key has at least 16 characters", "too_long": "a key has at most 512 characters"}
_KEYS = TypeAdapter(dict[KeyName, _Key])


def parse_keys(text: str) -> dict[str, NamedKey]:
    """The keys by name; blank text has none.

    Raises:
        KeySettingError: It is not such JSON, a key is shorter than 16 characters, or two are the same.
    """
    if not text.strip():
        return {}
    try:
        keys = _KEYS.validate_json(text)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise KeySettingError([f"{'/'.join(map(str, f['loc'])) or 'the whole'}: {_said(f)}" for f in faults]) from None
    wrong = [f"{name}: the name is taken by the runtime" for name in keys if name in RESERVED]
    if len({key.key.get_secret_value() for key in keys.values()}) < len(keys):
        wrong.append("two names have the same key")
    if wrong:
        raise KeySettingError(wrong)
    return {name: NamedKey(key.key.get_secret_value(), key.scopes) for name, key in keys.items()}


def _said(fault: ErrorDetails) -> str:
    """Of a secret pydantic counts "items"."""
    return _LENGTHS.get(fault["type"], fault["msg"])
