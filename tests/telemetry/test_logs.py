"""The log of `aos serve`: its level is a setting."""

from __future__ import annotations

import logging

import pytest
from typer.testing import CliRunner

from aos.__main__ import cli
from aos.telemetry.logs import log_to_stderr


@pytest.mark.parametrize("level", ["LOUD", "20", "notset"])
def test_a_level_that_does_not_exist_is_said_in_one_sentence(level: str) -> None:
    result = CliRunner(env={"AOS_LOG_LEVEL": level}).invoke(cli, ["serve"])
    assert result.exit_code == 2
    assert result.output == (
        f"AOS_LOG_LEVEL: there is no level {level.upper()!r}; use one of DEBUG, INFO, WARNING, ERROR, CRITICAL.\n"
    )


@pytest.mark.parametrize(("level", "meant"), [("warn", logging.WARNING), ("FATAL", logging.CRITICAL), (" info", 20)])
def test_the_names_that_python_has_for_levels_are_taken(
    monkeypatch: pytest.MonkeyPatch, level: str, meant: int
) -> None:
    root = logging.RootLogger(logging.NOTSET)
    monkeypatch.setattr(logging, "root", root)
    log_to_stderr(level, "text")
    assert root.level == meant
