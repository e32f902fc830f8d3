from __future__ import annotations

import pytest

from runtime import Caller, CallerKind, KeySettingError, NamedKey, parse_keys

SHOP = '{"shop": {"key": "0123456789abcdef", "scopes": ["agents/ceo:run", "agents/*:read"]}}'


def test_keys_and_their_scopes() -> None:
    keys = parse_keys(SHOP)
    assert keys == {"shop": NamedKey("0123456789abcdef", frozenset({"agents/ceo:run", "agents/*:read"}))}
    assert "0123" not in repr(keys)
    assert parse_keys(" ") == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "the whole: Invalid JSON"),
        ('{"shop": {"key": "tooshort", "scopes": []}}', "shop/key: .* at least 16"),
        ('{"shop": {"key": "0123456789abcdef"}}', "shop/scopes: Field required"),
        ('{"shop": {"key": "0123456789abcdef", "scopes": ["a b"]}}', "shop/scopes/0: String should match"),
        ('{"admin": {"key": "0123456789abcdef", "scopes": []}}', "admin: the name is taken"),
        (SHOP[:-1] + ", " + SHOP[1:].replace("shop", "pos"), "two names have the same key"),
    ],
)
def test_what_is_wrong_is_named_without_the_key(text: str, fault: str) -> None:
    with pytest.raises(KeySettingError, match=fault) as caught:
        parse_keys(text)
    assert "0123456789abcdef" not in str(caught.value)
    assert "tooshort" not in str(caught.value)


def test_a_scope_covers_by_segment_and_action() -> None:
    caller = Caller(CallerKind.KEY, "shop", scopes=frozenset({"agents/ceo:run", "agents/*:read", "reports:*"}))
    for scope in ("agents/ceo:run", "agents/ceo:read", "agents/cto:read", "reports:write"):
        assert caller.may(scope), scope
    for scope in ("agents/cto:run", "agents:read", "agents/a/b:read", "admin", "agents/ceo", "agents/*:run", ""):
        assert not caller.may(scope), scope
    assert not Caller().may("agents/ceo:read")
    unlimited = Caller(CallerKind.KEY, "function")
    assert (unlimited.may("agents/ceo:run"), unlimited.holds("agents/ceo:run")) == (True, False)
    assert Caller(CallerKind.KEY, "ops", is_admin=True, scopes=frozenset()).may("anything:at-all")
