"""Which settings the code reads, derived from the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from pydantic import AliasChoices

from aos.config import Settings
from aos.config_ml import SETTING_NAMES
from runtime import RuntimeConfig
from tests.publish.staging import ROOT

_NAME = re.compile(r"[A-Z][A-Z0-9]+(?:_[A-Za-z0-9]+)*")
_ENVIRONMENTS = {"environ", "environment", "given", "_environment"}


def product_settings() -> set[str]:
    """Settings of `aos.config.Settings`, each under the name that is documented: the first of its names."""
    return {names[0] for names in _choices()}


def older_names() -> set[str]:
    """Further names under which a setting is accepted; documented nowhere but in the code."""
    return {name for names in _choices() for name in names[1:]}


def model_settings() -> set[str]:
    """Settings of `aos.config.MLConfig`, which `aos.ml` and `aos.orchestration` read."""
    return {names[0] for names in SETTING_NAMES.values()}


def runtime_settings() -> set[str]:
    """Settings of `RuntimeConfig.from_env`."""
    return {name.upper() for name in RuntimeConfig.model_fields}


def read_by_name() -> set[str]:
    """Settings that the code of the product takes from the environment by a name written there."""
    return {
        name
        for folder in ("aos", "runtime")
        for file in (ROOT / folder).rglob("*.py")
        for name in _read(ast.parse(file.read_text(encoding="utf-8")))
    }


def of_the_platform() -> set[str]:
    """What Azure sets and nobody else may."""
    return {"WEBSITE_AUTH_ENABLED", "WEBSITE_SITE_NAME", "AZUREML_MODEL_DIR"}


def of_the_registry() -> set[str]:
    """What the sample registry of MCP servers looks up."""
    return set(re.findall(r"\$\{(\w+)\}", (ROOT / "mcp_server_registry.json").read_text(encoding="utf-8")))


def all_settings() -> set[str]:
    """Everything that an operator can set."""
    named = product_settings() | model_settings() | runtime_settings() | read_by_name() | of_the_registry()
    return named - of_the_platform()


def _choices() -> Iterator[tuple[str, ...]]:
    for name, field in Settings.model_fields.items():
        assert isinstance(field.validation_alias, AliasChoices), f"{name} has no name in the environment"
        yield tuple(str(choice) for choice in field.validation_alias.choices)


def _read(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=source, attr="get" | "getenv"), args=[ast.Constant(value=name), *_]):
                pass
            case ast.Subscript(value=source, slice=ast.Constant(value=name)):
                pass
            case _:
                continue
        called = source.attr if isinstance(source, ast.Attribute) else getattr(source, "id", "")
        if called in {*_ENVIRONMENTS, "os"} and isinstance(name, str) and _NAME.fullmatch(name):
            yield name
