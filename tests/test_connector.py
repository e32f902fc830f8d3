"""The definition for custom connectors: OpenAPI 2.0, small, with what front ends need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV2SpecValidator
from typer.testing import CliRunner

from aos.__main__ import cli
from aos.connector import OPERATIONS

HOST = "aos-example.azurewebsites.net"


def definition(*options: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["connector", HOST, *options])
    assert result.exit_code == 0, result.output
    assert len(result.output) < 1_000_000
    made: dict[str, Any] = json.loads(result.output)
    return made


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return definition()


def test_it_is_a_valid_definition_of_the_older_version(made: dict[str, Any]) -> None:
    OpenAPIV2SpecValidator(made).validate()
    assert (made["swagger"], made["host"], made["basePath"], made["schemes"]) == ("2.0", HOST, "/api", ["https"])
    text = json.dumps(made)
    for missing in ("anyOf", "oneOf", "#/components", '"null"', '"const"', "text/event-stream", "$defs"):
        assert missing not in text, missing


def test_it_holds_what_front_ends_need_and_nothing_else(made: dict[str, Any]) -> None:
    operations = {each["operationId"]: each for item in made["paths"].values() for each in item.values()}
    assert operations.keys() == set(OPERATIONS)
    assert all(operation["summary"] for operation in operations.values())
    ask = {parameter["name"]: parameter for parameter in operations["ask"]["parameters"]}
    assert ask["agent_id"]["in"] == "path"
    assert (ask["prefer"]["in"], ask["prefer"]["type"]) == ("header", "string")
    body = made["definitions"][ask["body"]["schema"]["$ref"].removeprefix("#/definitions/")]
    assert body["required"] == ["message"]
    assert body["properties"]["conversation_id"]["type"] == "string"
    assert operations["ask"]["responses"]["202"]["schema"] == operations["ask"]["responses"]["200"]["schema"]


def test_there_is_one_way_to_sign_in(made: dict[str, Any]) -> None:
    assert list(made["securityDefinitions"].values()) == [{"type": "apiKey", "in": "header", "name": "x-functions-key"}]
    (entra,) = definition("--tenant", "contoso.example")["securityDefinitions"].values()
    assert (entra["type"], entra["flow"]) == ("oauth2", "accessCode")
    assert "/contoso.example/" in entra["tokenUrl"]


@pytest.mark.parametrize("host", ["https://aos-example.azurewebsites.net", f"{HOST}/api", "two words", "", f"{HOST}:"])
def test_a_host_is_a_name_alone(host: str) -> None:
    result = CliRunner().invoke(cli, ["connector", host])
    assert result.exit_code == 2
    assert "is no host" in result.output
