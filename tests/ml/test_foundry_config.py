from __future__ import annotations

import dataclasses

import pytest

from aos.config import MLConfig
from aos.errors import SettingError
from aos.ml import FoundryAgentServiceConfig, ModelSettingError


def test_defaults() -> None:
    assert dataclasses.asdict(FoundryAgentServiceConfig()) == {
        "endpoint_url": "",
        "api_key": "",
        "agent_id": "",
        "model": "llama-3.3-70b",
        "enable_stateful_threads": True,
        "enable_entra_agent_id": True,
        "enable_foundry_tools": True,
        "timeout": 60,
        "max_retries": 3,
        "retry_delay": 1.0,
        "temperature": 0.7,
        "max_tokens": 4096,
        "top_p": 0.9,
    }
    assert FoundryAgentServiceConfig.from_env({}) == FoundryAgentServiceConfig()


def test_every_field_has_its_setting() -> None:
    config = FoundryAgentServiceConfig.from_env(
        {
            "FOUNDRY_AGENT_SERVICE_ENDPOINT": "https://x.services.ai.azure.com",
            "FOUNDRY_AGENT_SERVICE_API_KEY": "k",
            "FOUNDRY_AGENT_ID": "analyst",
            "FOUNDRY_MODEL": "m",
            "FOUNDRY_ENABLE_STATEFUL_THREADS": "false",
            "FOUNDRY_ENABLE_ENTRA_AGENT_ID": "False",
            "FOUNDRY_ENABLE_FOUNDRY_TOOLS": "0",
            "FOUNDRY_TIMEOUT": "90",
            "FOUNDRY_TEMPERATURE": "0.1",
            "FOUNDRY_MAX_TOKENS": "7",
            "FOUNDRY_TOP_P": "0.5",
            "FOUNDRY_MAX_RETRIES": "5",
            "FOUNDRY_RETRY_DELAY": "2",
        }
    )
    assert dataclasses.astuple(config) == (
        *("https://x.services.ai.azure.com", "k", "analyst", "m", False, False, False),
        *(90, 5, 2.0, 0.1, 7, 0.5),
    )
    assert "k" not in repr(FoundryAgentServiceConfig(api_key="k")).replace("api_key", "").split("'")


def test_the_settings_of_the_app_stand_in() -> None:
    config = FoundryAgentServiceConfig.from_env(
        {"AZURE_AI_PROJECT_ENDPOINT": "https://a/api/projects/p", "AZURE_AI_API_KEY": "k", "FOUNDRY_MODEL": ""}
    )
    assert (config.endpoint_url, config.api_key, config.model) == ("https://a/api/projects/p", "k", "llama-3.3-70b")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://r.services.ai.azure.com", "https://r.services.ai.azure.com/api/projects/_project"),
        ("https://r.services.ai.azure.com/", "https://r.services.ai.azure.com/api/projects/_project"),
        ("https://r.services.ai.azure.com/api/projects/p/", "https://r.services.ai.azure.com/api/projects/p"),
    ],
)
def test_endpoints(url: str, endpoint: str) -> None:
    config = FoundryAgentServiceConfig(endpoint_url=url, api_key="k")
    config.validate()
    assert config.project_endpoint == endpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint_url": ""}, "Foundry Agent Service endpoint URL not configured"),
        ({"api_key": ""}, "Foundry Agent Service API key not configured"),
        ({"endpoint_url": "ftp://x"}, "FOUNDRY_AGENT_SERVICE_ENDPOINT"),
        ({"endpoint_url": "https://x/openai/v1"}, "FOUNDRY_AGENT_SERVICE_ENDPOINT"),
        ({"agent_id": "not an agent"}, "FOUNDRY_AGENT_ID"),
        ({"temperature": 3}, "FOUNDRY_TEMPERATURE is 3"),
        ({"max_tokens": 0}, "FOUNDRY_MAX_TOKENS is 0"),
        ({"timeout": 0}, "FOUNDRY_TIMEOUT"),
        ({"model": ""}, "FOUNDRY_MODEL"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], message: str) -> None:
    config = dataclasses.replace(FoundryAgentServiceConfig("https://x", "k"), **change)  # type: ignore[arg-type]
    with pytest.raises(ModelSettingError, match=message) as error:
        config.validate()
    assert isinstance(error.value, ValueError)


def test_an_identity_replaces_the_key() -> None:
    FoundryAgentServiceConfig("https://x").validate(identity=True)


def test_a_wrong_setting_is_named_without_its_value() -> None:
    with pytest.raises(SettingError, match="FOUNDRY_TIMEOUT: ") as error:
        MLConfig.from_env({"FOUNDRY_TIMEOUT": "s3cret"})
    assert "s3cret" not in error.value.detail


def test_azure_ml_endpoints_by_domain() -> None:
    config = MLConfig.from_env(
        {
            "MLENDPOINTURL": "https://all/score",
            "MLENDPOINTKEY": "a",
            "AML_CFO_SCORING_URI": "https://cfo/score",
            "AML_CFO_KEY": "b",
        }
    )
    assert {name: (e.scoring_uri, e.key) for name, e in config.azure_ml_endpoints.items()} == {
        "": ("https://all/score", "a"),
        "cfo": ("https://cfo/score", "b"),
    }
    with pytest.raises(SettingError, match=r"azure_ml_endpoints\.cfo\.scoring_uri"):
        MLConfig.from_env({"AML_CFO_SCORING_URI": "cfo"})
