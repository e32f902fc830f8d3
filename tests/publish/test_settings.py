"""`local.settings.json.example` names every setting that the code reads, and nothing else."""

from __future__ import annotations

import json
import re

import pytest

from aos.config import MLConfig, Settings, load_settings
from runtime import RuntimeConfig
from tests.publish import code_settings
from tests.publish.staging import ROOT

PLATFORM = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"}
"""Read by the Functions host."""

TEXT = (ROOT / "local.settings.json.example").read_text(encoding="utf-8")
VALUES: dict[str, str] = json.loads(TEXT)["Values"]


def test_no_setting_stands_there_twice() -> None:
    # Readers differ in which of two counts, and some refuse both.
    names = re.findall(r'^ +"([^"]+)":', TEXT, flags=re.MULTILINE)
    assert sorted(set(names)) == sorted(names)


def test_every_setting_of_the_code_is_there() -> None:
    assert code_settings.all_settings() - set(VALUES) == set()


def test_nothing_is_there_that_no_code_reads() -> None:
    assert set(VALUES) - code_settings.all_settings() == PLATFORM


def test_settings_that_the_code_reads_are_found() -> None:
    # The collection must not become empty unnoticed.
    assert {"AOS_ROLES", "AZURE_STORAGE_CONNECTION_STRING__accountName"} <= code_settings.product_settings()
    assert {"MLENDPOINTURL", "AOS_LOG_LEVEL"} <= code_settings.read_by_name()
    assert "AZURE_SERVICEBUS_CONNECTION_STRING" in code_settings.older_names()


def test_the_values_are_strings_and_hold_no_secret() -> None:
    assert all(isinstance(value, str) for value in VALUES.values())
    secret = {name for name in VALUES if name.endswith(("KEY", "CONNECTION_STRING"))}
    assert {name for name in secret if VALUES[name]} == set()


def test_what_is_filled_in_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VALUES:
        monkeypatch.delenv(name, raising=False)
    # An empty value in the environment is none.
    defaults, filled = load_settings(), load_settings({name: value for name, value in VALUES.items() if value})
    assert filled.project_endpoint == VALUES["AZURE_AI_PROJECT_ENDPOINT"]
    same = set(Settings.model_fields) - {"project_endpoint"}
    assert filled.model_dump(include=same) == defaults.model_dump(include=same)
    assert RuntimeConfig.from_env(VALUES) == RuntimeConfig()
    unset = {"foundry_agent_service_endpoint"}
    assert MLConfig.from_env(VALUES).model_dump(exclude=unset) == MLConfig().model_dump(exclude=unset)
