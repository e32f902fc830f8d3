"""Settings of the client of the Foundry Agent Service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aos.config import MLConfig
from aos.ml.errors import ModelSettingError

_AGENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?::[0-9]+)?")


@dataclass(slots=True)
class FoundryAgentServiceConfig:
    """How to reach the service and how its models shall answer.

    `timeout` is the time for one message in seconds, with all its retries; `max_retries` counts tries after the first,
    `retry_delay` is the pause before the first of them and doubles. `temperature` and `top_p` become part of the agents
    that the client makes, `max_tokens` goes with each message.
    """

    endpoint_url: str = ""
    api_key: str = field(default="", repr=False)
    agent_id: str = ""
    model: str = "llama-3.3-70b"
    enable_stateful_threads: bool = True
    enable_entra_agent_id: bool = True
    enable_foundry_tools: bool = True
    timeout: float = 60
    max_retries: int = 3
    retry_delay: float = 1.0
    temperature: float = 0.7
    max_tokens: int = 4096
    top_p: float = 0.9

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> FoundryAgentServiceConfig:
        """Reads the `FOUNDRY_*` settings; `AZURE_AI_PROJECT_ENDPOINT` and `AZURE_AI_API_KEY` stand in for absent ones.

        Raises:
            SettingError: A setting is wrong; the detail names it.
        """
        return cls.from_ml_config(MLConfig.from_env(environment))

    @classmethod
    def from_ml_config(cls, config: MLConfig) -> FoundryAgentServiceConfig:
        """The part of `MLConfig` that concerns Foundry."""
        return cls(
            endpoint_url=config.foundry_agent_service_endpoint or "",
            api_key=config.foundry_agent_service_api_key or "",
            agent_id=config.foundry_agent_id or "",
            model=config.foundry_model,
            enable_stateful_threads=config.foundry_enable_stateful_threads,
            enable_entra_agent_id=config.foundry_enable_entra_agent_id,
            enable_foundry_tools=config.foundry_enable_foundry_tools,
            timeout=config.foundry_timeout,
            max_retries=config.foundry_max_retries,
            retry_delay=config.foundry_retry_delay,
            temperature=config.foundry_temperature,
            max_tokens=config.foundry_max_tokens,
            top_p=config.foundry_top_p,
        )

    @property
    def project_endpoint(self) -> str:
        """The endpoint that the SDK takes; an account's endpoint means its default project, `_project`.

        The rule is that of `azure.ai.projects.AIProjectClient`.
        """
        url = self.endpoint_url.rstrip("/")
        return url if urlsplit(url).path else f"{url}/api/projects/_project"

    def validate(self, *, identity: bool = False) -> None:
        """Checks that the service can be asked with these settings.

        Args:
            identity: Whether there is an Entra identity to sign in with, so that no key is needed.

        Raises:
            ModelSettingError: The detail names the setting.
        """
        if not self.endpoint_url:
            raise ModelSettingError(
                "Foundry Agent Service endpoint URL not configured: set FOUNDRY_AGENT_SERVICE_ENDPOINT to "
                "https://<resource>.services.ai.azure.com/api/projects/<project>."
            )
        parts = urlsplit(self.endpoint_url)
        path = parts.path.rstrip("/")
        known = not path or re.fullmatch(r"/api/projects/[^/]+", path)
        if parts.scheme not in ("http", "https") or not parts.hostname or not known or parts.query:
            raise ModelSettingError(
                "FOUNDRY_AGENT_SERVICE_ENDPOINT is no endpoint of a Foundry project: expected "
                "https://<resource>.services.ai.azure.com/api/projects/<project>."
            )
        if not self.api_key and not identity:
            raise ModelSettingError(
                "Foundry Agent Service API key not configured: set FOUNDRY_AGENT_SERVICE_API_KEY, or give the client "
                "a credential to sign in to Microsoft Entra ID with."
            )
        if self.agent_id and not _AGENT.fullmatch(self.agent_id):
            raise ModelSettingError(
                f"FOUNDRY_AGENT_ID {self.agent_id!r} is no agent's name: 1 to 63 letters, digits and hyphens, and "
                "`:version` if it shall not be the latest."
            )
        for name, value, least, most in (
            ("FOUNDRY_TIMEOUT", self.timeout, 0.001, 3600),
            ("FOUNDRY_TEMPERATURE", self.temperature, 0, 2),
            ("FOUNDRY_TOP_P", self.top_p, 0, 1),
            ("FOUNDRY_MAX_TOKENS", self.max_tokens, 1, 1_000_000),
            ("FOUNDRY_MAX_RETRIES", self.max_retries, 0, 20),
            ("FOUNDRY_RETRY_DELAY", self.retry_delay, 0, 60),
        ):
            if not least <= value <= most:
                raise ModelSettingError(f"{name} is {value}: expected {least} to {most}.")
        if not self.model:
            raise ModelSettingError("FOUNDRY_MODEL is empty: name a deployment of the project, such as llama-3.3-70b.")
