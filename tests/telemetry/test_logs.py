"""The log of `aos serve`: its level is a setting."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from aos.__main__ import cli


@pytest.mark.parametrize("level", ["LOUD", "20", "notset"])
def test_a_level_that_does_not_exist_is_said_in_one_sentence(level: str) -> None:
    result = CliRunner(env={"AOS_LOG_LEVEL": level}).invoke(cli, ["serve"])
    assert result.exit_code == 2
    assert result.output == (
        f"AOS_LOG_LEVEL: there is no level {level.upper()!r}; use one of DEBUG, INFO, WARNING, ERROR, CRITICAL.\n"
    )
