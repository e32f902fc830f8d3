"""Secrets of MCP servers from an Azure Key Vault, before those of the environment."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from aos.kernel.clock import Clock
from aos.mcp.errors import ServerNotConfigured, ServerUnavailable
from aos.mcp.secrets import EnvironmentSecrets, SecretSource

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.keyvault.secrets.aio import SecretClient

log = logging.getLogger("aos.mcp")

KEEP = 300.0
"""Seconds for which a secret that was read is believed; a server that is restarted later gets the new one."""
KEEP_MISS = 15.0
"""Seconds for which the vault is believed to lack a secret: somebody may be about to set it."""
CACHED = 1024

_VAULT_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
"""What Key Vault accepts as the name of a secret."""


class KeyVaultSecrets:
    """Secrets of one vault, then of `otherwise`.

    `${CRM_API_KEY}` is the vault's `CRM-API-KEY`: underscores are no part of its names.

    Args:
        url: `https://<vault>.vault.azure.net`
        credential: Needs the role Key Vault Secrets User.
        otherwise: Has what the vault does not have.
        options: For the SDK's client.
    """

    def __init__(
        self, url: str, credential: AsyncTokenCredential, clock: Clock, otherwise: SecretSource, **options: Any
    ) -> None:
        self._url = url.rstrip("/")
        self._credential = credential
        self._clock = clock
        self._otherwise = otherwise
        self._options = options
        self._client: SecretClient | None = None
        self._cache: dict[str, tuple[float, str | None]] = {}

    async def get(self, name: str) -> str | None:
        known = self._cache.get(name)
        if known is None or self._clock.now() >= known[0]:
            value = await self._read(name.replace("_", "-"))
            if len(self._cache) >= CACHED:
                self._cache.clear()
            known = (self._clock.now() + (KEEP_MISS if value is None else KEEP), value)
            self._cache[name] = known
        return await self._otherwise.get(name) if known[1] is None else known[1]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        await self._otherwise.close()

    async def _read(self, name: str) -> str | None:
        from azure.core.exceptions import (
            AzureError,
            ClientAuthenticationError,
            HttpResponseError,
            ResourceNotFoundError,
        )
        from azure.keyvault.secrets.aio import SecretClient

        if not _VAULT_NAME.fullmatch(name):
            return None
        if self._client is None:
            self._client = SecretClient(self._url, self._credential, **self._options)
        try:
            return (await self._client.get_secret(name)).value
        except ResourceNotFoundError:
            return None
        except ClientAuthenticationError as error:
            raise ServerNotConfigured(f"The key vault {self._url} does not accept the app's identity.") from error
        except HttpResponseError as error:
            if error.status_code == 403:
                # Also a secret that is disabled, or not valid at this time.
                raise ServerNotConfigured(
                    f"The key vault {self._url} does not give out the secret {name}: the app's identity needs the role "
                    "Key Vault Secrets User, and the secret must be enabled."
                ) from error
            raise ServerUnavailable(f"The key vault {self._url} answers with HTTP {error.status_code}.") from error
        except AzureError as error:
            raise ServerUnavailable(f"The key vault {self._url} does not answer: {type(error).__name__}.") from error


def open_secrets(url: str | None, credential: AsyncTokenCredential | None, clock: Clock) -> SecretSource:
    """The secrets of an app: of its vault if it has one, and of its environment."""
    environment = EnvironmentSecrets()
    if url is None or credential is None:
        return environment
    return KeyVaultSecrets(url, credential, clock, environment)
