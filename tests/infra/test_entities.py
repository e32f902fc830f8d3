"""What the code uses in Service Bus and in storage is created, as the emulator creates it."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from aos.app import routes
from aos.config import load_settings
from aos.messaging.envelopes import OWN_ENTITIES
from runtime.routes import TopicRoute
from tests.infra.bicep import INFRA, MAIN, parse
from tests.publish.staging import ROOT

BUS = parse(INFRA / "modules" / "servicebus.bicep")
STORAGE = parse(INFRA / "modules" / "storage.bicep")
QUEUES = {*BUS.variables["queues"], *parse(MAIN).parameters["replyQueues"]["default"]}
TOPICS = {topic["name"]: topic["subscription"] for topic in BUS.variables["topics"]}


def emulated() -> dict[str, Any]:
    text = (ROOT / "emulators/servicebus/default_entities.json").read_text(encoding="utf-8")
    (namespace,) = json.loads(text)["UserConfig"]["Namespaces"]
    found: dict[str, Any] = namespace
    return found


def properties(kind: str) -> dict[str, Any]:
    """Of a resource of Service Bus, under the names of the emulator's configuration."""
    body = BUS.resource(f"Microsoft.ServiceBus/namespaces/{kind}").body["properties"]
    return {name[0].upper() + name[1:]: value for name, value in body.items()}


def test_the_code_s_entities_are_created() -> None:
    assert QUEUES | set(TOPICS) >= OWN_ENTITIES
    # Nothing but those and the queues that take replies.
    assert QUEUES | set(TOPICS) == OWN_ENTITIES | set(parse(MAIN).parameters["replyQueues"]["default"])


def test_every_trigger_has_its_entity() -> None:
    for route in routes(load_settings({"AOS_ROLES": "agents,mcp"})).bus_routes:
        if isinstance(route, TopicRoute):
            assert TOPICS.get(route.topic) == route.subscription
        else:
            assert route.queue in QUEUES


def test_queues_are_those_of_the_emulator() -> None:
    wanted = properties("queues")
    assert {queue["Name"]: queue["Properties"] for queue in emulated()["Queues"]} == dict.fromkeys(QUEUES, wanted)


def test_topics_are_those_of_the_emulator() -> None:
    wanted, subscription = properties("topics"), properties("topics/subscriptions")
    # The one property that a parameter decides; the emulator has its default.
    assert subscription.pop("RequiresSession") is not None
    sessions = {topic["name"]: topic["sessions"] for topic in BUS.variables["topics"]}
    assert sessions == {"agent-events": "eventsSessions", "mcp-requests": False, "mcp-responses": False}
    assert parse(MAIN).parameters["eventsSessions"]["default"] is False
    for topic in emulated()["Topics"]:
        assert topic["Properties"] == wanted
        (found,) = topic["Subscriptions"]
        assert (found["Name"], found["Rules"]) == (TOPICS[topic["Name"]], [])
        assert found["Properties"] == {**subscription, "RequiresSession": False}
    assert {topic["Name"] for topic in emulated()["Topics"]} == set(TOPICS)


def test_containers_of_the_code_are_created() -> None:
    settings = load_settings({})
    wanted = {settings.agent_container, settings.mcp_container}
    for file in (ROOT / "aos").rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named = re.fullmatch(r"(?:[A-Z]+_)?CONTAINER", node.targets[0].id)
                if named and isinstance(node.value, ast.Constant):
                    wanted.add(str(node.value.value))
    assert {"aos-payloads", "aos-state"} <= wanted
    assert set(STORAGE.variables["containers"]) == wanted


def test_versions_of_every_kind_of_blob_are_removed() -> None:
    rules = STORAGE.resource("Microsoft.Storage/storageAccounts/managementPolicies").body["properties"]["policy"][
        "rules"
    ]
    (rule,) = [rule for rule in rules if rule["name"] == "old-versions"]
    # A conversation that was deleted is a previous version from then on: `aos.custom.history` keeps append blobs.
    assert set(rule["definition"]["filters"]["blobTypes"]) == {"blockBlob", "appendBlob"}
    assert "prefixMatch" not in rule["definition"]["filters"]


def test_values_on_their_way_are_removed_after_a_week() -> None:
    rules = STORAGE.resource("Microsoft.Storage/storageAccounts/managementPolicies").body["properties"]["policy"][
        "rules"
    ]
    (rule,) = [rule for rule in rules if rule["name"] == "payloads"]
    assert rule["definition"]["filters"]["prefixMatch"] == ["aos-payloads/"]
    assert str(rule["definition"]["actions"]["baseBlob"]["delete"]["daysAfterModificationGreaterThan"]) == "7"
