"""The identity that the app signs in with where a service has no connection string or key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.config import Settings

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential


def identity(settings: Settings) -> AsyncTokenCredential:
    """The managed identity, or whatever else is signed in; `AZURE_CLIENT_ID` picks a user-assigned one."""
    from azure.identity.aio import DefaultAzureCredential

    if settings.client_id:
        return DefaultAzureCredential(managed_identity_client_id=settings.client_id)
    return DefaultAzureCredential()
