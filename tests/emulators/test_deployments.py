"""The deployments that the Foundry emulator is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulators.deployments import deployment_names
from emulators.errors import BadSetting


def registry(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "agent_registry.json"
    path.write_text(json.dumps(content))
    return path


def test_one_for_each_domain_of_the_registry_besides_the_base_model(tmp_path: Path) -> None:
    agents = [
        {"agent_id": "cfo", "domain_knowledge": {"domain": "finance"}},
        {"agent_id": "controller", "domain_knowledge": {"domain": "finance"}},
        {"agent_id": "broken"},
        "not an agent",
        {"agent_id": "odd", "domain_knowledge": {"domain": "no name"}},
    ]
    path = registry(tmp_path, {"agents": agents})
    assert deployment_names("llama", path) == ["llama", "llama-finance"]
    assert deployment_names("llama", path, "gpt, llama-legal,,gpt") == ["llama", "gpt", "llama-legal", "llama-finance"]


@pytest.mark.parametrize("content", [{}, [], {"agents": "ceo"}])
def test_a_registry_of_another_shape_gives_the_base_model(tmp_path: Path, content: object) -> None:
    assert deployment_names("llama", registry(tmp_path, content)) == ["llama"]
    assert deployment_names("llama", tmp_path / "missing.json") == ["llama"]


def test_what_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="'my model' is no name for a model deployment"):
        deployment_names("my model", tmp_path / "missing.json")
    with pytest.raises(BadSetting, match="'-x' is no name"):
        deployment_names("llama", tmp_path / "missing.json", "a,-x")
