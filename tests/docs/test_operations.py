"""`docs/operations.md` names what there is: alerts, commands, settings, periods."""

from __future__ import annotations

import re

from tests.infra.bicep import INFRA, MAIN, parse
from tests.publish.staging import ROOT

TEXT = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def test_every_alert_is_explained_and_exists() -> None:
    variables = parse(INFRA / "modules" / "alerts.bicep").variables
    there = {alert["name"] for alert in (*variables["metrics"], *variables["searches"])}
    assert set(re.findall(r"^\| `(aos-[a-z-]+)` \|", TEXT, re.M)) == there


def test_commands_exist() -> None:
    import typer.main

    from aos.__main__ import cli

    commands = typer.main.get_command(cli)
    for line in set(re.findall(r"python -m aos ([a-z -]+[a-z])", TEXT)):
        group: object = commands
        for word in line.split(" --")[0].split():
            group = group.commands[word]  # type: ignore[attr-defined]  # a group of commands


def test_periods_are_those_of_the_stages() -> None:
    sizes = parse(MAIN).variables["sizes"]
    assert {str(sizes[stage]["retentionDays"]) for stage in ("dev", "test")} == {"30"}
    assert (str(sizes["prod"]["retentionDays"]), str(sizes["prod"]["softDeleteDays"])) == ("90", "30")
    assert "| telemetry | 30 days, `prod` 90 |" in TEXT
    assert "soft delete 7 days, `prod` 30" in TEXT


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / "docs" / link).is_file(), link
