from __future__ import annotations

import pytest

from aos.access import entra_of, keys_of
from aos.config import load_settings
from aos.errors import SettingError

TENANT = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0"


def test_keys_come_from_three_settings() -> None:
    more = '{"shop": {"key": "0123456789abcdef", "scopes": ["agents/ceo:run"]}}'
    keys = keys_of(load_settings({"AOS_FUNCTION_KEY": "f", "AOS_ADMIN_KEY": "a", "AOS_KEYS": more}))
    callers = [keys.identify(key) for key in ("f", "a", "0123456789abcdef", "wrong")]
    assert [caller and caller.name for caller in callers] == ["function", "admin", "shop", None]
    assert not keys_of(load_settings({}))


REFERENCE = "@Microsoft.KeyVault(VaultName=kv-aos-x;SecretName=aos-admin-key)"


@pytest.mark.parametrize("setting", ["AOS_ADMIN_KEY", "AOS_FUNCTION_KEY", "AOS_KEYS"])
def test_a_reference_that_was_not_resolved_is_no_key(setting: str, caplog: pytest.LogCaptureFixture) -> None:
    keys = keys_of(load_settings({setting: REFERENCE}))
    assert keys.identify(REFERENCE) is None
    assert not keys
    assert f"{setting} is left out" in caplog.text
    assert "kv-aos-x" not in caplog.text


def test_a_reference_inside_of_the_named_keys_is_refused() -> None:
    with pytest.raises(SettingError, match="AOS_KEYS: shop/key: is a reference") as caught:
        keys_of(load_settings({"AOS_KEYS": f'{{"shop": {{"key": "{REFERENCE}", "scopes": ["admin"]}}}}'}))
    assert "kv-aos-x" not in caught.value.detail


def test_tokens_need_both_settings() -> None:
    assert entra_of(load_settings({})) is None
    entra = entra_of(load_settings({"AOS_ENTRA_ISSUERS": f"{TENANT} , ", "AOS_ENTRA_AUDIENCES": "a,api://a"}))
    assert entra is not None
    assert (entra.issuers, entra.audiences) == ((TENANT,), ("a", "api://a"))


@pytest.mark.parametrize(
    "settings",
    [
        {"AOS_ENTRA_ISSUERS": TENANT},
        {"AOS_ENTRA_AUDIENCES": "a"},
        {"AOS_ENTRA_ISSUERS": "http://plain.example", "AOS_ENTRA_AUDIENCES": "a"},
        {"AOS_KEYS": '{"shop": {"key": "short", "scopes": []}}'},
        {"AOS_KEYS": '{"shop": {"key": "0123456789abcdef", "scopes": ["aprover"]}}'},
        {"AOS_KEYS": '{"shop": {"key": "0123456789abcdef", "scopes": ["agents/ceo:run", "agents/ceo:ran"]}}'},
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str]) -> None:
    given = load_settings(settings)
    with pytest.raises(SettingError, match=r"AOS_(ENTRA_ISSUERS|KEYS)") as caught:
        (keys_of if "AOS_KEYS" in settings else entra_of)(given)
    assert "short" not in caught.value.detail.replace("shorter", "")
