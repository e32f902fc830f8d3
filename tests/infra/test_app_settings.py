"""The app settings of the function app: all that Azure needs, nothing that Flex Consumption refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from aos.config import load_settings
from aos.errors import SettingError
from tests.infra.bicep import INFRA, parse
from tests.publish import code_settings
from tests.publish.test_settings import VALUES

FUNCTION = parse(INFRA / "modules" / "function.bicep")

DEFAULT_IN_AZURE = {
    "AOS_APP_NAME": "aos",
    "AOS_DEPLOYMENT_FALLBACK": "off: an agent without its deployment says so",
    "FOUNDRY_THREADS_AFTER_RETIREMENT": "off",
    "AOS_MODEL_ENDPOINT": "only for the custom runtime",
    "AOS_MODEL_API_KEY": "only for the custom runtime; a secret of Key Vault",
    "AZURE_AI_API_KEY": "the identity signs in",
    "AZURE_STORAGE_CONNECTION_STRING": "the identity signs in",
    "AZURE_STORAGE_CONNECTION_STRING__accountName": "the service URIs are given, which also fit other clouds",
    "AZURE_SERVICE_BUS_CONNECTION_STRING": "the identity signs in",
    "AOS_ADMIN_KEY": "a secret of Key Vault: secretSettings",
    "AOS_FUNCTION_KEY": "of `aos serve`; on Functions the host has keys",
    "AOS_HOST": "of `aos serve`",
    "AOS_PORT": "of `aos serve`",
    "AOS_ADAPTERS_DIR": "of `aos adapters`, on a machine with GPUs",
    "AOS_BASE_MODEL": "of `aos adapters`",
    "AOS_KEYS": "a secret of Key Vault: secretSettings",
    "AOS_ENTRA_ISSUERS": "whose tokens are accepted is decided by who runs the app: docs/security.md",
    "AOS_ENTRA_AUDIENCES": "as AOS_ENTRA_ISSUERS",
    "AOS_SHARED_CONTAINERS": "aos-shared",
    "STORAGE_SERVICE_ENDPOINT": "the app's own account",
    "AOS_FUNCTION_OUTPUT_QUEUES": "none: output queues are looked into while a call waits",
    "AOS_MCP_PRIVATE_NETWORKS": "off: MCP servers lie at public addresses",
    "AOS_CONTEXT_TOKENS": "fits llama-3.3-70b",
    "AOS_AGENT_BACKLOG": "10,000",
    "AOS_LEASE_SECONDS": "30",
    "AOS_SWEEP_SECONDS": "10",
    "AOS_TELEMETRY": "for local work",
    "AOS_LOG_FORMAT": "of `aos serve`",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "telemetry goes to Application Insights",
    "AOS_LOG_LEVEL": "of `aos serve`; on Functions host.json has the levels",
}
"""Settings that a function app in Azure does without, and why."""

PLATFORM = {
    *(f"AzureWebJobsStorage__{name}" for name in ("credential", "clientId")),
    *(f"AzureWebJobsStorage__{name}ServiceUri" for name in ("blob", "queue", "table")),
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    # The worker sends telemetry itself; AOS makes the spans of the bus, not the SDKs of Azure once more.
    *("PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"),
    # Read by the trigger's extension; the code takes AZURE_CLIENT_ID.
    *(f"AZURE_SERVICE_BUS_CONNECTION_STRING__{name}" for name in ("credential", "clientId")),
    *(f"AZURE_STORAGE_CONNECTION_STRING__{name}" for name in ("credential", "clientId")),
}

REFUSED = {
    *("FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_WORKER_RUNTIME_VERSION", "FUNCTIONS_EXTENSION_VERSION"),
    *("FUNCTIONS_MAX_HTTP_CONCURRENCY", "FUNCTIONS_WORKER_PROCESS_COUNT"),
    *("FUNCTIONS_WORKER_DYNAMIC_CONCURRENCY_ENABLED", "SCM_DO_BUILD_DURING_DEPLOYMENT", "ENABLE_ORYX_BUILD"),
    *("WEBSITE_RUN_FROM_PACKAGE", "WEBSITE_CONTENTSHARE", "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING"),
    *("WEBSITE_CONTENTOVERVNET", "WEBSITE_VNET_ROUTE_ALL", "WEBSITE_DNS_SERVER", "WEBSITE_MOUNT_ENABLED"),
    *("WEBSITE_MAX_DYNAMIC_APPLICATION_SCALE_OUT", "WEBSITE_SKIP_CONTENTSHARE_VALIDATION"),
    *("WEBSITE_TIME_ZONE", "TZ", "WEBSITE_AUTH_ENABLED", "AzureWebJobsStorage"),
}
"""Deprecated or fixed on Flex Consumption, or (the last two) forged or keyed where an identity belongs."""


def settings() -> dict[str, Any]:
    properties = FUNCTION.resource("Microsoft.Web/sites/config").body["properties"]
    given: dict[str, Any] = properties["function"]["parameters"]["arg_2"]
    return given


def test_every_setting_is_set_or_decided_against() -> None:
    product = code_settings.product_settings() | {"AOS_LOG_LEVEL"}
    assert product - set(settings()) == set(DEFAULT_IN_AZURE)


def test_what_is_set_is_read() -> None:
    assert set(settings()) - code_settings.product_settings() == PLATFORM


def test_models_outside_of_agents_have_defaults() -> None:
    # `aos.ml` and `aos.orchestration` are libraries for apps of their own; what they need stands in their own settings.
    assert code_settings.model_settings() - set(settings()) <= set(VALUES)


def test_the_platform_accepts_them() -> None:
    assert set(settings()) & REFUSED == set()


def test_a_secret_cannot_take_the_place_of_a_setting() -> None:
    # union: the later one wins.
    parameters = FUNCTION.resource("Microsoft.Web/sites/config").body["properties"]["function"]["parameters"]
    assert parameters["arg_1"] == "secrets"
    assert re.search(r"'@Microsoft\.KeyVault\(VaultName=\$\{vaultName\};SecretName=", FUNCTION.text)
    assert FUNCTION.resource("Microsoft.Web/sites").body["properties"]["keyVaultReferenceIdentity"] == "identityId"


def test_settings_of_the_operator_outlast_a_deployment() -> None:
    # Azure replaces all settings at once: what is not given here is gone.
    parameters = FUNCTION.resource("Microsoft.Web/sites/config").body["properties"]["function"]["parameters"]
    assert parameters["arg_3"] == "appSettings"
    main = parse(INFRA / "main.bicep").text
    assert "param appSettings object = {}" in main
    assert "    appSettings: appSettings\n" in main
    given = json.loads((INFRA / "main.parameters.json").read_text(encoding="utf-8"))["parameters"]
    assert given["appSettings"] == {"value": {}}


def test_containers_are_those_of_the_storage_module() -> None:
    created = parse(INFRA / "modules" / "storage.bicep").variables["containers"]
    assert settings()["AGENT_CONFIG_BLOB_CONTAINER"] in created
    assert settings()["MCP_REGISTRY_BLOB_CONTAINER"] in created


def test_no_container_of_the_account_may_be_shared() -> None:
    created = parse(INFRA / "modules" / "storage.bicep").variables["containers"]
    packages = re.findall(r"package: '([^']+)'", parse(INFRA / "main.bicep").text)
    assert packages
    for name in (*created, *packages, "azure-webjobs-secrets", "azure-webjobs-hosts"):
        with pytest.raises(SettingError, match=f"AOS_SHARED_CONTAINERS.* {name}"):
            load_settings({"AOS_SHARED_CONTAINERS": f"mine,{name}"})


def test_the_plan_is_flex_consumption_and_the_package_is_read_with_the_identity() -> None:
    plan = FUNCTION.resource("Microsoft.Web/serverfarms").body
    assert plan["sku"] == {"name": "FC1", "tier": "FlexConsumption"}
    assert plan["properties"]["reserved"] is True
    site = FUNCTION.resource("Microsoft.Web/sites").body
    assert site["kind"] == "functionapp,linux"
    assert site["identity"]["type"] == "UserAssigned"
    package = site["properties"]["functionAppConfig"]["deployment"]["storage"]
    assert package["authentication"]["type"] == "UserAssignedIdentity"


def test_an_instance_takes_several_requests_at_once() -> None:
    # Without a number Flex Consumption gives an instance of a Python app one HTTP request at a time.
    scale = FUNCTION.resource("Microsoft.Web/sites").body["properties"]["functionAppConfig"]["scaleAndConcurrency"]
    assert scale["triggers"]["http"]["perInstanceConcurrency"] == "httpConcurrency"
    host = json.loads((INFRA.parent / "host.json").read_text(encoding="utf-8"))
    for size in parse(INFRA / "main.bicep").variables["sizes"].values():
        assert int(size["httpConcurrency"]) == host["extensions"]["serviceBus"]["maxConcurrentCalls"]
