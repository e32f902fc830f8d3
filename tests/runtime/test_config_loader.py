from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Optional

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from runtime import AuthLevel, RuntimeConfig, RuntimeConfigError, load_runtime_config


def test_defaults_are_those_of_the_documented_schema() -> None:
    assert RuntimeConfig().model_dump(mode="json") == {
        "app_name": "MyApp",
        "app_version": "1.0.0",
        "app_environment": "production",
        "azure_functions_enabled": True,
        "auth_level": "FUNCTION",
        "agent_framework_enabled": False,
        "aos_enabled": True,
        "storage_type": "blob",
        "messaging_type": "servicebus",
        "observability_enabled": True,
        "log_level": "INFO",
        "circuit_breaker_enabled": True,
        "retry_enabled": True,
        "max_retries": 3,
        "custom_config": {},
    }


def test_from_env_reads_upper_case_names_and_ignores_blanks() -> None:
    config = RuntimeConfig.from_env(
        {
            "APP_NAME": "Shop",
            "AUTH_LEVEL": "anonymous",
            "RETRY_ENABLED": "false",
            "MAX_RETRIES": "7",
            "LOG_LEVEL": " ",
            "CUSTOM_CONFIG": '{"a": [1]}',
            "PATH": "/bin",
        }
    )
    assert config.app_name == "Shop"
    assert config.auth_level is AuthLevel.ANONYMOUS
    assert config.retry_enabled is False
    assert config.max_retries == 7
    assert config.log_level == "INFO"
    assert config.custom_config == {"a": [1]}


def test_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_NAME", "FromProcess")
    assert RuntimeConfig.from_env().app_name == "FromProcess"


def test_precedence_is_dict_environment_file_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"app_name": "f", "app_version": "f", "max_retries": 1, "custom_config": {"a": 1, "b": 1}})
    )
    environ = {"APP_VERSION": "e", "MAX_RETRIES": "2", "CUSTOM_CONFIG": '{"b": 2, "c": 2}'}
    config = load_runtime_config(file, {"max_retries": 3, "custom_config": {"c": 3}}, environ)
    assert (config.app_name, config.app_version, config.max_retries) == ("f", "e", 3)
    assert config.custom_config == {"a": 1, "b": 2, "c": 3}
    assert config.log_level == "INFO"
    assert RuntimeConfig.from_json(file).app_version == "f"


def test_faults_name_every_key_and_its_source(tmp_path: Path) -> None:
    with pytest.raises(RuntimeConfigError) as caught:
        RuntimeConfig.from_dict({"max_retries": "many", "colour": "red"})
    assert set(caught.value.faults) == {"configuration: max_retries", "configuration: colour"}
    with pytest.raises(RuntimeConfigError, match="environment: MAX_RETRIES: Input should be a valid integer"):
        RuntimeConfig.from_env({"MAX_RETRIES": "many"})
    with pytest.raises(RuntimeConfigError, match="environment: CUSTOM_CONFIG: is not JSON"):
        RuntimeConfig.from_env({"CUSTOM_CONFIG": "{"})
    file = tmp_path / "config.json"
    with pytest.raises(RuntimeConfigError, match=r"config\.json: cannot be read"):
        RuntimeConfig.from_json(file)
    file.write_text("[]")
    with pytest.raises(RuntimeConfigError, match="must hold a JSON object, not list"):
        RuntimeConfig.from_json(file)
    file.write_text("{")
    with pytest.raises(RuntimeConfigError, match="is not JSON"):
        RuntimeConfig.from_json(file)
    file.write_text('{"log_level": "LOUD"}')
    with pytest.raises(RuntimeConfigError, match=r"config\.json: log_level"):
        load_runtime_config(file, environ={})


def test_keywords_are_validated_and_the_result_is_frozen() -> None:
    config = RuntimeConfig(app_name="MyApp", custom_config={"my_setting": "value", "another_setting": 123})
    assert config.custom_config["another_setting"] == 123
    with pytest.raises(ValidationError, match="auth_level"):
        RuntimeConfig(auth_level="ROOT")
    with pytest.raises(ValidationError, match="frozen"):
        config.app_name = "Other"  # type: ignore[misc]  # the mistake under test


def test_subclasses_add_settings() -> None:
    class ShopConfig(RuntimeConfig):
        shop_tags: list[str] = Field(default_factory=list)
        shop_limit: int = 1

    config = ShopConfig.from_env({"SHOP_TAGS": '["a"]', "SHOP_LIMIT": "5"})
    assert (config.shop_tags, config.shop_limit) == (["a"], 5)


class Limits(BaseModel):
    calls: int = 1


class ManyConfig(RuntimeConfig):
    bare: dict = Field(default_factory=dict)  # type: ignore[type-arg]  # what users write
    optional: Optional[dict[str, int]] = None  # noqa: UP045 - the older way to write it is used, too
    union: list[int] | None = None
    text_too: list[int] | str = ""
    number_too: dict[str, int] | int = 0
    text: str | None = None
    many: frozenset[str] = frozenset()
    pair: tuple[int, ...] = ()
    mapping: Mapping[str, int] = Field(default_factory=dict)
    limits: Limits = Limits()
    annotated: Annotated[list[int], Field(max_length=3)] | None = None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("bare", '{"a": 1}', {"a": 1}),
        ("optional", '{"a": 1}', {"a": 1}),
        ("optional", "null", None),
        ("union", "[1]", [1]),
        ("text_too", "[1]", [1]),
        ("text_too", "[not JSON", "[not JSON"),
        ("text_too", "5", "5"),
        ("number_too", '{"a": 1}', {"a": 1}),
        ("number_too", "5", 5),
        ("text", "[1]", "[1]"),
        ("many", '["a", "a"]', frozenset({"a"})),
        ("pair", "[1, 2]", (1, 2)),
        ("mapping", '{"a": 1}', {"a": 1}),
        ("limits", '{"calls": 2}', Limits(calls=2)),
        ("annotated", "[1]", [1]),
    ],
)
def test_from_env_reads_json_where_a_setting_takes_objects_or_lists(name: str, text: str, value: object) -> None:
    assert getattr(ManyConfig.from_env({name.upper(): text}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("bare", "{a: 1}", "is not JSON: Expecting property name"),
        ("optional", "{a: 1}", "is not JSON: Expecting property name"),
        ("union", "1, 2", "is not JSON: Extra data"),
        ("union", "[" * 100_000, "is not JSON: maximum recursion depth"),
        ("optional", "[1]", "Input should be a valid dictionary"),
        ("limits", "2", "Input should be a valid dictionary"),
    ],
)
def test_from_env_names_the_variable_that_is_malformed(name: str, text: str, fault: str) -> None:
    with pytest.raises(RuntimeConfigError) as caught:
        ManyConfig.from_env({name.upper(): text})
    (where, why), *others = caught.value.faults.items()
    assert where == f"environment: {name.upper()}"
    assert why.startswith(fault)
    assert not others


def test_what_a_subclass_finds_wrong_with_the_whole_is_told() -> None:
    class ShopConfig(RuntimeConfig):
        shop_url: str = ""

        @model_validator(mode="after")
        def _reachable(self) -> ShopConfig:
            if self.app_environment == "production" and not self.shop_url:
                raise ValueError("production needs shop_url")
            return self

    with pytest.raises(RuntimeConfigError, match="configuration: Value error, production needs shop_url"):
        ShopConfig.load(environ={})
