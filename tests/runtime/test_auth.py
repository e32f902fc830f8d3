from __future__ import annotations

import pytest

from runtime import AuthLevel, Caller, CallerKind, Headers, Keys, Problem
from runtime.auth import Credentials, RequestAuthorizer, is_loopback

KEYS = Keys(function="f-key", admin="a-key", named={"shop": "s-key", "empty": ""})
FUNCTION = Caller(CallerKind.KEY, "function")
ADMIN = Caller(CallerKind.KEY, "admin", is_admin=True)


def sent(code: str = "", peer: str | None = "203.0.113.9", **headers: str) -> Credentials:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Credentials(Headers(named), {"code": code} if code else {}, peer)


async def refusal(authorizer: RequestAuthorizer, level: AuthLevel, credentials: Credentials) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        await authorizer.authorize(level, credentials)
    assert caught.value.detail is not None
    assert "-key-" not in caught.value.detail
    return caught.value.status, caught.value.code


@pytest.mark.parametrize(
    ("credentials", "caller"),
    [
        (sent(x_functions_key="f-key"), FUNCTION),
        (sent(code="f-key"), FUNCTION),
        (sent(x_functions_key="s-key"), Caller(CallerKind.KEY, "shop")),
        (sent(x_functions_key="a-key"), ADMIN),
        (sent(x_functions_key="f-key", x_admin_key="a-key"), ADMIN),
        (sent(code="a-key", x_functions_key="wrong"), ADMIN),
    ],
)
async def test_keys_are_found_in_header_and_query(credentials: Credentials, caller: Caller) -> None:
    assert await RequestAuthorizer(KEYS).authorize(AuthLevel.FUNCTION, credentials) == caller


@pytest.mark.parametrize("key", ["", "wrong", "f-ke", "f-key ", "grün"])
async def test_wrong_keys_are_refused(key: str) -> None:
    authorizer = RequestAuthorizer(KEYS)
    assert await refusal(authorizer, AuthLevel.FUNCTION, sent(x_functions_key=key)) == (401, "unauthorized")
    assert await refusal(authorizer, AuthLevel.ADMIN, sent(code=key)) == (401, "unauthorized")
    assert await authorizer.authorize(AuthLevel.ANONYMOUS, sent(x_functions_key=key)) == Caller()


async def test_a_wrong_key_is_told_from_none() -> None:
    authorizer = RequestAuthorizer(KEYS)
    details = []
    for credentials in (sent(x_functions_key="wrong"), sent(code="wrong"), sent()):
        with pytest.raises(Problem) as caught:
            await authorizer.authorize(AuthLevel.FUNCTION, credentials)
        details.append(str(caught.value.detail))
    assert ["is not one of this application's" in detail for detail in details] == [True, True, False]


async def test_admin_routes_need_the_admin_key() -> None:
    authorizer = RequestAuthorizer(KEYS)
    assert await authorizer.authorize(AuthLevel.ADMIN, sent(x_admin_key="a-key")) == ADMIN
    assert await refusal(authorizer, AuthLevel.ADMIN, sent(x_functions_key="f-key")) == (403, "admin_required")
    without = RequestAuthorizer(Keys(function="f-key", admin=""))
    expected = (403, "admin_key_not_configured")
    assert await refusal(without, AuthLevel.ADMIN, sent(x_functions_key="f-key")) == expected


async def test_the_host_checks_function_keys_but_not_ours() -> None:
    authorizer = RequestAuthorizer(Keys(admin="a-key"), host_checks_function_keys=True)
    assert await authorizer.authorize(AuthLevel.FUNCTION, sent(x_functions_key="the host's")) == FUNCTION
    assert await authorizer.authorize(AuthLevel.ADMIN, sent(x_admin_key="a-key")) == ADMIN
    assert await refusal(authorizer, AuthLevel.ADMIN, sent(peer="127.0.0.1")) == (403, "admin_required")
    unset = RequestAuthorizer(Keys(), host_checks_function_keys=True)
    local = sent(peer="127.0.0.1", host="127.0.0.1")
    assert await refusal(unset, AuthLevel.ADMIN, local) == (403, "admin_key_not_configured")


async def test_without_keys_this_machine_is_the_admin() -> None:
    authorizer = RequestAuthorizer(Keys(function="", named={"empty": ""}))
    caller = await authorizer.authorize(AuthLevel.ADMIN, sent(peer="127.0.0.1", host="localhost:7071"))
    assert caller == Caller(CallerKind.LOCAL, "local", is_admin=True)
    page = sent(peer="::1", host="[::1]:7071", origin="http://localhost:3000")
    assert (await authorizer.authorize(AuthLevel.FUNCTION, page)).is_admin


@pytest.mark.parametrize(
    "credentials",
    [
        sent(peer="203.0.113.9", host="localhost"),
        sent(peer=None, host="localhost"),
        sent(peer="127.0.0.1"),
        sent(peer="127.0.0.1", host="rebound.example:7071"),
        sent(peer="127.0.0.1", host="localhost", origin="https://evil.example"),
        sent(peer="127.0.0.1", host="localhost", origin="null"),
    ],
)
async def test_without_keys_nobody_else_is_served(credentials: Credentials) -> None:
    authorizer = RequestAuthorizer(Keys())
    assert await refusal(authorizer, AuthLevel.FUNCTION, credentials) == (401, "unauthorized")
    assert await authorizer.authorize(AuthLevel.ANONYMOUS, credentials) == Caller()


def test_keys_never_show() -> None:
    assert "key" not in repr(KEYS).replace("Keys", "")
    assert not Keys(function="", admin=None)
    assert KEYS


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("api.LOCALHOST.", True),
        ("0.0.0.0", False),  # noqa: S104  # not bound to
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
