"""`${NAME}` in the entries of MCP servers: secrets that the registry names but does not hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from aos.config import is_reference
from aos.mcp.errors import ServerNotConfigured
from aos.registry.mcp_servers import REFERENCE

FORBIDDEN = (
    "AZURE_",
    "AOS_",
    "AZUREWEBJOBS",
    "FOUNDRY_",
    # Other names of the Service Bus connection, and what the platform gives the app to prove its identity.
    "AZURESERVICEBUS",
    "SERVICE_BUS_",
    "IDENTITY_",
    "MSI_",
    "WEBSITE_",
)
"""Beginnings of the names that no entry may ask for: the app's own keys are not for its tools."""

SHORTEST_MASKED = 4
"""Characters of a secret from which on it is masked in the log; shorter ones would mask ordinary words."""


class SecretSource(Protocol):
    async def get(self, name: str) -> str | None:
        """The secret of this name, None if there is none.

        Raises:
            ServerNotConfigured: It may not be read.
            ServerUnavailable: It cannot be looked up now.
        """
        ...

    async def close(self) -> None: ...


class EnvironmentSecrets:
    """Secrets from the environment; in Azure an app setting may itself be a Key Vault reference."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment

    async def get(self, name: str) -> str | None:
        return self._environment.get(name)

    async def close(self) -> None:
        return


@dataclass(frozen=True, slots=True, repr=False)
class Resolved:
    """Values with their references replaced.

    Attributes:
        secrets: What was put in, to be masked wherever it might be shown.
    """

    values: Mapping[str, str]
    secrets: frozenset[str]

    def mask(self, text: str) -> str:
        """The text without the secrets."""
        # One may be a part of another, of which the rest would stay.
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def mask_begun(self, text: str) -> tuple[str, str]:
        """Of a text that goes on: as much of it as can be shown, without the secrets, and the rest, in which one may
        have begun."""
        longest_first = sorted(self.secrets, key=len, reverse=True)
        if not longest_first:
            return text, ""
        sure, at, shown = max(0, len(text) - len(longest_first[0]) + 1), 0, ""
        for found in re.finditer("|".join(map(re.escape, longest_first)), text):
            if found.start() >= sure:
                break
            shown += text[at : found.start()] + "***"
            at = found.end()
        end = max(at, sure)
        return shown + text[at:end], text[end:]


async def resolve(values: Mapping[str, str], source: SecretSource, where: str) -> Resolved:
    """Replaces every `${NAME}` in the values; other text, also a lone `$`, stays as it is.

    Args:
        where: What the values belong to, for the error: `env of MCP server crm`.

    Raises:
        ServerNotConfigured: Names every reference that is missing, not resolved or not allowed; never a value.
    """
    names = sorted({name for value in values.values() for name in REFERENCE.findall(value)})
    _refuse([name for name in names if _own(name)], f"{where}: not allowed to ask for")
    found = {name: await source.get(name) for name in names}
    _refuse(
        [name for name, secret in found.items() if secret is None],
        f"{where}: neither in the key vault (AOS_KEY_VAULT_URL) nor set in the environment or as an app setting:",
    )
    secrets = {name: secret for name, secret in found.items() if secret is not None}
    _refuse(
        [name for name, secret in secrets.items() if is_reference(secret)],
        f"{where}: the reference to Key Vault was not resolved (the secret must exist, and the app's identity needs "
        "the role Key Vault Secrets User; then restart the app) of",
    )
    return Resolved(
        {key: REFERENCE.sub(lambda match: secrets[match[1]], value) for key, value in values.items()},
        # A log has lines: of a key of several, no line may be shown either.
        frozenset(
            part
            for secret in secrets.values()
            for part in (secret, *secret.splitlines())
            if len(part.strip()) >= SHORTEST_MASKED
        ),
    )


def _own(name: str) -> bool:
    """Whether the app's own keys have such names. In a vault, which has no underscores, `aos-admin-key` is one."""
    return name.upper().replace("-", "_").startswith(FORBIDDEN)


def _refuse(names: Iterable[str], why: str) -> None:
    listed = ", ".join(f"${{{name}}}" for name in names)
    if listed:
        raise ServerNotConfigured(f"{why} {listed}.")
