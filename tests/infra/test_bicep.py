"""Every Bicep file parses, and what can be checked without the compiler holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.infra.bicep import FILES, INFRA, MAIN, Bicep, called, is_key, parse, unknown_symbols, words

API_VERSIONS = {
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.CognitiveServices/accounts": "2025-06-01",
    "Microsoft.CognitiveServices/accounts/deployments": "2025-06-01",
    "Microsoft.CognitiveServices/accounts/projects": "2025-06-01",
    "Microsoft.Insights/actionGroups": "2023-01-01",
    "Microsoft.Insights/components": "2020-02-02",
    "Microsoft.Insights/metricAlerts": "2018-03-01",
    "Microsoft.Insights/scheduledQueryRules": "2023-12-01",
    "Microsoft.Insights/workbooks": "2023-06-01",
    "Microsoft.KeyVault/vaults": "2024-11-01",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "2024-11-30",
    "Microsoft.OperationalInsights/workspaces": "2025-07-01",
    "Microsoft.Resources/resourceGroups": "2024-03-01",
    "Microsoft.ServiceBus/namespaces": "2024-01-01",
    "Microsoft.ServiceBus/namespaces/queues": "2024-01-01",
    "Microsoft.ServiceBus/namespaces/topics": "2024-01-01",
    "Microsoft.ServiceBus/namespaces/topics/subscriptions": "2024-01-01",
    "Microsoft.Storage/storageAccounts": "2025-06-01",
    "Microsoft.Storage/storageAccounts/blobServices": "2025-06-01",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "2025-06-01",
    "Microsoft.Storage/storageAccounts/managementPolicies": "2025-06-01",
    "Microsoft.Web/serverfarms": "2025-03-01",
    "Microsoft.Web/sites": "2025-03-01",
    "Microsoft.Web/sites/config": "2025-03-01",
}
"""The one version of each type: published in Azure/bicep-types-az, and used by Microsoft's own modules or samples."""

FUNCTIONS = {
    *("concat", "empty", "guid", "loadJsonContent", "loadTextContent", "map", "resourceGroup", "string"),
    *("subscription", "subscriptionResourceId", "toLower", "toObject", "union", "environment", "uniqueString"),
}
DECORATORS = {"@allowed", "@batchSize", "@description", "@maxLength", "@metadata", "@minLength"}


@pytest.fixture(params=FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def file(request: pytest.FixtureRequest) -> Bicep:
    return parse(request.param)


def test_there_is_something_to_check() -> None:
    assert MAIN in FILES
    assert len(FILES) == len(parse(MAIN).modules) + 1


def test_a_mistake_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.bicep"
    wrong.write_text("param a string\nvar b = '${a}-${c}'\nvar d = map([a], x => x.y)\nvar e = f(d, b)\n")
    assert unknown_symbols(parse(wrong)) == {"c"}
    assert called(parse(wrong)) == {"map", "f"}
    broken = tmp_path / "broken.bicep"
    broken.write_text("resource x 'a@1' = {\n")
    with pytest.raises(Exception, match="Unexpected"):
        parse(broken)


def test_every_name_is_declared_and_every_function_exists(file: Bicep) -> None:
    assert unknown_symbols(file) == set()
    assert called(file) <= FUNCTIONS | DECORATORS


def test_everything_that_is_declared_is_used(file: Bicep) -> None:
    used = {
        word for word, before, after in words(file.text) if before not in ("param", "var") and not is_key(before, after)
    }
    assert {*file.parameters, *file.variables} - used == set()


def test_one_api_version_for_each_type(file: Bicep) -> None:
    for resource in file.resources:
        assert resource.api_version == API_VERSIONS.get(resource.type), resource.type


def test_no_api_version_without_use() -> None:
    used = {resource.type for path in FILES for resource in parse(path).resources}
    assert set(API_VERSIONS) == used


def test_modules_are_called_with_their_parameters() -> None:
    main = parse(MAIN)
    assert {module.file for module in main.modules} == set(FILES) - {MAIN}
    for module in main.modules:
        callee = parse(module.file)
        given = set(module.given)
        assert callee.required <= given, f"{module.symbol} lacks {callee.required - given}"
        assert given <= set(callee.parameters), f"{module.symbol} has no {given - set(callee.parameters)}"


def test_outputs_of_modules_exist_and_are_used() -> None:
    main = parse(MAIN)
    used = set(re.findall(r"(\w+)\.outputs\.(\w+)", main.text))
    there = {(module.symbol, name) for module in main.modules for name in parse(module.file).outputs}
    assert used == there


def test_files_that_are_loaded_exist(file: Bicep) -> None:
    for kind, name in re.findall(r"load(Json|Text)Content\('([^']+)'\)", file.text):
        content = (file.path.parent / name).read_text(encoding="utf-8")
        assert content.strip()
        if kind == "Json" or name.endswith(".json"):
            json.loads(content)


def test_parameters_of_main_are_described() -> None:
    for name, declared in parse(MAIN).parameters.items():
        kinds = {decorator["type"] for decorator in declared["decorators"]}
        assert "description" in kinds, name


# --- no keys


def test_nothing_reads_a_key(file: Bicep) -> None:
    assert re.search(r"\blist\w*\(|AccountKey=|SharedAccess|listKeys|primaryKey|getSecret", file.text, re.I) is None


def test_outputs_hold_no_secret() -> None:
    for name, value in parse(MAIN).outputs.items():
        assert re.search(r"key\b|secret|password|connectionstring", f"{name} {value}", re.I) is None, name


def test_local_sign_in_is_off() -> None:
    def properties(module: str, kind: str) -> dict[str, object]:
        found: dict[str, object] = parse(INFRA / "modules" / module).resource(kind).body["properties"]
        return found

    storage = properties("storage.bicep", "Microsoft.Storage/storageAccounts")
    assert (storage["allowSharedKeyAccess"], storage["allowBlobPublicAccess"]) == (False, False)
    assert properties("servicebus.bicep", "Microsoft.ServiceBus/namespaces")["disableLocalAuth"] is True
    assert properties("foundry.bicep", "Microsoft.CognitiveServices/accounts")["disableLocalAuth"] is True
    assert properties("monitoring.bicep", "Microsoft.Insights/components")["DisableLocalAuth"] is True
    assert properties("keyvault.bicep", "Microsoft.KeyVault/vaults")["enableRbacAuthorization"] is True


def test_deployments_are_made_one_at_a_time() -> None:
    foundry = parse(INFRA / "modules" / "foundry.bicep")
    decorators = foundry.tree["resources"]["deployment"]["decorators"]
    assert [(decorator["type"], str(decorator["argument"])) for decorator in decorators] == [("batchSize", "1")]
    # Nor beside the project, which is a write to the same account.
    assert foundry.resource("Microsoft.CognitiveServices/accounts/deployments").body["dependsOn"] == ["project"]
