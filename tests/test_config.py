from __future__ import annotations

import pytest

from aos.config import Settings, load_settings
from aos.errors import SettingError

NAMES = (
    "AZURE_SERVICE_BUS_CONNECTION_STRING",
    "AZURE_SERVICEBUS_CONNECTION_STRING",
    "SERVICE_BUS_CONNECTION_STRING",
    "AzureServiceBusConnectionString",
)
STORAGE = "AZURE_STORAGE_CONNECTION_STRING"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any setting of AOS."""
    for field in Settings.model_fields.values():
        for name in getattr(field.validation_alias, "choices", ()):
            monkeypatch.delenv(str(name), raising=False)


def test_without_settings() -> None:
    settings = load_settings()
    assert settings.roles == {"agents", "mcp"}
    assert (settings.app_name, settings.port) == ("aos", 7071)
    assert (settings.foundry_api, settings.model_deployment) == ("responses", "llama-3.3-70b")
    assert settings.use_foundry
    assert not settings.storage_configured
    assert not settings.bus_configured


@pytest.mark.parametrize("name", NAMES)
def test_the_bus_has_older_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "Endpoint=sb://x")
    settings = load_settings()
    assert settings.service_bus == "Endpoint=sb://x"
    assert settings.bus_configured


def test_the_first_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in reversed(NAMES):
        monkeypatch.setenv(name, name)
        assert load_settings().service_bus == name


@pytest.mark.parametrize("given", NAMES)
@pytest.mark.parametrize("there", NAMES)
def test_a_value_that_is_given_wins_under_any_name(monkeypatch: pytest.MonkeyPatch, given: str, there: str) -> None:
    monkeypatch.setenv(there, "environment")
    assert load_settings({given: "given"}).service_bus == "given"


def test_names_in_any_case_and_empty_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("aos_port", "7072")
    monkeypatch.setenv("AOS_HOST", "")
    settings = load_settings()
    assert (settings.port, settings.host) == (7072, "127.0.0.1")


@pytest.mark.parametrize(
    ("values", "configured"),
    [
        ({STORAGE: "AccountName=a;AccountKey=b"}, True),
        ({f"{STORAGE}__accountName": "a"}, True),
        ({f"{STORAGE}__blobServiceUri": "https://a", f"{STORAGE}__tableServiceUri": "https://b"}, True),
        ({f"{STORAGE}__blobServiceUri": "https://a"}, False),
        ({}, False),
    ],
)
def test_storage_in_both_forms(values: dict[str, str], configured: bool) -> None:
    settings = load_settings(values)
    assert settings.storage_configured is configured


def test_the_bus_in_both_forms() -> None:
    settings = load_settings({f"{NAMES[0]}__fullyQualifiedNamespace": "a.servicebus.windows.net"})
    assert (settings.service_bus, settings.service_bus_namespace) == (None, "a.servicebus.windows.net")
    assert settings.bus_configured


def test_an_identity_is_needed_unless_all_have_keys() -> None:
    keys = {STORAGE: "a", NAMES[0]: "b", "AZURE_AI_API_KEY": "c"}
    assert not load_settings(keys).needs_identity
    for name in keys:
        assert load_settings({key: value for key, value in keys.items() if key != name}).needs_identity


@pytest.mark.parametrize(
    ("value", "roles"),
    [("agents", {"agents"}), ("mcp", {"mcp"}), (" agents , mcp ,", {"agents", "mcp"}), ("mcp,mcp", {"mcp"})],
)
def test_roles(value: str, roles: set[str]) -> None:
    assert load_settings({"AOS_ROLES": value}).roles == roles


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AOS_PORT", "hunter2"),
        ("AOS_PORT", "65536"),
        ("AOS_PORT", "-1"),
        ("AOS_ROLES", "agents,hunter2"),
        ("AOS_ROLES", ","),
        ("FOUNDRY_API", "hunter2"),
        ("USE_FOUNDRY_RUNTIME", "hunter2"),
        ("AOS_EVENTS_SESSIONS", "hunter2"),
        ("AZURE_AI_PROJECT_ENDPOINT", "https://hunter2.example"),
        ("AOS_APP_NAME", "hunter2 "),
        ("AOS_APP_NAME", "a" * 33),
    ],
)
def test_a_bad_value_names_its_setting_and_stays_secret(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=name) as refused:
        load_settings()
    assert "hunter2" not in refused.value.detail
    assert refused.value.__cause__ is None


def test_every_bad_value_is_named() -> None:
    with pytest.raises(SettingError, match=r"AOS_PORT.*FOUNDRY_API|FOUNDRY_API.*AOS_PORT"):
        load_settings({"AOS_PORT": "x", "FOUNDRY_API": "y"})


def test_secrets_are_not_shown() -> None:
    names = (STORAGE, NAMES[0], "AZURE_AI_API_KEY", "AOS_FUNCTION_KEY", "AOS_ADMIN_KEY")
    settings = load_settings(dict.fromkeys(names, "hunter2"))
    assert settings.admin_key == "hunter2"
    assert "hunter2" not in f"{settings} {settings!r}"


def test_how_soon_the_work_of_a_dead_process_is_taken_up() -> None:
    settings = load_settings({"AOS_LEASE_SECONDS": "3", "AOS_SWEEP_SECONDS": "1"})
    assert (settings.lease_seconds, settings.sweep_seconds) == (3.0, 1)
    with pytest.raises(SettingError, match="AOS_LEASE_SECONDS"):
        load_settings({"AOS_LEASE_SECONDS": "0"})


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("PROJECT_ENDPOINT_ENT", "https://a.services.ai.azure.com/api/projects/p", "project_endpoint"),
        ("MODEL_DEPLOYMENT_NAME", "gpt-4o", "model_deployment"),
        ("STORAGE_SERVICE_ENDPOINT", "https://books.queue.core.windows.net", "function_endpoint"),
        ("STORAGE_SERVICE_ENDPONT", "https://books.queue.core.windows.net", "function_endpoint"),
    ],
)
def test_names_of_samples_for_function_tools(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == value


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://books.queue.core.windows.net/",
        "https://books.z12.queue.storage.azure.net",
        "https://books.queue.core.chinacloudapi.cn",
        "http://127.0.0.1:10001/devstoreaccount1",
        "http://localhost:10001/devstoreaccount1",
        "http://[::1]:10001/devstoreaccount1",
    ],
)
def test_queue_services(endpoint: str) -> None:
    assert load_settings({"STORAGE_SERVICE_ENDPOINT": endpoint}).function_endpoint == endpoint.rstrip("/")


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://books.queue.core.windows.net", "must begin with https://"),
        ("books.queue.core.windows.net", "must begin with https://"),
        ("https://books.blob.core.windows.net", "must be a queue service"),
        ("https://books.queue.core.windows.net/some-queue", "must be a queue service"),
        ("https://books.queue.core.windows.net?sig=x", "without a signature"),
        ("https://me:pw@books.queue.core.windows.net", "without a signature"),
        ("http://10.0.0.1:10001/devstoreaccount1", "must begin with https://"),
    ],
)
def test_what_is_no_queue_service(endpoint: str, why: str) -> None:
    with pytest.raises(SettingError, match=f"STORAGE_SERVICE_ENDPOINT.*{why}") as raised:
        load_settings({"STORAGE_SERVICE_ENDPOINT": endpoint})
    assert "sig=x" not in str(raised.value)
    assert "pw" not in str(raised.value)


def test_a_queue_service_of_another_account_needs_the_identity() -> None:
    keyed = {STORAGE: "x", NAMES[0]: "x", "AZURE_AI_API_KEY": "x"}
    assert not load_settings(keyed).needs_identity
    assert load_settings(keyed | {"STORAGE_SERVICE_ENDPOINT": "https://b.queue.core.windows.net"}).needs_identity
    assert not load_settings(keyed | {"STORAGE_SERVICE_ENDPOINT": "http://127.0.0.1:1/a"}).needs_identity


def test_output_queues_with_a_trigger() -> None:
    settings = load_settings({"AOS_FUNCTION_OUTPUT_QUEUES": "one-output, two-output"})
    assert settings.function_output_queues == ("one-output", "two-output")
    with pytest.raises(SettingError, match="AOS_FUNCTION_OUTPUT_QUEUES"):
        load_settings({"AOS_FUNCTION_OUTPUT_QUEUES": "Not_A_Queue"})
    with pytest.raises(SettingError, match="AOS_FUNCTION_OUTPUT_QUEUES"):
        load_settings({"AOS_FUNCTION_OUTPUT_QUEUES": "q" * 57})
