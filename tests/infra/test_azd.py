"""azd finds what it deploys, and every parameter file fits main.bicep."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.infra.bicep import INFRA, MAIN, parse
from tests.publish.staging import ROOT

PARAMETER_FILES = [INFRA / "main.parameters.json", *sorted((INFRA / "parameters").glob("*.json"))]
AZD_ENVIRONMENT = {"AZURE_ENV_NAME", "AZURE_LOCATION", "AZURE_PRINCIPAL_ID", "AZURE_PRINCIPAL_TYPE"}


def test_services_are_tagged_resources() -> None:
    project = yaml.safe_load((ROOT / "azure.yaml").read_text(encoding="utf-8"))
    assert (ROOT / project["infra"]["path"] / f"{project['infra']['module']}.bicep") == MAIN
    tagged = set(re.findall(r"service: '(\w+)'", parse(MAIN).text))
    assert tagged == {"aos", "mcp"}
    # The second app exists only where the roles are split.
    assert set(project["services"]) == {"aos"}
    for service in project["services"].values():
        assert service == {"project": ".", "language": "python", "host": "function"}
    assert "'azd-service-name': app.service" in parse(MAIN).text
    assert "'azd-env-name': environmentName" in parse(MAIN).text


def test_outputs_that_azd_needs() -> None:
    assert {"AZURE_LOCATION", "AZURE_RESOURCE_GROUP", "SERVICE_AOS_NAME"} <= set(parse(MAIN).outputs)


def test_there_is_a_file_for_each_stage() -> None:
    (allowed,) = [d["argument"] for d in parse(MAIN).parameters["stage"]["decorators"] if d["type"] == "allowed"]
    assert {path.stem for path in PARAMETER_FILES[1:]} == set(allowed) == set(parse(MAIN).variables["sizes"])
    sizes = parse(MAIN).variables["sizes"]
    assert len({frozenset(size) for size in sizes.values()}) == 1


@pytest.mark.parametrize("path", PARAMETER_FILES, ids=lambda path: path.name)
def test_parameter_files_fit(path: Path) -> None:
    main = parse(MAIN)
    given = {name: value["value"] for name, value in json.loads(path.read_text(encoding="utf-8"))["parameters"].items()}
    assert main.required <= set(given) <= set(main.parameters)
    for name, value in given.items():
        kind = {str: "string", bool: "bool", list: "array", dict: "object"}[type(value)]
        # azd reads what it substitutes as the parameter's type.
        assert kind == main.parameters[name]["type"] or "${" in str(value), name
        if not isinstance(value, str) or "${" not in value:
            for decorator in main.parameters[name]["decorators"]:
                assert decorator["type"] != "allowed" or value in decorator["argument"]


def test_variables_of_azd_are_known() -> None:
    text = (INFRA / "main.parameters.json").read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+)", text))
    documented = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    for name in names - AZD_ENVIRONMENT:
        assert f"`{name}`" in documented, f"{name} is not explained in docs/deploy.md"
