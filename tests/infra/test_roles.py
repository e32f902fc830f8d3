"""Role assignments: known roles, each needed by something that the code does."""

from __future__ import annotations

import json
import re

from tests.infra.bicep import FILES, INFRA, parse
from tests.publish.staging import ROOT

BUILT_IN = {
    "53ca6127-db72-4b80-b1b0-d745d6d5456d": "Azure AI User",
    "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": "Key Vault Secrets Officer",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": "Service Bus Data Receiver",
    "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": "Service Bus Data Sender",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
}
"""Microsoft's built-in roles by id."""

SDKS = {
    "azure.storage.blob": "Storage Blob Data Owner",
    "azure.storage.queue": "Storage Queue Data Contributor",
    "azure.data.tables": "Storage Table Data Contributor",
    "azure.servicebus": "Service Bus Data Sender",
    "azure.ai.projects": "Azure AI User",
}
"""What the app does with an SDK needs this role."""

ROLES = parse(INFRA / "modules" / "roles.bicep")


def assignments(principal: str) -> dict[tuple[str, str], str]:
    """Scope and role of everything that a principal is given, with the assignment's symbol."""
    found = {}
    for resource in ROLES.resources:
        if resource.type != "Microsoft.Authorization/roleAssignments":
            continue
        body = resource.body
        if body["properties"]["principalId"] == principal:
            (role,) = set(re.findall(r"roles\['([^']+)'\]", _source(resource.symbol)))
            found[body["scope"], role] = resource.symbol
    return found


def _source(symbol: str) -> str:
    return ROLES.text.split(f"resource {symbol} ", 1)[1].split("\n}\n", 1)[0]


def test_the_table_holds_built_in_roles_and_all_are_used() -> None:
    table: dict[str, str] = json.loads((INFRA / "roles.json").read_text(encoding="utf-8"))
    assert {number: name for name, number in table.items()} == BUILT_IN
    given = {role for who in ("appPrincipalId", "operatorPrincipalId") for _, role in assignments(who)}
    assert given == set(table)


def test_roles_are_given_in_one_place_and_by_name() -> None:
    for path in FILES:
        file = parse(path)
        if file is not ROLES:
            assert all(resource.type != "Microsoft.Authorization/roleAssignments" for resource in file.resources)
        assert re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", file.text) is None


def test_the_app_has_what_it_needs_and_no_more() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "aos").rglob("*.py"))
    needed = {role for sdk, role in SDKS.items() if f"from {sdk}" in code}
    platform = {"Service Bus Data Receiver", "Key Vault Secrets User", "Monitoring Metrics Publisher"}
    assert {role for _, role in assignments("appPrincipalId")} == needed | platform


def test_every_assignment_is_named_by_scope_principal_and_role() -> None:
    for resource in ROLES.resources:
        if resource.type == "Microsoft.Authorization/roleAssignments":
            source = _source(resource.symbol)
            scope, principal = resource.body["scope"], resource.body["properties"]["principalId"]
            assert f"name: guid({scope}.id, {principal}, roles['" in source
            assert len(set(re.findall(r"roles\['([^']+)'\]", source))) == 1
    # Who is not named gets nothing.
    assert ROLES.text.count("= if (operated) {") == len(assignments("operatorPrincipalId"))


def test_nobody_may_administer() -> None:
    table = json.loads((INFRA / "roles.json").read_text(encoding="utf-8"))
    assert {"Owner", "Contributor", "Service Bus Data Owner", "Key Vault Administrator"} & set(table) == set()
