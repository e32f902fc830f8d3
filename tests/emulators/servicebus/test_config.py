"""The configuration file of Microsoft's emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulators.servicebus import ConfigError, load_entities
from emulators.servicebus.entities import CorrelationFilter, QueueOptions
from tests.emulators.servicebus.wire import Json, layout


def rule(**properties: object) -> Json:
    return {"Subscriptions": [{"Name": "s", "Rules": [{"Name": "r", "Properties": properties}]}]}


def test_the_entities_that_come_along() -> None:
    entities = load_entities()
    expected = QueueOptions(
        lock_ms=60_000, max_delivery_count=10, dead_letter_on_expiration=True, default_ttl_ms=14 * 86_400_000
    )
    assert {queue.name: queue.options for queue in entities.queues} == dict.fromkeys(
        (
            "agent-commands",
            "mcp-server-commands",
            "aos-requests",
            "aos-poison",
            "agent-responses",
            "businessinfinity-responses",
        ),
        expected,
    )
    assert {topic.name: [item.name for item in topic.subscriptions] for topic in entities.topics} == {
        "agent-events": ["realm-agents"],
        "mcp-requests": ["mcp-servers"],
        "mcp-responses": ["realm-agents"],
    }
    assert all(item.options == expected for topic in entities.topics for item in topic.subscriptions)


def test_every_property_is_understood() -> None:
    properties = {
        "LockDuration": "PT30S",
        "MaxDeliveryCount": 3,
        "RequiresSession": True,
        "RequiresDuplicateDetection": True,
        "DuplicateDetectionHistoryTimeWindow": "PT20S",
        "DefaultMessageTimeToLive": "P1DT2H3M4.5S",
        "DeadLetteringOnMessageExpiration": True,
        "ForwardTo": "",
        "ForwardDeadLetteredMessagesTo": "",
    }
    (queue,) = load_entities(layout({"q": properties})).queues
    assert queue.options == QueueOptions(30_000, 3, True, True, 93_784_500, 20_000)


def test_rules() -> None:
    conditions = {"Label": "l", "MessageId": "m", "SessionId": "s", "Properties": {"n": 1}}
    (topic,) = load_entities(layout(topics={"t": rule(FilterType="Correlation", CorrelationFilter=conditions)})).topics
    expected = CorrelationFilter({"subject": "l", "message_id": "m", "group_id": "s"}, {"n": 1})
    assert topic.subscriptions[0].filters == (expected,)
    (topic,) = load_entities(layout(topics={"t": rule(FilterType="True")})).topics
    assert topic.subscriptions[0].filters == ()


QUEUE = "$.UserConfig.Namespaces[0].Queues[0]"
RULE = "$.UserConfig.Namespaces[0].Topics[0].Subscriptions[0].Rules[0].Properties"


@pytest.mark.parametrize(
    ("document", "path", "text"),
    [
        ({}, "$.UserConfig", "Field required"),
        ({"UserConfig": {"Namespaces": []}}, "$.UserConfig.Namespaces", "at least 1"),
        (layout({"q": {"LockDuration": "PT0.5S"}}), f"{QUEUE}.Properties.LockDuration", "between 1 s and 300 s"),
        (layout({"q": {"LockDuration": "PT6M"}}), f"{QUEUE}.Properties.LockDuration", "between 1 s and 300 s"),
        (layout({"q": {"LockDuration": "1 minute"}}), f"{QUEUE}.Properties.LockDuration", "ISO 8601"),
        (layout({"q": {"LockDuration": 60}}), f"{QUEUE}.Properties.LockDuration", "ISO 8601"),
        (layout({"q": {"DefaultMessageTimeToLive": "P"}}), f"{QUEUE}.Properties.DefaultMessageTimeToLive", "ISO 8601"),
        (layout({"q": {"MaxDeliveryCount": 0}}), f"{QUEUE}.Properties.MaxDeliveryCount", "greater than or equal to 1"),
        (layout({"q": {"MaxDeliveryCount": "3"}}), f"{QUEUE}.Properties.MaxDeliveryCount", "integer"),
        (layout({"q": {"LockDurations": "PT1M"}}), f"{QUEUE}.Properties.LockDurations", "not permitted"),
        (layout({"q": {"ForwardTo": "x"}}), f"{QUEUE}.Properties.ForwardTo", "auto-forwarding is not emulated"),
        (layout({"": {}}), f"{QUEUE}.Name", "at least 1 character"),
        (layout({"a b": {}}), f"{QUEUE}.Name", "pattern"),
        (layout({"q": {}, "Q": {}}), "$.UserConfig.Namespaces[0]", "'Q' is there twice"),
        (layout({"q": {}}, {"q": {}}), "$.UserConfig.Namespaces[0]", "'q' is there twice"),
        (layout(topics={"t": rule(FilterType="Sql", SqlFilter={"SqlExpression": "1=1"})}), RULE, "SQL filters are not"),
        (
            layout(topics={"t": rule(FilterType="True", Action={"SqlExpression": "x"})}),
            RULE,
            "actions are not emulated",
        ),
        (layout(topics={"t": rule(FilterType="Correlation")}), RULE, "belongs to FilterType Correlation"),
        (
            layout(topics={"t": rule(FilterType="Correlation", CorrelationFilter={})}),
            f"{RULE}.CorrelationFilter",
            "names no property",
        ),
    ],
)
def test_errors_name_the_place(document: Json, path: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_entities(document)
    assert f"configuration: {path}: " in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_entities(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_entities(tmp_path / "none.json")
