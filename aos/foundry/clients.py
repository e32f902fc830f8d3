"""The SDK clients of a Foundry project: built once per process, when first used (40 ms and a slow import)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aos.config import Settings
from aos.errors import SettingError

if TYPE_CHECKING:
    from azure.ai.agents.aio import AgentsClient
    from azure.ai.projects.aio import AIProjectClient
    from azure.core.credentials import AzureKeyCredential
    from azure.core.credentials_async import AsyncTokenCredential
    from openai import AsyncOpenAI


class FoundryClients:
    """The project client, its OpenAI client, and the client of the older generation (assistants, threads, runs).

    Args:
        settings: With the project endpoint, and an API key if there is one.
        credential: The app's identity; used when there is no key.
    """

    def __init__(self, settings: Settings, credential: AsyncTokenCredential | None = None) -> None:
        self._settings = settings
        self._credential = credential
        self._project: AIProjectClient | None = None
        self._openai: AsyncOpenAI | None = None
        self._agents: AgentsClient | None = None

    @property
    def project(self) -> AIProjectClient:
        """Management of agents and deployments.

        Raises:
            SettingError: There is no endpoint, or nothing to sign in with.
        """
        if self._project is None:
            from azure.ai.projects.aio import AIProjectClient

            endpoint, credential, options = self._connection()
            self._project = AIProjectClient(
                endpoint,
                credential,  # type: ignore[arg-type]  # a key goes into a header by a policy of ours
                **options,
            )
        return self._project

    @property
    def openai(self) -> AsyncOpenAI:
        """Conversations and responses. It never retries by itself: a repeated model step must be a decision."""
        if self._openai is None:
            key = self._settings.project_api_key
            if key:
                self._openai = self.project.get_openai_client(api_key=key, max_retries=0)
            else:
                self._openai = self.project.get_openai_client(max_retries=0)
        return self._openai

    @property
    def agents(self) -> AgentsClient:
        """Assistants, threads and runs.

        Raises:
            SettingError: There is no endpoint, or nothing to sign in with.
        """
        if self._agents is None:
            from azure.ai.agents.aio import AgentsClient

            endpoint, credential, options = self._connection()
            self._agents = AgentsClient(
                endpoint,
                credential,  # type: ignore[arg-type]  # as above
                **options,
            )
        return self._agents

    def _connection(self) -> tuple[str, AzureKeyCredential | AsyncTokenCredential, dict[str, Any]]:
        """Endpoint, credential and options that the clients of azure-core take."""
        from azure.core.credentials import AzureKeyCredential
        from azure.core.pipeline.policies import HeadersPolicy

        endpoint, key = self._settings.project_endpoint, self._settings.project_api_key
        if not endpoint:
            raise SettingError(
                "AZURE_AI_PROJECT_ENDPOINT not configured: set it to "
                "https://<resource>.services.ai.azure.com/api/projects/<project>."
            )
        # Retries only where no answer came: azure-core waits as long as `Retry-After` says, be it hours.
        options: dict[str, Any] = {
            "retry_total": 2,
            "retry_status": 0,
            "connection_timeout": 5,
            "read_timeout": 30,
        }
        if key:
            # The SDKs' own policy for keys is absent: the service takes the header.
            return (
                endpoint,
                AzureKeyCredential(key),
                options | {"authentication_policy": HeadersPolicy({"api-key": key})},
            )
        if self._credential is None:
            raise SettingError("AZURE_AI_API_KEY is not set and there is no identity to sign in to Foundry with.")
        return endpoint, self._credential, options

    async def close(self) -> None:
        if self._agents is not None:
            await self._agents.close()
        if self._openai is not None:
            await self._openai.close()
        if self._project is not None:
            await self._project.close()
        self._openai = self._project = self._agents = None
