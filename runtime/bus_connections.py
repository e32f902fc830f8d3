"""Service Bus clients by the name of their setting, as Azure Functions bindings name them.

A setting `NAME` holds a connection string; or `NAME__fullyQualifiedNamespace` holds a host name such as
`example.servicebus.windows.net`, reached with the identity of the process (`NAME__clientId` picks a user-assigned one).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.routes import is_setting_reference

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential
    from azure.servicebus.aio import ServiceBusClient


class NotConfigured(Exception):
    """A setting that a bus route needs is missing or unusable; the message names it."""


class BusConnections:
    """Makes each client once, on first use, and closes them all."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._clients: dict[str, ServiceBusClient] = {}
        self._credentials: list[DefaultAzureCredential] = []

    def client(self, name: str) -> ServiceBusClient:
        """The client of the setting `name`. Raises `NotConfigured`."""
        if name not in self._clients:
            self._clients[name] = self._connect(name)
        return self._clients[name]

    def resolve(self, text: str) -> str:
        """`text`, or the setting that it refers to as `%NAME%`. Raises `NotConfigured`."""
        if not is_setting_reference(text):
            return text
        value = self._settings.get(text.strip("%"), "").strip()
        if not value:
            raise NotConfigured(f"the setting {text.strip('%')} is not set")
        return value

    async def close(self) -> None:
        """Close every client and credential."""
        clients, self._clients = self._clients, {}
        credentials, self._credentials = self._credentials, []
        for client in clients.values():
            await client.close()
        for credential in credentials:
            await credential.close()

    def _connect(self, name: str) -> ServiceBusClient:
        from azure.servicebus.aio import ServiceBusClient

        # No retries inside the SDK: it would reopen the link under a receiver whose messages are still being handled,
        # and settle those by the delivery numbers of the old link. The consumer opens a new receiver instead.
        connection_string = self._settings.get(name, "").strip()
        if connection_string:
            try:
                return ServiceBusClient.from_connection_string(connection_string, retry_total=0)
            except ValueError as error:
                raise NotConfigured(f"the setting {name} is not a Service Bus connection string: {error}") from None
        namespace = self._settings.get(f"{name}__fullyQualifiedNamespace", "").strip()
        if not namespace:
            raise NotConfigured(f"neither {name} nor {name}__fullyQualifiedNamespace is set")
        from azure.identity.aio import DefaultAzureCredential

        client_id = self._settings.get(f"{name}__clientId", "").strip()
        credential = DefaultAzureCredential(**({"managed_identity_client_id": client_id} if client_id else {}))
        self._credentials.append(credential)
        return ServiceBusClient(namespace, credential, retry_total=0)
