from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from aos.config import load_settings
from aos.errors import SettingError
from aos.foundry.clients import FoundryClients
from aos.foundry.connect import connect_foundry
from aos.foundry.deployments import Deployments
from aos.foundry.provisioning import scope_of
from aos.foundry.responses import ResponsesAdapter
from aos.foundry.threads import ThreadsAdapter
from aos.kernel.ports import FoundryPort

ENDPOINT = "https://x.services.ai.azure.com/api/projects/p"


class On:
    """A clock that stands on a day."""

    def __init__(self, day: str) -> None:
        self.time = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def connect(day: str, **more: str) -> FoundryPort:
    settings = load_settings({"AZURE_AI_PROJECT_ENDPOINT": ENDPOINT, "AZURE_AI_API_KEY": "k", **more})
    clients = FoundryClients(settings)
    return connect_foundry(settings, clients, Deployments(clients), None, On(day))


def test_the_current_generation_is_the_default_and_has_no_end(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(connect("2030-01-01"), ResponsesAdapter)
    assert caplog.records == []


@pytest.mark.parametrize(("day", "left"), [("2026-11-21", 130), ("2027-03-31T23:59:59", 0)])
def test_threads_warn_when_they_end(caplog: pytest.LogCaptureFixture, day: str, left: int) -> None:
    assert isinstance(connect(day, FOUNDRY_API="threads"), ThreadsAdapter)
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"retires on 2027-03-31, in {left} days" in warning.message


def test_threads_are_refused_after_their_end() -> None:
    with pytest.raises(SettingError, match=r"2027-03-31.*FOUNDRY_API=responses.*FOUNDRY_THREADS_AFTER_RETIREMENT"):
        connect("2027-04-01", FOUNDRY_API="threads")


def test_threads_after_their_end_are_a_decision(caplog: pytest.LogCaptureFixture) -> None:
    forced = connect("2027-04-01", FOUNDRY_API="threads", FOUNDRY_THREADS_AFTER_RETIREMENT="true")
    assert isinstance(forced, ThreadsAdapter)
    assert "retired on 2027-03-31" in caplog.text


def test_what_was_made_is_remembered_per_generation_app_and_project() -> None:
    base = {"AZURE_AI_PROJECT_ENDPOINT": ENDPOINT}
    others = (
        base,
        base | {"FOUNDRY_API": "threads"},
        base | {"AOS_APP_NAME": "second"},
        {"AZURE_AI_PROJECT_ENDPOINT": ENDPOINT + "2"},
    )
    assert len({scope_of(load_settings(values)) for values in others}) == 4
    assert scope_of(load_settings({"AZURE_AI_PROJECT_ENDPOINT": ENDPOINT + "/"})) == scope_of(load_settings(base))
