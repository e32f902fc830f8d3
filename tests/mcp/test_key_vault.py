"""Secrets from a key vault, read by the real SDK."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from aos.mcp.errors import ServerNotConfigured, ServerUnavailable
from aos.mcp.key_vault import KEEP, KEEP_MISS, KeyVaultSecrets, open_secrets
from aos.mcp.secrets import EnvironmentSecrets, resolve
from tests.mcp.conftest import ShiftedClock, StandingClock
from tests.mcp.key_vault import TOKEN, KeyVault, serving

VALUE = "v4ult-value"


class Identity:
    """A credential that has the token, and knows for what it was asked."""

    def __init__(self) -> None:
        self.scopes: set[str] = set()

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.scopes |= set(scopes)
        return AccessToken(TOKEN, int(time.time()) + 3600)

    async def close(self) -> None:
        return

    async def __aenter__(self) -> Identity:
        return self

    async def __aexit__(self, *error: object) -> None:
        return


@pytest.fixture
def clock() -> ShiftedClock:
    return StandingClock()


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[KeyVault]:
    async with serving(KeyVault({"CRM-API-KEY": VALUE, "BOTH": VALUE}), tmp_path) as running:
        yield running


@pytest.fixture
def identity() -> Identity:
    return Identity()


@pytest.fixture
async def secrets(vault: KeyVault, identity: Identity, clock: ShiftedClock) -> AsyncIterator[KeyVaultSecrets]:
    environment = EnvironmentSecrets({"ONLY_HERE": "from-the-environment", "BOTH": "not this one"})
    opened = KeyVaultSecrets(
        vault.url,
        identity,
        clock,
        environment,
        connection_verify=vault.certificate,
        # Its name is not below vault.azure.net, as those of real vaults are.
        verify_challenge_resource=False,
        retry_total=0,
    )
    yield opened
    await opened.close()


async def test_the_challenge_is_answered_and_underscores_become_dashes(
    secrets: KeyVaultSecrets, vault: KeyVault, identity: Identity
) -> None:
    assert await secrets.get("CRM_API_KEY") == VALUE
    assert vault.challenges == 1
    assert vault.asked == ["CRM-API-KEY"]
    assert identity.scopes == {"https://vault.azure.net/.default"}


async def test_the_vault_comes_before_the_environment(secrets: KeyVaultSecrets) -> None:
    assert await secrets.get("BOTH") == VALUE
    assert await secrets.get("ONLY_HERE") == "from-the-environment"
    assert await secrets.get("NOWHERE") is None


async def test_what_was_read_is_believed_for_a_while(
    secrets: KeyVaultSecrets, vault: KeyVault, clock: ShiftedClock
) -> None:
    await secrets.get("CRM_API_KEY")
    await secrets.get("NOWHERE")
    vault.secrets |= {"CRM-API-KEY": "rotated-value", "NOWHERE": "there-now"}
    assert await secrets.get("CRM_API_KEY") == VALUE
    assert await secrets.get("NOWHERE") is None
    assert len(vault.asked) == 2
    clock.shift += KEEP_MISS + 1
    assert await secrets.get("NOWHERE") == "there-now"
    assert await secrets.get("CRM_API_KEY") == VALUE
    clock.shift += KEEP
    assert await secrets.get("CRM_API_KEY") == "rotated-value"


async def test_what_may_not_be_read_is_said_without_values(secrets: KeyVaultSecrets, vault: KeyVault) -> None:
    vault.status = 403
    with pytest.raises(ServerNotConfigured, match="role Key Vault Secrets User"):
        await secrets.get("CRM_API_KEY")
    vault.status = 500
    with pytest.raises(ServerUnavailable, match="HTTP 500"):
        await secrets.get("CRM_API_KEY")
    vault.status = None
    assert await secrets.get("CRM_API_KEY") == VALUE


async def test_a_vault_that_is_not_there(identity: Identity, clock: ShiftedClock, unused_port: int) -> None:
    secrets = KeyVaultSecrets(
        f"https://localhost:{unused_port}", identity, clock, EnvironmentSecrets({}), retry_total=0
    )
    with pytest.raises(ServerUnavailable, match="does not answer"):
        await secrets.get("CRM_API_KEY")
    await secrets.close()


@pytest.fixture
def unused_port() -> int:
    from emulators.ports import settle

    return settle({"PORT": ("nobody", 0)})["PORT"]


async def test_it_is_never_logged(secrets: KeyVaultSecrets, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        found = await resolve({"KEY": "Bearer ${CRM_API_KEY}"}, secrets, "env of MCP server crm")
    assert found.values == {"KEY": f"Bearer {VALUE}"}
    assert VALUE not in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("name", ["AZURE_CLIENT_SECRET", "aos-admin-key", "AOS-ADMIN_KEY"])
async def test_our_own_keys_are_not_looked_up(secrets: KeyVaultSecrets, vault: KeyVault, name: str) -> None:
    with pytest.raises(ServerNotConfigured, match="not allowed to ask for"):
        await resolve({"KEY": f"${{{name}}}"}, secrets, "env")
    assert vault.asked == []


async def test_without_a_vault_the_environment_is_all_there_is(clock: ShiftedClock) -> None:
    assert isinstance(open_secrets(None, None, clock), EnvironmentSecrets)
