"""Alerts and the workbook look at what there is: entities of the namespace, lines that the code logs."""

from __future__ import annotations

import json
import re

from aos.kernel.types import FINAL
from aos.messaging.envelopes import OWN_ENTITIES, POISON
from tests.infra.bicep import INFRA, parse
from tests.infra.test_entities import QUEUES, TOPICS
from tests.publish.staging import ROOT

ALERTS = parse(INFRA / "modules" / "alerts.bicep")


def test_metric_alerts_watch_entities_that_exist() -> None:
    metrics = {alert["name"]: alert for alert in ALERTS.variables["metrics"]}
    assert metrics["aos-dead-letters"]["entities"] == ["*"]
    assert (ALERTS.variables["poison"], metrics["aos-parked-messages"]["entities"]) == (POISON, ["poison"])
    assert set(metrics["aos-backlog"]["entities"]) == OWN_ENTITIES - {POISON}
    assert set(metrics["aos-backlog"]["entities"]) <= QUEUES | set(TOPICS)
    assert {alert["metric"] for alert in metrics.values()} == {"DeadletteredMessages", "ActiveMessages"}


def test_queries_look_for_lines_that_are_logged() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "aos").rglob("*.py"))
    logged = re.findall(r"log\.(?:info|warning|error|exception)\(\s*\"([^\"]+)\"", code)
    sources = [path.read_text(encoding="utf-8") for path in sorted((INFRA / "queries").iterdir())]
    sources += [item["content"].get("query", "") for item in workbook()["items"]]
    prefixes = [found for source in sources for found in re.findall(r'Message startswith "([^"]+)"', source)]
    assert len(prefixes) == 4
    for prefix in prefixes:
        assert any(line.startswith(prefix) for line in logged), prefix
    for part in [found for source in sources for found in re.findall(r'Message contains "([^"]+)"', source)]:
        assert any(part in line for line in logged), part


def metric_queries() -> dict[str, str]:
    """Queries of alerts and of the workbook that read metrics, by their names."""
    queries = {path.name: path.read_text(encoding="utf-8") for path in sorted((INFRA / "queries").iterdir())}
    queries |= {str(item["name"]): item["content"].get("query", "") for item in workbook()["items"]}
    return {name: query for name, query in queries.items() if "AppMetrics" in query}


def test_queries_look_for_metrics_that_are_recorded() -> None:
    recorded = (ROOT / "aos/telemetry/instruments.py").read_text(encoding="utf-8")
    written = recorded + "".join(
        (ROOT / f"aos/telemetry/{part}.py").read_text("utf-8") for part in ("bus", "observer", "tools")
    )
    queries = metric_queries()
    assert set(queries) == {"failed_turns.kql", "turns", "tokens", "tools", "parked"}
    for query in queries.values():
        (name,) = re.findall(r'Name == "([^"]+)"', query)
        assert f'"{name}"' in recorded, name
        for label in re.findall(r'Properties\["([^"]+)"\]', query):
            assert f'"{label}"' in written, label


def test_failed_turns_are_counted_by_the_metric_of_turns() -> None:
    query = metric_queries()["failed_turns.kql"]
    assert re.findall(r'Name == "([^"]+)"', query) == ["aos.turns"]
    (status,) = re.findall(r'\["aos\.status"\]\) == "(\w+)"', query)
    assert status in FINAL
    searches = {alert["name"]: alert for alert in ALERTS.variables["searches"]}
    # One point stands for all turns since the last export: lines would count points.
    alert = searches["aos-failed-turns"]
    assert (alert["aggregation"], alert["measure"]) == ("Total", "Sum")
    criterion = ALERTS.resource("Microsoft.Insights/scheduledQueryRules").body["properties"]["criteria"]["allOf"][0]
    assert "alert.aggregation" in ALERTS.text
    assert "alert.measure" in ALERTS.text
    assert {"timeAggregation", "metricMeasureColumn"} <= set(criterion)
    assert "AppTraces" not in "".join(
        (INFRA / "queries" / name).read_text("utf-8") for name in re.findall(r"queries/(\w+\.kql)", ALERTS.text)
    )


def test_the_function_whose_silence_is_noticed_exists() -> None:
    query = (INFRA / "queries/silence.kql").read_text(encoding="utf-8")
    (name,) = re.findall(r'Name == "(\w+)"', query)
    assert f'register_timer("{name}"' in (ROOT / "aos/app.py").read_text(encoding="utf-8")


def test_every_query_is_used() -> None:
    assert set(re.findall(r"queries/(\w+\.kql)", ALERTS.text)) == {path.name for path in (INFRA / "queries").iterdir()}


def test_alerts_tell_somebody() -> None:
    for resource in ALERTS.resources:
        if resource.type.endswith(("metricAlerts", "scheduledQueryRules")):
            assert "operators" in json.dumps(resource.body["properties"]["actions"])
            assert resource.body["properties"]["enabled"] is True


def workbook() -> dict[str, list[dict[str, dict[str, str]]]]:
    found: dict[str, list[dict[str, dict[str, str]]]] = json.loads((INFRA / "workbook.json").read_text("utf-8"))
    return found


def test_every_part_of_the_workbook_has_a_name_of_its_own() -> None:
    names = [str(item["name"]) for item in workbook()["items"]]
    assert len(names) == len(set(names))
