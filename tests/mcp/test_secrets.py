from __future__ import annotations

import pytest

from aos.mcp.errors import ServerNotConfigured
from aos.mcp.secrets import EnvironmentSecrets, resolve

VALUE = "p4ssw0rd"


async def test_references_are_replaced_anywhere() -> None:
    source = EnvironmentSecrets({"USER_NAME": "ada", "KEY": VALUE})
    found = await resolve({"A": "${USER_NAME}:${KEY}@host", "B": "plain $5 ${ not one }"}, source, "env")
    assert found.values == {"A": f"ada:{VALUE}@host", "B": "plain $5 ${ not one }"}


async def test_what_was_put_in_is_masked_and_not_replaced_again() -> None:
    source = EnvironmentSecrets({"KEY": "${OTHER}-long", "OTHER": VALUE, "TINY": "ab"})
    found = await resolve({"A": "${KEY}", "B": "${TINY}"}, source, "env")
    assert found.values["A"] == "${OTHER}-long"
    assert found.mask("crab ${OTHER}-long") == "crab ***"
    assert VALUE not in repr(found)
    assert "long" not in repr(found)


async def test_a_secret_that_is_part_of_another_is_no_help() -> None:
    values = {f"SHORT{n}": f"{n:04}" for n in range(20)} | {f"LONG{n}": f"{n:04}-and-the-rest" for n in range(20)}
    found = await resolve({"A": "".join(f"${{{name}}}" for name in values)}, EnvironmentSecrets(values), "env")
    assert found.mask("0007-and-the-rest 0008") == "*** ***"
    assert all("rest" not in found.mask(value) for value in values.values())


async def test_no_line_of_a_secret_is_shown() -> None:
    key = "-----BEGIN-----\nMIIEpAIBAAKCAQ\n}\n-----END-----\n"
    found = await resolve({"A": "${KEY}"}, EnvironmentSecrets({"KEY": key}), "env")
    assert found.mask(f"key: {key}") == "key: ***"
    assert found.mask("MIIEpAIBAAKCAQ") == "***"
    assert found.mask("{}") == "{}"


async def test_missing_names_are_listed_without_values() -> None:
    source = EnvironmentSecrets({"KEY": VALUE})
    with pytest.raises(ServerNotConfigured) as caught:
        await resolve({"A": "${GONE}${KEY}", "B": "${LOST}"}, source, "env of MCP server crm")
    assert "${GONE}, ${LOST}" in caught.value.detail
    assert "crm" in caught.value.detail
    assert VALUE not in caught.value.detail
    assert caught.value.code == "not_configured"


async def test_a_reference_that_the_platform_did_not_resolve_is_not_sent_to_a_server() -> None:
    source = EnvironmentSecrets({"KEY": "@Microsoft.KeyVault(SecretUri=https://kv-x.vault.azure.net/secrets/crm)"})
    with pytest.raises(ServerNotConfigured) as caught:
        await resolve({"Authorization": "Bearer ${KEY}"}, source, "headers of MCP server crm")
    assert "headers of MCP server crm" in caught.value.detail
    assert "not resolved" in caught.value.detail
    assert "${KEY}" in caught.value.detail
    assert "kv-x" not in caught.value.detail


@pytest.mark.parametrize(
    "name",
    [
        "AZURE_CLIENT_SECRET",
        "azure_client_secret",
        "AOS_ADMIN_KEY",
        "aos-admin-key",
        "AzureWebJobsStorage",
        "FOUNDRY_KEY",
        "AzureServiceBusConnectionString",
        "SERVICE_BUS_CONNECTION_STRING",
        "IDENTITY_HEADER",
    ],
)
async def test_the_apps_own_keys_are_refused(name: str) -> None:
    with pytest.raises(ServerNotConfigured, match=rf"not allowed to ask for \$\{{{name}\}}"):
        await resolve({"A": f"x${{{name}}}"}, EnvironmentSecrets({name: VALUE}), "env")


async def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    source = EnvironmentSecrets()
    monkeypatch.setenv("CRM_KEY", VALUE)
    assert (await resolve({"A": "${CRM_KEY}"}, source, "env")).values == {"A": VALUE}
